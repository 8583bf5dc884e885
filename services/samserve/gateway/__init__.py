"""The HTTP gateway: labeling products reach samserve through it."""
