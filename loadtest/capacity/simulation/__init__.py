"""A simulation of the service by discrete events: what it would answer, and how fast, under a load. Pure and seeded."""
