"""Energies of crystals at two fidelities: machine-learned potentials and DFT. Knows neither Prefect nor generative."""
