"""The domain: pure functions and values, without I/O, network or protobuf."""
