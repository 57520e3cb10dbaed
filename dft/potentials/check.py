"""Is a potential right? Formation energies and equations of state of five compounds everyone knows.

Weights that load can still compute nonsense (`dft.potentials.matgl`). Energies of elements would not show it, so each
potential is asked for compounds: formation energies against its own elements, and the sign of the pressure on both
sides of the measured lattice constant. The tolerances let every honest functional pass (PBE's oxides are 0.4 eV/atom
too weakly bound, its lattices 1 % too wide) and no reversed aggregation.

A model of somebody else's can also have forces or stress in another unit, or of another sign, than its energy: those
are held against the energy's slopes. And it can take lattice vectors for columns where they are rows, which shows in a
cell that is not symmetric: the energy may not depend on which vectors of the lattice are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from torch_sim.io import structures_to_state

from dft.potentials.interface import CrystalModel

FORMATION_TOLERANCE_EV_PER_ATOM = 0.55
LATTICE_TOLERANCE = 0.04
SLOPE_TOLERANCE = 0.3
"""Relative. Units differ by more (1.9 for bohr, 160 for GPa), forces that a network predicts directly by less."""
SLOPE_STEP = 0.005
"""Angstrom, and strain: long enough for energies in float32, short enough for a slope."""
CELL_TOLERANCE_EV_PER_ATOM = 0.01
OTHER_VECTORS = ((1, 0, 0), (1, 1, 0), (0, 1, 1))
"""Lattice vectors of the same lattice, whose matrix is not symmetric: rows and columns are told apart by it."""


@dataclass(frozen=True)
class KnownCrystal:
    """A cubic compound.

    Attributes:
        formula: for messages.
        lattice_ang: measured conventional lattice constant at room temperature, angstrom.
        formation_ev_per_atom: measured standard enthalpy of formation, eV/atom; None for an element.
        centring: of the cubic cell, a key of PRIMITIVE.
        species: of the primitive cell's atoms.
        coords: their positions in units of the lattice constant.
    """

    formula: str
    lattice_ang: float
    formation_ev_per_atom: float | None
    centring: str
    species: tuple[str, ...]
    coords: tuple[tuple[float, float, float], ...]

    def structure(self, scale: float = 1.0) -> Structure:
        """The primitive cell, its lattice constant scaled."""
        return _cubic(self.centring, self.lattice_ang * scale, self.species, self.coords)


PRIMITIVE = {
    "P": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "F": ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)),
    "I": ((-0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.5, 0.5, -0.5)),
}
"""Primitive vectors of the cubic lattices in units of the lattice constant, rows."""


def _cubic(
    centring: str, lattice_ang: float, species: Sequence[str], coords: Sequence[tuple[float, float, float]]
) -> Structure:
    cart = lattice_ang * np.array(coords)
    lattice = Lattice(lattice_ang * np.array(PRIMITIVE[centring]))
    return Structure(lattice, list(species), cart, coords_are_cartesian=True)


ORIGIN = ((0.0, 0.0, 0.0),)
CENTRE = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
KNOWN_CRYSTALS = (
    # Lattice constants: Wyckoff, Crystal Structures (1963); NiAl: Taylor and Doyle, J. Appl. Cryst. 5, 201 (1972).
    # Enthalpies of formation at 298 K: NIST-JANAF tables (MgO -601.2, NaCl -411.1, LiF -616.9 kJ/mol);
    # NiAl -118.4 kJ/mol (Kubaschewski, Materials Thermochemistry, 1993). 96.485 kJ/mol = 1 eV.
    KnownCrystal("MgO", 4.212, -3.116, "F", ("Mg", "O"), CENTRE),
    KnownCrystal("NaCl", 5.640, -2.130, "F", ("Na", "Cl"), CENTRE),
    KnownCrystal("LiF", 4.027, -3.197, "F", ("Li", "F"), CENTRE),
    KnownCrystal("NiAl", 2.887, -0.614, "P", ("Ni", "Al"), CENTRE),
    KnownCrystal("Si", 5.431, None, "F", ("Si", "Si"), ((0.0, 0.0, 0.0), (0.25, 0.25, 0.25))),
)


def element_references() -> dict[str, Structure]:
    """Elements in their standard state; gases as one molecule in a box (bonds: Huber and Herzberg, 1979)."""
    box = Lattice.cubic(12.0)

    def molecule(symbol: str, bond_ang: float) -> Structure:
        return Structure(box, [symbol] * 2, [[5.0, 6.0, 6.0], [5.0 + bond_ang, 6.0, 6.0]], coords_are_cartesian=True)

    return {
        "Mg": Structure(Lattice.hexagonal(3.209, 5.211), ["Mg"] * 2, [[1 / 3, 2 / 3, 1 / 4], [2 / 3, 1 / 3, 3 / 4]]),
        "Na": _cubic("I", 4.225, ["Na"], ORIGIN),
        "Li": _cubic("I", 3.451, ["Li"], ORIGIN),
        "Ni": _cubic("F", 3.524, ["Ni"], ORIGIN),
        "Al": _cubic("F", 4.050, ["Al"], ORIGIN),
        "O": molecule("O", 1.208),
        "Cl": molecule("Cl", 1.988),
        "F": molecule("F", 1.412),
    }


@dataclass(frozen=True)
class CheckResult:
    """What a potential says of the known crystals.

    Attributes:
        deviations: one sentence part per value out of tolerance; empty if the potential is right.
        summary: the formation energies, for notes and logs.
    """

    deviations: tuple[str, ...]
    summary: str

    @property
    def is_right(self) -> bool:
        """Whether every value lies within tolerance."""
        return not self.deviations


def check_model(model: CrystalModel) -> CheckResult:
    """Compare a model with the known crystals: 23 small crystals in one pass.

    A crystal whose elements the model does not know is left out; a model that knows none of them deviates.
    """
    known = [c for c in KNOWN_CRYSTALS if all(_knows(model, s) for s in c.species)]
    if not known:
        return CheckResult(("none of " + ", ".join(c.formula for c in KNOWN_CRYSTALS) + " is known to it",), "")
    elements = {symbol: cell for symbol, cell in element_references().items() if _knows(model, symbol)}
    scales = (1.0, 1.0 - LATTICE_TOLERANCE, 1.0 + LATTICE_TOLERANCE)
    cells = [*elements.values(), *(crystal.structure(scale) for crystal in known for scale in scales)]
    output = model(structures_to_state(cells, model.device, torch.float64))
    per_atom = [e / len(cell) for e, cell in zip(output["energy"].tolist(), cells, strict=True)]
    pressure = (-output["stress"].diagonal(dim1=1, dim2=2).mean(dim=1)).tolist()
    reference = dict(zip(elements, per_atom, strict=False))

    deviations, said = [], []
    for i, crystal in enumerate(known):
        at, narrow, wide = (len(elements) + 3 * i + k for k in range(3))
        if crystal.formation_ev_per_atom is not None:
            formation = per_atom[at] - sum(reference[s] for s in crystal.species) / len(crystal.species)
            said.append(f"{crystal.formula} {formation:.2f}")
            # written so that NaN deviates
            if not abs(formation - crystal.formation_ev_per_atom) <= FORMATION_TOLERANCE_EV_PER_ATOM:
                deviations.append(
                    f"{crystal.formula} forms at {formation:.2f} eV/atom instead of {crystal.formation_ev_per_atom:.2f}"
                )
        if not pressure[narrow] > 0.0 > pressure[wide]:
            deviations.append(
                f"{crystal.formula} has its lattice constant outside {crystal.lattice_ang:.3f} A "
                f"+- {100 * LATTICE_TOLERANCE:.0f} %"
            )
    if not model.derives_forces:
        deviations += _foreign_deviations(model, known[0])
    return CheckResult(tuple(deviations), "formation energies in eV/atom: " + ", ".join(said) if said else "lattices")


def _foreign_deviations(model: CrystalModel, crystal: KnownCrystal) -> list[str]:
    """What is wrong with force, stress or cell of a compressed crystal with one atom moved."""
    moved = crystal.structure(1.0 - LATTICE_TOLERANCE)
    cart, cell = moved.cart_coords, moved.lattice.matrix
    cart[-1] += np.array([0.11, 0.05, -0.07])
    # Along the displacement, where the force is large; and a strain of all six components, mostly of volume.
    along = np.zeros_like(cart)
    along[-1] = np.array([0.78, 0.36, -0.51])
    strain = np.array([[1.0, 0.2, 0.1], [0.2, 0.8, -0.1], [0.1, -0.1, 1.2]])

    def deformed(shift_ang: float, stretch: float) -> Structure:
        by = np.eye(3) + stretch * strain
        shifted = (cart + shift_ang * along) @ by
        return Structure(Lattice(cell @ by), moved.species, shifted, coords_are_cartesian=True)

    ways = [(0.0, 0.0), (SLOPE_STEP, 0.0), (-SLOPE_STEP, 0.0), (0.0, SLOPE_STEP), (0.0, -SLOPE_STEP)]
    skewed = Structure(Lattice(np.array(OTHER_VECTORS) @ cell), moved.species, cart, coords_are_cartesian=True)
    cells = [*(deformed(*way) for way in ways), skewed]
    output = model(structures_to_state(cells, model.device, torch.float64))
    energy = output["energy"].tolist()
    force = float((output["forces"][: len(cart)].cpu().numpy() * along).sum())
    stress = float((output["stress"][0].cpu().numpy() * strain).sum())
    pairs = (
        ("force", force, (energy[2] - energy[1]) / (2 * SLOPE_STEP), "eV/A"),
        ("stress", stress, (energy[3] - energy[4]) / (2 * SLOPE_STEP) / moved.volume, "eV/A^3"),
    )
    deviations = [
        f"the {what} on {crystal.formula} is {stated:.3g} {unit} where its energy's slope is {slope:.3g} {unit}"
        for what, stated, slope, unit in pairs
        if not abs(stated - slope) <= SLOPE_TOLERANCE * abs(slope)  # written so that NaN deviates
    ]
    changed = (energy[5] - energy[0]) / len(cart)
    if not abs(changed) <= CELL_TOLERANCE_EV_PER_ATOM:
        deviations.append(
            f"the energy of {crystal.formula} is {changed:.3g} eV/atom another with other vectors of its lattice"
        )
    return deviations


def _knows(model: CrystalModel, symbol: str) -> bool:
    return Element(symbol).Z in model.atomic_numbers
