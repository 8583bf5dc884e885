"""Engines and lower precisions of an encoder, and the gate that each of them must pass."""
