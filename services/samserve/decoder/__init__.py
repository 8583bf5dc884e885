"""The decoder service: prompts in, masks out. Stateless, on CPUs."""
