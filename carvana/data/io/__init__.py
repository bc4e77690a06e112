"""Image and mask files: the one place that opens them."""
