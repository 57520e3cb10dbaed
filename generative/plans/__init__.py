"""What is asked of a generator: the plan of a run, one request per candidate."""
