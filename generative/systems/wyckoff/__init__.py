"""Crystals by symmetry: the Wyckoff signature is chosen first, cell and free coordinates follow."""
