"""Attacks: what a hostile caller can send to a stack on this machine while a person clicks."""
