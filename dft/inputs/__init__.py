"""VASP inputs: presets of published protocols, k-points, and what else decides a calculation."""
