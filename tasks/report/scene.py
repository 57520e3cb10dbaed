"""A unit cell as things to draw: atoms (those on faces repeated), bonds, cell edges; shared by pictures and the page.

Cartesian angstrom, centred on the middle of the cell. The cell drawn is the conventional one when symmetry finds it.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from storage.vacuum import slab_of
from tasks.report.palette import RGB, covalent_radius_ang, drawn_radius_ang, element_colours

FloatArray = NDArray[np.float64]

FACE_TOLERANCE_ANG = 0.08
"""An atom this near a face is on it and is repeated on the opposite one."""

BOND_STRETCH = 1.15
"""A bond is at most this times the sum of covalent radii, as most viewers have it."""

SHELL_STRETCH = 1.2
"""And at most this times the nearest-neighbour distance of the roomier partner: no metal-metal bonds in nitrides."""

BLOCK_ANG = 5.0
"""Short axes are repeated to about this length, and to 0.45 of the longest: one cell of wurtzite is hard to read."""

LARGEST_BLOCK = 100
"""Atoms; beyond it cells are not repeated."""

SLAB_WIDTH_ANG = 9.0
"""Slabs are repeated to about this width in their plane, and never across their vacuum, of which little is drawn."""

SHOWN_VACUUM_ANG = 3.0
"""Vacuum that is drawn of a slab's cell: so that one sees where it ends, and what it is made of."""

LARGEST_CONVENTIONAL_CELL = 72
"""Atoms; a larger conventional cell is too crowded to read, so the cell is drawn as it was given."""


@dataclass(frozen=True)
class Scene:
    """What to draw.

    Attributes:
        positions_ang: atoms, (n, 3), centred.
        kinds: index into symbols of each atom, (n,).
        bonds: pairs of atom indices, (m, 2).
        edges_ang: the cell's twelve edges, (12, 2, 3).
        symbols: elements in the scene, from electropositive to electronegative, as in a formula.
        colours: sRGB of each symbol.
        radii_ang: drawn radius of each symbol.
        repeats: how many cells are drawn along each axis; the edges outline one.
        conventional: whether the conventional, symmetrised cell is drawn rather than the one given.
        vacuum_ang: vacuum of a slab, of which SHOWN_VACUUM_ANG are drawn; None for crystals without.
    """

    positions_ang: FloatArray
    kinds: NDArray[np.int64]
    bonds: NDArray[np.int64]
    edges_ang: FloatArray
    symbols: tuple[str, ...]
    colours: tuple[RGB, ...]
    radii_ang: tuple[float, ...]
    repeats: tuple[int, int, int]
    conventional: bool
    vacuum_ang: float | None = None

    @property
    def extent_ang(self) -> float:
        """Radius of the sphere around the origin that holds everything drawn, angstrom."""
        radii = np.array(self.radii_ang)[self.kinds]
        atoms = np.linalg.norm(self.positions_ang, axis=1) + radii
        corners = np.linalg.norm(self.edges_ang.reshape(-1, 3), axis=1)
        return float(max(atoms.max(), corners.max()))


