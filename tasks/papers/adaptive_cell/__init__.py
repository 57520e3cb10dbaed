"""The adaptive-cell score model (Sultanov et al., arXiv:2310.10695) made again."""
