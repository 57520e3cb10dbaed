"""The metrics of conditional generation and modification by diffusion and flow matching (AIRI): seven systems."""
