"""Images larger than the network takes at once: tiles, windows, receptive fields, memory."""
