"""Embeddings to bytes and back: the form in which they are cached and sent."""
