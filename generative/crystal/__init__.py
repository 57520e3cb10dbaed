"""Crystals: as tensors and table columns, their lattices, elements, symmetry and bonds."""
