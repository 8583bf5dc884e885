"""Compiled passes over arrays: building and loading the C of every package."""
