"""gRPC's side of calls: metadata, status, conversions, and what is recorded about each call."""
