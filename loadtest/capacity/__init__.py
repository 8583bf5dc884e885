"""Capacity: measured, simulated and planned."""
