"""The HTTP gateway: translates what labeling products send into calls of the services."""
