"""A refusal, in words, of elements that a table of embeddings has no row for."""

from __future__ import annotations

from torch import Tensor


def refuse_unknown_elements(atomic_numbers: Tensor, z_max: int, network: str) -> None:
    """Nothing, for atomic numbers (A,) from 1 to `z_max`.

    Reads values, so a GPU is waited for: for networks that wait anyway, once per forward pass.

    Raises: ValueError: if one lies outside.
    """
    unknown = (atomic_numbers < 1) | (atomic_numbers > z_max)
    if unknown.any():
        atom = int(unknown.nonzero()[0])
        raise ValueError(
            f"atom {atom} has the atomic number {int(atomic_numbers[atom])}: {network} knows 1 to {z_max}, so leave "
            "out crystals with other elements"
        )
