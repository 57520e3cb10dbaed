"""Noise and flow processes that know no network."""
