"""Checkpoints to bundles. Needs torch."""
