"""The command line: `samserve ...`."""
