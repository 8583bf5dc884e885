"""The neighbours of every service: settings, Redis, metrics, logs, traces."""
