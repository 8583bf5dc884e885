"""Traffic for load tests: who asks what and when, what came of it, and how that is judged and shown."""
