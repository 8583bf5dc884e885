"""Load tests: annotators and batch jobs against a running samserve."""
