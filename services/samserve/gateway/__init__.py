"""The HTTP gateway: REST, and the protocols of labeling tools. It speaks gRPC to the services."""
