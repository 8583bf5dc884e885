"""Segments everything: a grid of points on one image, and the masks worth keeping."""
