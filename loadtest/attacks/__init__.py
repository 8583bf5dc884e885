"""Attacks: what a hostile caller can send, against a stack of their own, with a person clicking."""
