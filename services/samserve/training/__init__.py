"""Training of nano: photos and drawn scenes in, a bundle out."""
