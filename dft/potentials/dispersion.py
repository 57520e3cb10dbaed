"""DFT-D3 with zero damping on top of any potential: "CHGNet+D3" is CHGNet with the dispersion that its data lack.

    E = - sum over pairs of  C6 / (r^6 (1 + 6 (r / (sr6 R0))^-14)) + s8 C8 / (r^8 (1 + 6 (r / R0)^-16))

each pair of atoms with all its periodic images up to PAIR_CUTOFF_ANG, once; C8 = 3 C6 Q_i Q_j. C6 follows from the
coordination numbers of both atoms by interpolation between reference molecules. Two-body terms alone, as VASP has them
with IVDW = 11; parameters of PBE. Tables of references, radii and Q are those of tad-dftd3; its own energies are of
molecules with another damping.

With a cut-off of 50 A an atom of a crystal has some 20,000 neighbours, which no list has to hold: beyond the distance
up to which neighbours are counted, where nothing is damped any more (to 1e-9), a pair's images are summed as a matrix
product over lattice translations, with the sum's derivatives. The nearer ones are listed, and left to autograd.
Units inside: bohr, hartree; at the border angstrom and eV. float64.

Source: Grimme, Antony, Ehrlich and Krieg, J. Chem. Phys. 132, 154104 (2010).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_sim.state import SimState

from dft.potentials.interface import Asked, CrystalModel, Reading, as_state, fingerprint_of
from dft.potentials.neighbours import NeighbourLists, refuse_if_too_dense
from dft.potentials.registry import loader_of, without_dispersion
from dft.results import EnergyScheme

ANG_PER_BOHR = 0.529177210903
EV_PER_HARTREE = 27.211386245988

SR6, S8 = 1.217, 0.722
"""Of PBE with zero damping; s6 and sr8 are 1."""
STEEPNESS = 16.0
"""Of the count of a neighbour, k1 of the paper; the covalent radii of tad-dftd3 hold k2 = 4/3 already."""
WIDTH = 4.0
"""Of the interpolation between references, k3."""

PAIR_CUTOFF_ANG = 95.0 * ANG_PER_BOHR
"""That of the authors' program, and of VASP to 0.1 A."""
COUNT_CUTOFF_ANG = 40.0 * ANG_PER_BOHR
"""Within which neighbours are counted; the authors'."""
HEAVIEST = 94
"""References end with plutonium."""
IMAGES_MAX = 1_000_000
"""Pairs of atoms and translations in memory at once, some 0.1 GB."""
DENSE_REACH_ANG = 6.0
"""Within which a collapsed cell is told by its neighbours, as networks do."""


@dataclass(frozen=True)
class _Images:
    """Pairs of atoms of crystals, each once, with their near images and what their far ones add up to.

    Attributes:
        first, second: places of the pairs' atoms in the batch, (P,).
        between_ang: from the first atom to the nearest images, or near them, of the second, (P, 3).
        pair: of each near image, its pair, (E,).
        vector_ang: from the first atom to this image of the second, (E, 3).
        far: sums over far images of 1 / r^6, and of 1 / r^8 for the second term, (P, 2), bohr^-6 and bohr^-8.
        slope: their derivatives by r^2, times 2: sums of them, of their products with the translation T, (P, 2, 3), and
            with T_a T_b, (P, 2, 3, 3); bohr.
    """

    first: Tensor
    second: Tensor
    between_ang: Tensor
    pair: Tensor
    vector_ang: Tensor
    far: Tensor
    slope: tuple[Tensor, Tensor, Tensor]


