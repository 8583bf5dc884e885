"""Model bundles: what one is, how it is exported, how Triton is given it."""
