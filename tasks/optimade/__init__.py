"""Crystals in OPTIMADE's form, and filters over them."""
