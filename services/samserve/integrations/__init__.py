"""samserve inside other tools: modules that a tool loads."""
