"""The embedding service: embeds each image once, and caches the embedding."""
