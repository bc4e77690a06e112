"""How good a model's masks are on labelled photos, at full size, as numbers and as pictures."""
