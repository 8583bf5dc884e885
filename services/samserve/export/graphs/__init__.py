"""Graphs of SAM's image encoder and decoder, which the other families build on."""
