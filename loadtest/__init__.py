"""Benchmarks, load tests and capacity measurements."""
