"""Traffic for load tests: scenarios, simulated users, recorded calls, verdicts and reports."""
