"""The arithmetic of SAM's decoder."""
