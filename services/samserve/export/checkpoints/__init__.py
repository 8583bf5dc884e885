"""Reads checkpoints in the formats of their authors and of transformers."""
