"""Triton's side: the model repository written for it, and the Python backend model that runs in it."""
