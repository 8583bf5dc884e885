"""The gate: checks that a variant gives the embeddings and masks of the exported encoder."""
