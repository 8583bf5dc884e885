"""The gate: whether another way to run an encoder gives the embeddings and masks of the exported one."""
