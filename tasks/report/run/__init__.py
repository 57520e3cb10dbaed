"""The report of a discovery run."""
