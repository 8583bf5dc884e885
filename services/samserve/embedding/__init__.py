"""The embedding service: bytes in, an embedding in the cache, once per image."""
