"""CrystalBatch: the tensor type of the generative room. Packed and ragged, immutable; `dense` gives the padded view.

Shape letters: B crystals, A atoms of all crystals end to end, N atoms of the largest crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from generative.crystal.bonds import PackedBonds
from generative.crystal.crystals import Crystal, wrap_unit


class DenseView(NamedTuple):
    """A batch padded to its largest crystal: frac (B, N, 3), atomic_numbers (B, N) with 0 as padding, mask (B, N)."""

    frac: Tensor
    atomic_numbers: Tensor
    mask: Tensor


@dataclass(frozen=True)
class CrystalBatch:
    """B crystals with what was asked or is known of them.

    Attributes:
        frac: fractional coordinates, (A, 3), in [0, 1).
        atomic_numbers: (A,), int64.
        lattice_ang: rows, (B, 3, 3), angstrom.
        n_atoms: (B,), int64.
        spacegroup: international number, 0 for unknown, (B,), int64.
        energy_ev_per_atom: formation energy, or what TrainConfig.property names; NaN for unknown, (B,).
        bonds: of all crystals end to end, atoms counted through; None where no system asks for them.
    """

    frac: Tensor
    atomic_numbers: Tensor
    lattice_ang: Tensor
    n_atoms: Tensor
    spacegroup: Tensor
    energy_ev_per_atom: Tensor
    bonds: PackedBonds | None = None

    def __post_init__(self) -> None:
        """Shapes only: reading values here would stall a GPU at every batch."""
        a, b = len(self.atomic_numbers), len(self.n_atoms)
        shapes = {
            "frac": (self.frac, (a, 3)),
            "lattice_ang": (self.lattice_ang, (b, 3, 3)),
            "spacegroup": (self.spacegroup, (b,)),
            "energy_ev_per_atom": (self.energy_ev_per_atom, (b,)),
        }
        if self.bonds is not None:
            e = len(self.bonds.source)
            shapes["bonds.target"] = (self.bonds.target, (e,))
            shapes["bonds.image"] = (self.bonds.image, (e, 3))
        for name, (tensor, shape) in shapes.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)} beside {a} atoms of {b} crystals: expected {shape}. "
                    "Build batches with CrystalBatch.pack()."
                )

    @classmethod
    def pack(
        cls,
        crystals: Sequence[Crystal],
        spacegroups: Sequence[int | None] | None = None,
        energies_ev_per_atom: Sequence[float | None] | None = None,
    ) -> Self:
        """Float32 batch of these crystals, in order.

        Raises: ValueError: if the list is empty or a number is not finite.
        """
        if not crystals:
            raise ValueError("no crystals to pack: expected at least one")
        lattice = torch.stack([torch.as_tensor(c.lattice_ang, dtype=torch.float32) for c in crystals])
        frac = torch.cat([torch.as_tensor(c.frac, dtype=torch.float32) for c in crystals])
        if not (lattice.isfinite().all() and frac.isfinite().all()):
            raise ValueError("a lattice or coordinate is not finite: quarantine such crystals at ingest")
        return cls(
            frac=frac,
            atomic_numbers=torch.cat([torch.as_tensor(c.atomic_numbers, dtype=torch.int64) for c in crystals]),
            lattice_ang=lattice,
            n_atoms=torch.tensor([len(c.atomic_numbers) for c in crystals]),
            spacegroup=torch.tensor([s or 0 for s in spacegroups or [0] * len(crystals)]),
            energy_ev_per_atom=torch.tensor(
                [float("nan") if e is None else e for e in energies_ev_per_atom or [None] * len(crystals)],
                dtype=torch.float32,
            ),
        )

    @classmethod
    def extending(cls, batch: CrystalBatch, **further: Tensor) -> Self:
        """The batch with what a class of its own adds to it."""
        fields: dict[str, Any] = {name: getattr(batch, name) for name in CrystalBatch.__dataclass_fields__}
        return cls(**{**fields, **further})

    def unpack(self) -> list[Crystal]:
        """The crystals, double precision, coordinates wrapped into [0, 1)."""
        frac = wrap_unit(self.frac.double().cpu().numpy())
        numbers = self.atomic_numbers.cpu().numpy().astype("int16")
        lattice = self.lattice_ang.double().cpu().numpy()
        ends = self.n_atoms.cumsum(0).tolist()
        return [
            Crystal(lattice[i], frac[start:end], numbers[start:end])
            for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
        ]

    def __len__(self) -> int:
        """B, the number of crystals."""
        return len(self.n_atoms)

    def replace(self, **fields: Tensor | PackedBonds | None) -> Self:
        """A new batch with these fields exchanged; this one stays as it was."""
        return replace(self, **fields)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Self:
        """The batch on another device."""
        moved: dict[str, Tensor | PackedBonds | None] = {
            name: getattr(self, name).to(device) for name in self.__dataclass_fields__ if name != "bonds"
        }
        if self.bonds is not None:
            moved["bonds"] = PackedBonds(*(part.to(device) for part in self.bonds))
        return self.replace(**moved)

    def mask(self, width: int | None = None) -> Tensor:
        """True for real atoms of the padded view, (B, N); `width` is N when the caller knows it (spares a sync)."""
        columns = torch.arange(width or int(self.n_atoms.max()), device=self.n_atoms.device)
        return columns < self.n_atoms[:, None]

    def dense(self) -> DenseView:
        """The padded view."""
        mask = self.mask()
        frac = self.frac.new_zeros(*mask.shape, 3)
        numbers = self.atomic_numbers.new_zeros(mask.shape)
        frac[mask] = self.frac
        numbers[mask] = self.atomic_numbers
        return DenseView(frac, numbers, mask)
