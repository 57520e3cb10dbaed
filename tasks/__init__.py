"""Thin Prefect tasks: one per step of a run; they call the rooms and keep the run's files."""
