"""Compiled kernels, behind one door (door.py): matching, Voronoi bonds, order parameters."""
