"""Conditional generation and modification by a UNet over the structure matrix."""
