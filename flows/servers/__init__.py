"""Servers and clients of this machine: Prefect, reports of runs, OPTIMADE. All on loopback."""
