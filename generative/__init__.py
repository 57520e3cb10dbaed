"""Learns and samples crystals. Knows neither Prefect nor the dft room."""
