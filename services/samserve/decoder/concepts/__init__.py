"""Finds concepts on images: phrases and examples instead of clicks."""
