"""The papers' protocols, each named."""
