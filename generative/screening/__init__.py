"""Validity, uniqueness and novelty of generated crystals."""
