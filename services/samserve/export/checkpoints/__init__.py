"""Reading checkpoints as their authors publish them: what one is, its sizes, its weights under transformers' names."""
