"""Embeddings to bytes and back, as they are cached and sent."""
