"""Evaluation of a model on labelled images at full size: numbers, costs and pictures."""
