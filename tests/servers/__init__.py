"""Loopback servers that speak as the databases do, and real crystals for them to hand out."""
