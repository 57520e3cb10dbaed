"""Crystals on their way through a potential: checked, as tensors, as many together as a batch holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from torch import Tensor
from torch_sim.state import SimState

from dft.potentials.interface import CrystalModel
from dft.potentials.isolation import isolation_reason
from dft.potentials.release import HeldCrystal
from dft.potentials.symmetry import SpaceGroup
from storage.vacuum import VACUUM_ANG, find_vacuum


@dataclass
class BatchCrystal:
    """A crystal on its way through the batch; `group` is that of one that keeps it, `held` its end there once it is
    released. `across` holds the unit vectors, columns, (3, k), along which a cell with vacuum may not be strained.
    """

    index: int
    numbers: Tensor
    cell_ang: Tensor
    cart_ang: Tensor
    volume_ang3: float
    n_steps: int = 0
    initial_energy_ev_per_atom: float | None = None
    group: SpaceGroup | None = None
    held: HeldCrystal | None = None
    across: Tensor | None = None


def admitted(index: int, structure: Structure, model: CrystalModel) -> BatchCrystal | str:
    """The crystal as tensors, or the reason why the potential cannot take it."""
    if len(structure) == 0:
        return "it has no atoms"
    if not structure.is_ordered:
        return "it is disordered: a site holds several species or is partly occupied"
    symbols = [site.specie.symbol for site in structure]
    known = set(model.atomic_numbers)
    unknown = sorted({s for s in symbols if Element(s).Z not in known})
    if unknown:
        return f"the potential does not know {', '.join(unknown)}"
    cell = np.array(structure.lattice.matrix, dtype=float)
    cart = np.array(structure.cart_coords, dtype=float)
    volume = float(np.linalg.det(cell))
    if not (np.isfinite(cell).all() and np.isfinite(cart).all() and abs(volume) > 1e-6):
        return f"its cell has volume {volume:.3g} A^3 or coordinates that are not numbers"
    device = model.device
    return BatchCrystal(
        index,
        torch.tensor([Element(s).Z for s in symbols], device=device),
        torch.from_numpy(cell).to(device),
        torch.from_numpy(cart).to(device),
        abs(volume),
    )


def with_vacuum_held(crystal: BatchCrystal) -> BatchCrystal:
    """The crystal, to be strained in no direction in which it has vacuum; as it is, if it has none."""
    lattice = crystal.cell_ang.cpu().numpy()
    found = find_vacuum(lattice, crystal.cart_ang.cpu().numpy() @ np.linalg.inv(lattice))
    if not found:
        return crystal
    directions = np.array([vacuum.direction(lattice) for vacuum in found])
    # A slab has one direction, a wire two; of planes that show the same vacuum askew the widest came first.
    across: list[np.ndarray] = []
    for direction in directions:
        rest = direction - sum((one * (one @ direction) for one in across), start=np.zeros(3))
        if np.linalg.norm(rest) > 1e-6:
            across.append(rest / np.linalg.norm(rest))
    return replace(crystal, across=torch.from_numpy(np.array(across).T.copy()).to(crystal.cell_ang.device))


def in_plane_of(crystals: Sequence[BatchCrystal]) -> Tensor | None:
    """Projections, (B, 3, 3), onto the directions in which each cell may be strained; None where all may be in all."""
    if all(crystal.across is None for crystal in crystals):
        return None
    rows = [torch.eye(3, dtype=c.cell_ang.dtype, device=c.cell_ang.device) for c in crystals]
    return torch.stack(
        [row if c.across is None else row - c.across @ c.across.T for row, c in zip(rows, crystals, strict=True)]
    )


def vacuum_fault(crystal: BatchCrystal, cart_ang: Tensor, cell_ang: Tensor) -> str:
    """Why a crystal whose vacuum was held is none with vacuum any more; empty if it is one, or was not held."""
    if crystal.across is None:
        return ""
    lattice = cell_ang.cpu().numpy()
    if find_vacuum(lattice, cart_ang.cpu().numpy() @ np.linalg.inv(lattice)):
        return ""
    return f"less than {VACUUM_ANG:g} A of its vacuum are left: the slab has grown into it, or came apart"


def take_from(waiting: list[BatchCrystal], atoms_max: int, n_atoms: int) -> list[BatchCrystal]:
    """Remove from the front of the queue what fits beside `n_atoms` atoms; at least one if the batch is empty."""
    taken: list[BatchCrystal] = []
    while waiting and (n_atoms == 0 or n_atoms + len(waiting[0].numbers) <= atoms_max):
        taken.append(waiting.pop(0))
        n_atoms += len(taken[-1].numbers)
    return taken


def sim_state(crystals: Sequence[BatchCrystal], carts: Sequence[Tensor], cells: Sequence[Tensor]) -> SimState:
    """The crystals with these positions, (n, 3) each, and lattice rows, (3, 3) each, angstrom, for torch-sim."""
    counts = torch.tensor([len(c.numbers) for c in crystals], device=carts[0].device)
    numbers = torch.cat([c.numbers for c in crystals])
    return SimState(
        positions=torch.cat(list(carts)),
        masses=torch.ones(len(numbers), dtype=torch.float64, device=numbers.device),  # FIRE has unit masses
        cell=torch.stack(list(cells)).transpose(1, 2).contiguous(),
        pbc=True,
        atomic_numbers=numbers,
        system_idx=torch.repeat_interleave(torch.arange(len(crystals), device=numbers.device), counts),
    )


def isolation_of(
    crystal: BatchCrystal, cart_ang: Tensor, cell_ang: Tensor, neighbours: Tensor, model: CrystalModel
) -> str:
    """Which atoms have no neighbour, in one sentence; empty if all have.

    Args:
        crystal: its elements.
        cart_ang: where its atoms are, (n, 3), angstrom.
        cell_ang: lattice rows, (3, 3), angstrom.
        neighbours: of each atom as the model counts them, (n,); -1 where it does not know its cut-off.
        model: whose cut-off it is.
    """
    alone = (neighbours == 0).nonzero().squeeze(1).tolist()
    if not alone or model.cutoff_ang is None:
        return ""
    symbols = [Element.from_Z(int(z)).symbol for z in crystal.numbers]
    return isolation_reason(symbols, cart_ang.cpu().numpy(), cell_ang.cpu().numpy(), alone, model.cutoff_ang)
