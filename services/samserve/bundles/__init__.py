"""Model bundles: what serving reads from disk, and the files that Triton serves from. No torch."""
