"""Image and mask files: the one place that opens them."""

from carvana.data.io import rle as rle

__all__ = ["rle"]
