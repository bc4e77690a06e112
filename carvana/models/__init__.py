"""Architectures: names, networks, and the Segmenter that all of them stand behind."""
