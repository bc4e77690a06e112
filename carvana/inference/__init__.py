"""From an image of any size to its mask: one by one, or whole folders with reading, network and writing overlapped."""
