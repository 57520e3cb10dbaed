"""Positions and cell by two Langevin processes inside a space group: the adaptive-cell score model."""
