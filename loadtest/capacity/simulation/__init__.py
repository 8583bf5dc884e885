"""A seeded simulation of the service by discrete events: predicts answers and latencies. Pure."""
