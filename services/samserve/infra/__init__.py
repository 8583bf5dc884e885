"""The infrastructure of every service: settings, cache, metrics, logs and traces."""
