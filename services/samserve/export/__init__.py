"""Turns checkpoints into bundles. Needs torch."""
