"""Generators that learn nothing, to compare others with."""
