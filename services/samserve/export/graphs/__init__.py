"""The graphs that are exported, one file per family."""
