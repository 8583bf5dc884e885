"""The decoder service: answers prompts with masks, on CPUs, without state."""
