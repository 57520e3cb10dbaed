"""Prefect flows: order, concurrency, and what follows a failure. One file per flow."""
