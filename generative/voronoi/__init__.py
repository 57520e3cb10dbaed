"""Voronoi cells of the atoms of a crystal, from which CrystalNN reads its bonds."""