def conventional_cell(structure: Structure, symprec_ang: float = 0.1) -> tuple[Structure, bool]:
    """The conventional, symmetrised cell and True; or the cell as given and False if none is found or it is crowded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cell = SpacegroupAnalyzer(structure, symprec_ang, -1).get_conventional_standard_structure()
        except Exception:  # spglib and pymatgen raise a dozen types here; a picture is never worth a run
            return structure, False
    if len(cell) > max(LARGEST_CONVENTIONAL_CELL, len(structure)):
        return structure, False
    return cell, True


def slab_cell(structure: Structure) -> tuple[Structure, float] | None:
    """A slab in a cell with little vacuum, across which the third vector is upright, and the vacuum it has; or None."""
    slab = slab_of(structure.lattice.matrix, structure.frac_coords)
    if slab is None:
        return None
    lattice, frac = slab.with_vacuum(SHOWN_VACUUM_ANG)
    a_ang, b_ang = np.linalg.norm(slab.plane_ang, axis=1)
    gamma = float(np.degrees(np.arccos(np.clip(slab.plane_ang[0] @ slab.plane_ang[1] / (a_ang * b_ang), -1.0, 1.0))))
    upright = Lattice.from_parameters(a_ang, b_ang, float(np.linalg.norm(lattice[2])), 90.0, 90.0, gamma)
    return Structure(upright, structure.species, frac, to_unit_cell=True), slab.vacuum.width_ang


def _slab_repeats(cell: Structure) -> tuple[int, int, int]:
    """How often to repeat a slab in its plane."""
    a, b = (min(4, max(1, round(SLAB_WIDTH_ANG / length))) for length in cell.lattice.abc[:2])
    return (a, b, 1) if a * b * len(cell) <= LARGEST_BLOCK else (1, 1, 1)


def _repeats(cell: Structure) -> tuple[int, int, int]:
    """How often to repeat the cell along each axis."""
    target = max(BLOCK_ANG, 0.45 * max(cell.lattice.abc))
    a, b, c = (min(3, max(1, round(target / length))) for length in cell.lattice.abc)
    return (a, b, c) if a * b * c * len(cell) <= LARGEST_BLOCK else (1, 1, 1)


def _with_face_copies(structure: Structure) -> tuple[FloatArray, list[str]]:
    """Fractional coordinates and symbols, atoms on faces, edges and corners repeated on the opposite side."""
    tolerance = FACE_TOLERANCE_ANG / np.array(structure.lattice.abc)
    frac: list[FloatArray] = []
    symbols: list[str] = []
    for site in structure:
        base = np.mod(site.frac_coords, 1.0)
        choices: list[tuple[float, ...]] = []
        for axis in range(3):
            x = float(base[axis])
            if x < tolerance[axis]:
                choices.append((x, x + 1))
            elif x > 1 - tolerance[axis]:
                choices.append((x - 1, x))
            else:
                choices.append((x,))
        for point in itertools.product(*choices):
            frac.append(np.array(point))
            symbols.append(site.specie.symbol)
    return np.array(frac).reshape(-1, 3), symbols


def _nearest_ang(structure: Structure, symbols: list[str], frac: FloatArray) -> FloatArray:
    """Distance from each drawn atom to its nearest neighbour in the infinite crystal, angstrom, (n,)."""
    lattice = structure.lattice
    distances = lattice.get_all_distances(frac, structure.frac_coords)
    distances = np.where(distances < 0.3, np.inf, distances)
    own_image = float(np.min(np.linalg.norm(lattice.get_lll_reduced_lattice().matrix, axis=1)))
    nearest: FloatArray = np.minimum(distances.min(axis=1), own_image)
    return nearest


def _bonds(positions: FloatArray, symbols: list[str], nearest: FloatArray) -> NDArray[np.int64]:
    covalent = np.array([covalent_radius_ang(s) for s in symbols])
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    reach = BOND_STRETCH * (covalent[:, None] + covalent[None])
    shell = SHELL_STRETCH * np.maximum(nearest[:, None], nearest[None])
    bonded = (distance > 0.3) & (distance <= reach) & (distance <= shell)
    return np.argwhere(np.triu(bonded, k=1)).astype(np.int64)


def build_scene(structure: Structure, palette_elements: Sequence[str] = ()) -> Scene:
    """The scene of an ordered crystal.

    Args:
        structure: any periodic crystal.
        palette_elements: elements whose colours must stay apart (the run's chemical system); the crystal's are added.
    Raises: ValueError: if a site is disordered.
    """
    if not structure.is_ordered:
        raise ValueError(f"{structure.formula} is disordered, expected one element per site: order it before drawing")
    slab = slab_cell(structure)
    if slab is None:
        (cell, conventional), vacuum_ang = conventional_cell(structure), None
        repeats = _repeats(cell)
    else:
        (cell, vacuum_ang), conventional = slab, False
        repeats = _slab_repeats(cell)
    block = cell.make_supercell(repeats, in_place=False)
    frac, labels = _with_face_copies(block)
    lattice = block.lattice
    centre = lattice.get_cartesian_coords([0.5, 0.5, 0.5])
    positions = np.array(lattice.get_cartesian_coords(frac)) - centre
    symbols = tuple(e.symbol for e in sorted(cell.composition.elements, key=lambda e: e.iupac_ordering))
    colours = element_colours([*palette_elements, *symbols])
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    pairs = [(i, j) for i, j in itertools.combinations(range(8), 2) if np.abs(corners[i] - corners[j]).sum() == 1]
    corner_positions = np.array(cell.lattice.get_cartesian_coords(corners)) - centre
    return Scene(
        positions_ang=positions,
        kinds=np.array([symbols.index(s) for s in labels], dtype=np.int64),
        bonds=_bonds(positions, labels, _nearest_ang(block, labels, frac)),
        edges_ang=corner_positions[np.array(pairs)],
        symbols=symbols,
        colours=tuple(colours[s] for s in symbols),
        radii_ang=tuple(drawn_radius_ang(s) for s in symbols),
        repeats=repeats,
        conventional=conventional,
        vacuum_ang=vacuum_ang,
    )


def view_rotation(azimuth_deg: float, elevation_deg: float) -> FloatArray:
    """Rotation onto screen axes, rows (right, up, toward the viewer): z stays upright, then the camera is raised."""
    a, e = np.radians(azimuth_deg), np.radians(elevation_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0], [0.0, 0.0, 1.0]])
    to_screen = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(e), -np.sin(e)], [0.0, np.sin(e), np.cos(e)]])
    rotation: FloatArray = tilt @ to_screen @ turn
    return rotation


def scene_json(scene: Scene) -> dict[str, Any]:
    """A scene with the short keys that crystals.js reads: p(ositions), k(inds), b(onds), e(dges), s(ymbols), c, r."""
    return {
        "p": [[round(float(v), 3) for v in row] for row in scene.positions_ang],
        "k": [int(k) for k in scene.kinds],
        "b": [[int(i), int(j)] for i, j in scene.bonds],
        "e": [[[round(float(v), 3) for v in point] for point in edge] for edge in scene.edges_ang],
        "s": list(scene.symbols),
        "c": [list(colour) for colour in scene.colours],
        "r": [round(radius, 3) for radius in scene.radii_ang],
    }
