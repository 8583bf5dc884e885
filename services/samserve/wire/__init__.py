"""Between protos and the domain: metadata, status, requests."""