class D3Zero(nn.Module):
    """Dispersion energies of crystals with their derivatives."""

    reference_cn: Tensor
    reference_c6: Tensor
    radius: Tensor
    q: Tensor
    contact: Tensor

    def __init__(self) -> None:
        super().__init__()
        from tad_dftd3.data import R4R2
        from tad_dftd3.reference import Reference
        from tad_mctc.data.radii import COV_D3, VDW_PAIRWISE

        reference = Reference()
        known = slice(HEAVIEST + 1)
        self.register_buffer("reference_cn", reference.cn[known].double())
        self.register_buffer("reference_c6", reference.c6[known, known].double())
        self.register_buffer("radius", COV_D3()[known].double())
        self.register_buffer("q", R4R2()[known].double())
        self.register_buffer("contact", VDW_PAIRWISE()[known, known].double())

    def forward(self, numbers: Tensor, cart_ang: Tensor, cell_ang: Tensor, counts: Sequence[int]) -> dict[str, Tensor]:
        """Energy (B,) eV, forces (N, 3) eV/A and virial (B, 3, 3) eV, volume times stress.

        Args:
            numbers: atomic numbers up to HEAVIEST, (N,).
            cart_ang: positions, (N, 3), float64; need not lie in the cell.
            cell_ang: lattice rows, (B, 3, 3), float64.
            counts: atoms per crystal.
        """
        crystal = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(cart_ang.device)
        starts = np.cumsum([0, *counts])
        images = _joined(
            [
                _images_of(cart_ang[start : start + n_atoms], one, int(start))
                for start, n_atoms, one in zip(starts, counts, cell_ang, strict=False)
            ]
        )
        first, second = numbers[images.first], numbers[images.second]
        ratio = torch.stack([torch.ones_like(self.q[first]), 3.0 * S8 * self.q[first] * self.q[second]], dim=1)
        vector = images.vector_ang.requires_grad_(True)
        far = (images.far * ratio).sum(dim=1)
        with torch.enable_grad():
            c6, near = self._near(numbers, images, ratio)
            per_pair = -EV_PER_HARTREE * c6 * (near + far)
            (gradient,) = torch.autograd.grad(per_pair.sum(), vector)
        weight = -EV_PER_HARTREE * c6.detach().unsqueeze(1) * ratio
        pulled, sheared = _far_slopes(images, weight)
        per_crystal = crystal.index_select(0, images.first)
        energy = cell_ang.new_zeros(len(counts)).index_add(0, per_crystal, per_pair.detach())
        pulled = pulled.index_add(0, images.pair, gradient)
        forces = torch.zeros_like(cart_ang).index_add(0, images.first, pulled)
        forces = forces.index_add(0, images.second, -pulled)
        outer = vector.detach().unsqueeze(2) * gradient.unsqueeze(1)
        sheared = sheared.index_add(0, images.pair, outer)
        virial = torch.zeros_like(cell_ang).index_add(0, per_crystal, sheared)
        return {"energy": energy, "forces": forces, "virial": 0.5 * (virial + virial.transpose(1, 2))}

    def _near(self, numbers: Tensor, images: _Images, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """C6 of each pair, hartree bohr^6, and the sum over its near images that it multiplies, (P,) both."""
        squared = (images.vector_ang / ANG_PER_BOHR).square().sum(dim=1)
        first, second, pair = numbers[images.first], numbers[images.second], images.pair
        contact = (self.radius[first] + self.radius[second])[pair]
        counted = torch.sigmoid(STEEPNESS * (contact / squared.sqrt() - 1.0))
        # An atom and its own image are one pair of both directions, so each end of it counts for the same atom.
        n_neighbours = torch.zeros(len(numbers), dtype=squared.dtype, device=squared.device)
        n_neighbours = n_neighbours.index_add(0, images.first[pair], counted)
        n_neighbours = n_neighbours.index_add(0, images.second[pair], counted)
        weight = self._weights(numbers, n_neighbours)
        c6 = torch.einsum("pab,pa,pb->p", self.reference_c6[first, second], weight[images.first], weight[images.second])
        r0 = self.contact[first, second]
        a, b = 6.0 * (SR6 * r0) ** 14, 6.0 * r0**16
        r6 = squared**3
        r8 = r6 * squared
        terms = 1.0 / (r6 + a[pair] / r8) + ratio[pair, 1] / (r8 + b[pair] / r8)
        return c6, torch.zeros(len(first), dtype=terms.dtype, device=terms.device).index_add(0, pair, terms)

    def _weights(self, numbers: Tensor, n_neighbours: Tensor) -> Tensor:
        """Of each atom's references, (N, R). The nearest decides the scale, so that none is ever divided by zero."""
        reference = self.reference_cn[numbers]
        exponent = -WIDTH * (reference - n_neighbours.unsqueeze(1)).square()
        return torch.softmax(exponent.masked_fill(reference < 0, -torch.inf), dim=1)


def _images_of(cart_ang: Tensor, cell_ang: Tensor, start: int) -> _Images:
    """Pairs of a crystal's atoms, the first at place `start`, with all images up to PAIR_CUTOFF_ANG, each once."""
    n_atoms, device = len(cart_ang), cart_ang.device
    cell = cell_ang.detach().cpu().numpy()
    refuse_if_too_dense(n_atoms, cell, DENSE_REACH_ANG)
    # The separation of a pair is first brought to within half a cell, so that as few translations as possible matter.
    spacing = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    most = np.floor(PAIR_CUTOFF_ANG / spacing + 0.5).astype(int)
    axes = [torch.arange(-m, m + 1, dtype=torch.float64, device=device) for m in most.tolist()]
    shifts = torch.cartesian_prod(*axes)
    first, second = torch.triu_indices(n_atoms, n_atoms, device=device)
    between = cart_ang[second] - cart_ang[first]
    between = between - torch.round(torch.linalg.solve(cell_ang, between, left=False)) @ cell_ang
    translations = shifts @ cell_ang
    reach = PAIR_CUTOFF_ANG + torch.linalg.vector_norm(between, dim=1).max()
    within = torch.linalg.vector_norm(translations, dim=1) <= reach
    shifts, translations = shifts[within], translations[within]
    # Of an atom's images at T and -T one is taken.
    order = torch.tensor([4.0 * most.max() ** 2 + 4.0, 2.0 * most.max() + 2.0, 1.0], dtype=torch.float64, device=device)
    ahead = shifts @ order > 0
    rows = max(1, IMAGES_MAX // len(translations))
    near, far, slopes = [], [], []
    for low in range(0, len(between), rows):
        part = slice(low, low + rows)
        taken = (first != second)[part].unsqueeze(1) | ahead
        close, sums, slope = _summed(between[part], translations, taken)
        near.append(close + torch.tensor([low, 0], device=device))
        far.append(sums)
        slopes.append(slope)
    pair, place = torch.cat(near).unbind(dim=1)
    return _Images(
        start + first,
        start + second,
        between,
        pair,
        between[pair] + translations[place],
        torch.cat(far),
        (torch.cat([s[0] for s in slopes]), torch.cat([s[1] for s in slopes]), torch.cat([s[2] for s in slopes])),
    )


def _summed(
    between_ang: Tensor, translations_ang: Tensor, taken: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """(pair, translation) of near images, (E, 2), and `far` and `slope` of _Images for these pairs."""
    b, t = between_ang / ANG_PER_BOHR, translations_ang / ANG_PER_BOHR
    squared = b.square().sum(dim=1, keepdim=True) + t.square().sum(dim=1) + 2.0 * (b @ t.T)
    is_near = squared < (COUNT_CUTOFF_ANG / ANG_PER_BOHR) ** 2
    is_far = taken & ~is_near & (squared <= (PAIR_CUTOFF_ANG / ANG_PER_BOHR) ** 2)
    inverse = torch.where(is_far, 1.0 / squared, 0.0)
    r6 = inverse**3
    r8 = r6 * inverse
    by_square = -6.0 * r8, -8.0 * r8 * inverse  # 2 d/d(r^2) of 1 / r^6 and 1 / r^8
    outer = (t.unsqueeze(2) * t.unsqueeze(1)).flatten(1)
    slope = (
        torch.stack([one.sum(dim=1) for one in by_square], dim=1),
        torch.stack([one @ t for one in by_square], dim=1),
        torch.stack([one @ outer for one in by_square], dim=1).reshape(len(b), 2, 3, 3),
    )
    return (is_near & taken).nonzero(), torch.stack([r6.sum(dim=1), r8.sum(dim=1)], dim=1), slope


def _far_slopes(images: _Images, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of the far images' energy by the pairs' vectors, (P, 3) eV/A, and its virial, (P, 3, 3) eV.

    With r = b + T the derivative of f(r^2) by r is 2 f' (b + T), and the virial 2 f' (b + T)(b + T)^T.
    """
    b = images.between_ang / ANG_PER_BOHR
    plain, by_t, by_tt = (torch.einsum("pk,pk...->p...", weight, one) for one in images.slope)
    pulled = plain.unsqueeze(1) * b + by_t
    cross = b.unsqueeze(2) * by_t.unsqueeze(1)
    sheared = plain.view(-1, 1, 1) * b.unsqueeze(2) * b.unsqueeze(1) + cross + cross.transpose(1, 2) + by_tt
    return pulled / ANG_PER_BOHR, sheared


def _joined(parts: Sequence[_Images]) -> _Images:
    offsets = np.cumsum([0, *(len(part.first) for part in parts)])
    plain, by_t, by_tt = (torch.cat([part.slope[k] for part in parts]) for k in range(3))
    return _Images(
        torch.cat([part.first for part in parts]),
        torch.cat([part.second for part in parts]),
        torch.cat([part.between_ang for part in parts]),
        torch.cat([part.pair + int(offset) for part, offset in zip(parts, offsets, strict=False)]),
        torch.cat([part.vector_ang for part in parts]),
        torch.cat([part.far for part in parts]),
        (plain, by_t, by_tt),
    )


class WithDispersion(CrystalModel):
    """A potential and D3 together; what it sees of neighbours is what the potential alone sees."""

    def __init__(self, model: CrystalModel) -> None:
        super().__init__()
        self.model = model
        self.dispersion = D3Zero().to(model.device)
        self._device, self._dtype = model.device, torch.float64
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = model.memory_scales_with

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """The potential's, but for elements beyond D3's references."""
        return tuple(z for z in self.model.atomic_numbers if z <= HEAVIEST)

    @property
    def cutoff_ang(self) -> float | None:
        """The potential's: an atom that it does not see has an energy of dispersion, but no bond."""
        return self.model.cutoff_ang

    @property
    def derives_forces(self) -> bool:
        """As the potential's."""
        return self.model.derives_forces

    def neighbour_lists(self) -> NeighbourLists:
        """The potential's."""
        return self.model.neighbour_lists()

    def forward(
        self, state: SimState | dict[str, Any], neighbours: NeighbourLists | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """See CrystalModel.forward."""
        state = as_state(state)
        output: dict[str, Tensor] = self.model(state, neighbours=neighbours)
        cell = state.row_vector_cell.detach()
        counts = torch.bincount(state.system_idx, minlength=state.n_systems).tolist()
        added = self.dispersion(state.atomic_numbers.long(), state.positions.detach(), cell, counts)
        return output | {
            "energy": output["energy"] + added["energy"],
            "forces": output["forces"] + added["forces"],
            "stress": output["stress"] + added["virial"] / torch.linalg.det(cell).abs().view(-1, 1, 1),
        }


def readings(asked: Asked) -> Iterable[Reading]:
    """See dft.potentials.interface.Loader: those of the potential that is named before the '+D3', each with D3."""
    base = without_dispersion(asked.name)
    assert base is not None  # the registry sends no other name here
    how = f"D3 zero damping, PBE, tad-dftd3 {version('tad-dftd3')}"
    for reading in loader_of(base)(replace(asked, name=base)):
        model = WithDispersion(reading.model)
        yield replace(
            reading,
            model=model,
            method=f"{reading.method} + D3(zero)",
            fingerprint=fingerprint_of(model.atomic_numbers, f"{reading.fingerprint}; {how}"),
            # Corrections to PBE were not fitted with dispersion in the energies.
            scheme=EnergyScheme.UNSTATED if reading.scheme is EnergyScheme.UNSTATED else EnergyScheme.OTHER,
        )
