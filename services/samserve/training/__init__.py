"""How the shipped demonstration model `nano` is made: drawn scenes, a small encoder, a training run."""
