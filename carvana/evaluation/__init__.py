"""How good a model's masks are on labelled images, at full size, as numbers and as pictures."""
