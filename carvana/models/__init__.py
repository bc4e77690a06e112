"""Architectures: names, networks, and the Segmenter that wraps them."""
