"""Masks at the image's size, and the forms in which they are sent."""
