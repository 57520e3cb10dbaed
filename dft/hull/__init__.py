"""Convex hulls: of a potential's energies, of own DFT records, and of these with a database's entries."""
