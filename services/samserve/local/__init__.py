"""The whole stack on one machine: `samserve up`, the demo and the stack tests."""
