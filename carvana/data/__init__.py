"""Photos and masks: reading, finding, splitting, augmenting, drawing."""
