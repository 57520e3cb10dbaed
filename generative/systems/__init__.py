"""Generative systems, one file each, behind one interface: fit, sample, save, load."""
