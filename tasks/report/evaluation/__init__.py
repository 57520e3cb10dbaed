"""The report of an evaluation, and of a benchmark of generators."""
