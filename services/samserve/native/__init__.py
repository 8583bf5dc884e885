"""Builds and loads the compiled kernels of every package."""
