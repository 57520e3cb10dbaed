"""The report of the benchmark of rediscovery."""
