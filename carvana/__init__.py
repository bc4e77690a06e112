"""From a photo to a full-size mask."""
