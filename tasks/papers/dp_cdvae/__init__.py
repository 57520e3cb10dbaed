"""The tables of DP-CDVAE (Sci. Rep. 14, 1275): six systems that reconstruct, generate and are relaxed."""
