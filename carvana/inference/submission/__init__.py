"""The competition's table of masks."""
