"""Phonons by finite displacements: frequencies of a crystal's lattice vibrations, and the imaginary ones among them.

A crystal at a minimum of its energy has none. An imaginary mode is a direction in which the energy falls: the crystal
is a saddle point, and following the mode leads to a phase of lower symmetry. Imaginary frequencies are written as
negative numbers, -sqrt(-omega^2) / 2 pi, in THz, as usual.

Frequencies are exact (for the given forces) at the q-points that fit into the supercell, and interpolated between them.
Dipole-dipole interactions are not treated apart, so the splitting of longitudinal and transverse optical modes of a
polar crystal near the zone centre is missing; instabilities of transverse modes are not touched by it.

Source: the method of Parlinski, Li and Kawazoe, Phys. Rev. Lett. 78, 4063 (1997), as phonopy has it (Togo, J. Phys.
Soc. Jpn. 92, 012001 (2023)).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
from phonopy import Phonopy
from phonopy.harmonic.dynamical_matrix import get_dynamical_matrices_at_qpoints
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.phonon.mesh import MeshGRGridFallbackWarning
from phonopy.structure.cells import guess_primitive_matrix
from pymatgen.core.structure import Structure
from pymatgen.io.phonopy import get_phonopy_structure, get_pmg_structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

from dft.config import PhononConfig, RelaxConfig
from dft.potentials.loading import LoadedPotential
from dft.potentials.relaxation import points_or_reasons, relax
from dft.results import NoEnergy, RelaxStatus, SinglePoint

ForcesOf = Callable[[Sequence[Structure]], Sequence[np.ndarray]]
"""Forces on the atoms of each crystal, (n, 3), eV/A."""

RESIDUAL_FORCE_EV_PER_ANG = 0.05
"""A crystal with a larger force on an atom is at no stationary point: its phonons get a note."""


class PhononError(RuntimeError):
    """A crystal whose phonons cannot be had; others are not concerned."""


@dataclass(frozen=True)
class ImaginaryMode:
    """A mode in whose direction the energy falls.

    Attributes:
        q_point: in units of the reciprocal lattice of `Phonons.primitive`, three numbers in (-0.5, 0.5].
        branch: index by rising frequency, from 0.
        frequency_thz: negative.
        is_commensurate: whether the q-point fits into the supercell, so that the frequency is not interpolated.
    """

    q_point: tuple[float, float, float]
    branch: int
    frequency_thz: float
    is_commensurate: bool


@dataclass(frozen=True)
class Phonons:
    """Frequencies of a crystal with n atoms in its primitive cell, at Q q-points.

    The q-points are all those that fit into the supercell, then one of a mesh for each set that symmetry makes
    equal.

    Attributes:
        primitive: the cell to which q-points refer.
        q_points: (Q, 3), fractional.
        frequencies_thz: (Q, 3n), rising; negative for imaginary ones.
        is_commensurate: (Q,), whether a q-point fits into the supercell.
        imaginary: those below the threshold, lowest first.
        supercell: multiples of the conventional cell along its three axes.
        n_displacements: supercells whose forces were computed.
        residual_force_ev_per_ang: largest force in the crystal before any displacement, eV/A.
        method: what gave the forces.
        settings: the settings used, with phonopy's version.
        notes: what the reader should know, one sentence each.
    """

    primitive: Structure
    q_points: np.ndarray
    frequencies_thz: np.ndarray
    is_commensurate: np.ndarray
    imaginary: tuple[ImaginaryMode, ...]
    supercell: tuple[int, int, int]
    n_displacements: int
    residual_force_ev_per_ang: float
    method: str
    settings: dict[str, float | int | str]
    notes: tuple[str, ...] = ()

    @property
    def is_dynamically_stable(self) -> bool:
        """Whether no mode is imaginary at any q-point looked at."""
        return not self.imaginary

    @property
    def lowest_thz(self) -> float:
        """The lowest frequency of all, THz; about zero for a stable crystal, whose acoustic modes start there."""
        return float(self.frequencies_thz.min())


def potential_phonons(structure: Structure, potential: LoadedPotential, config: PhononConfig) -> Phonons:
    """Phonons of a crystal with a machine-learned potential, after relaxing it with the same potential.

    Args:
        structure: ordered; a candidate relaxed by DFT or with the potential.
        potential: from load_potential; the displaced supercells go through it in batches.
        config: displacement, supercell, mesh, threshold.

    Raises:
        PhononError: if the relaxation ends without a crystal, or as `phonons` says.
    """
    settings = RelaxConfig(
        fmax_ev_per_ang=config.relax_fmax_ev_per_ang,
        max_steps=config.relax_max_steps,
        pressure_gpa=config.pressure_gpa,
    )
    relaxed = relax([structure], potential, settings)[0]
    if relaxed.structure is None:
        raise PhononError(
            f"no phonons of {structure.composition.reduced_formula} with {potential.method}: its relaxation ended as "
            f"'{relaxed.status}' ({relaxed.reason}); phonons need a crystal at rest"
        )
    notes = () if relaxed.status is RelaxStatus.CONVERGED else (f"relaxation before the phonons: {relaxed.reason}",)

    def forces_of(crystals: Sequence[Structure]) -> list[np.ndarray]:
        points = points_or_reasons(crystals, potential)
        if lost := [point.reason for point in points if isinstance(point, NoEnergy)]:
            raise PhononError(
                f"{potential.method} has no forces for {len(lost)} of {len(points)} supercells of "
                f"{structure.composition.reduced_formula}: {lost[0]}"
            )
        return [point.forces_ev_per_ang for point in points if isinstance(point, SinglePoint)]

    found = phonons(relaxed.structure, forces_of, config, potential.method)
    return replace(found, notes=(*notes, *found.notes))


def phonons(structure: Structure, forces_of: ForcesOf, config: PhononConfig, method: str) -> Phonons:
    """Phonons of a crystal at rest.

    The crystal is made symmetric within `symprec_ang` first, so that few displacements suffice. Force constants obey
    Newton's third law and do not change when the crystal is moved as a whole; both are imposed.

    Args:
        structure: ordered, relaxed with the same forces.
        forces_of: called once, with the crystal itself and all displaced supercells.
        config: displacement, supercell, mesh, threshold.
        method: what gives the forces.

    Raises:
        PhononError: if the crystal is disordered, has no symmetry that spglib can find, or needs too large a supercell;
            or if a force is not finite.
    """
    cell = _symmetrised(structure, config)
    multiples = _multiples(cell, config)
    atoms = get_phonopy_structure(cell)
    to_primitive = guess_primitive_matrix(atoms, symprec=config.symprec_ang)
    calculation = Phonopy(atoms, np.diag(multiples), primitive_matrix=to_primitive, symprec=config.symprec_ang)
    calculation.generate_displacements(distance=config.displacement_ang)
    displaced = [get_pmg_structure(cells) for cells in calculation.supercells_with_displacements or []]
    at_rest, *moved = forces_of([cell, *displaced])
    if not (np.isfinite(at_rest).all() and all(np.isfinite(forces).all() for forces in moved)):
        raise PhononError(
            f"{method} gives forces that are not numbers for supercells of {cell.composition.reduced_formula}: the "
            "crystal is outside of what it knows"
        )
    calculation.forces = np.array(moved)
    calculation.produce_force_constants(show_drift=False)
    calculation.symmetrize_force_constants(show_drift=False)
    q_points, frequencies, is_commensurate = _frequencies(calculation, config)
    residual = float(np.linalg.norm(at_rest, axis=1).max())
    return Phonons(
        primitive=_plain(get_pmg_structure(calculation.primitive)),
        q_points=q_points,
        frequencies_thz=frequencies,
        is_commensurate=is_commensurate,
        imaginary=_imaginary(q_points, frequencies, is_commensurate, config.imaginary_thz),
        supercell=multiples,
        n_displacements=len(displaced),
        residual_force_ev_per_ang=residual,
        method=method,
        settings={**config.model_dump(mode="json"), "phonopy": version("phonopy")},
        notes=_notes(residual),
    )


def _symmetrised(structure: Structure, config: PhononConfig) -> Structure:
    """The conventional cell with every atom on its symmetric place."""
    if not structure.is_ordered or not np.isfinite(structure.lattice.matrix).all():
        raise PhononError(f"no phonons of {structure.formula}: expected an ordered crystal with finite lattice vectors")
    try:
        return _plain(SpacegroupAnalyzer(_plain(structure), config.symprec_ang, -1).get_refined_structure())
    except (SymmetryUndeterminedError, ValueError, TypeError) as error:  # spglib hands on None for what it gives up on
        raise PhononError(
            f"spglib finds no space group of {structure.formula} within {config.symprec_ang} A ({error}): atoms "
            "probably coincide; relax the crystal first"
        ) from error


def _plain(structure: Structure) -> Structure:
    """Lattice, species and positions alone: phonopy tells atoms with other magnetic moments apart."""
    return Structure(structure.lattice, structure.species, structure.frac_coords)


def _multiples(cell: Structure, config: PhononConfig) -> tuple[int, int, int]:
    """One or an even number along each axis: most instabilities lie at the zone boundary, which only even ones hold."""
    heights_ang = 1.0 / np.linalg.norm(np.linalg.inv(cell.lattice.matrix), axis=0)
    least = [config.supercell_height_ang / height - 1e-6 for height in heights_ang]
    first, second, third = (1 if many <= 1 else 2 * math.ceil(many / 2) for many in least)
    n_atoms = first * second * third * len(cell)
    if n_atoms > config.supercell_atoms_max:
        raise PhononError(
            f"a supercell of {cell.composition.reduced_formula} with {config.supercell_height_ang} A between its faces "
            f"holds {n_atoms} atoms, more than supercell_atoms_max {config.supercell_atoms_max}: raise that or lower "
            "supercell_height_ang"
        )
    return first, second, third


def _frequencies(calculation: Phonopy, config: PhononConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q-points of the supercell, then those of the mesh that are not among them; their frequencies; which is which."""
    primitive, supercell = calculation.primitive.cell, calculation.supercell.cell
    fitting = get_commensurate_points(np.rint(supercell @ np.linalg.inv(primitive)).astype(int).T)
    with warnings.catch_warnings():
        # Of some centred cells phonopy takes a grid along the conventional axes instead, coarser, and warns of it.
        warnings.simplefilter("ignore", MeshGRGridFallbackWarning)
        calculation.init_mesh(config.mesh_length_ang, is_gamma_center=True)
    assert calculation.mesh is not None
    meshed = np.asarray(calculation.mesh.qpoints)
    q_points = np.concatenate([fitting, meshed])
    q_points = np.round(q_points, 9)
    q_points = q_points - np.ceil(q_points - 0.5) + 0.0  # into (-0.5, 0.5]; no minus zero
    _, firsts = np.unique(np.round(q_points, 6), axis=0, return_index=True)
    firsts = np.sort(firsts)
    is_commensurate = firsts < len(fitting)
    assert calculation.dynamical_matrix is not None
    matrices = get_dynamical_matrices_at_qpoints(calculation.dynamical_matrix, q_points[firsts])
    # By LAPACK: the eigenvalues of phonopy's own solver, in Rust, are wrong by THz in a process that takes the smallest
    # numbers for zero, as ours do (generative/processor.py).
    squares = np.linalg.eigvalsh(matrices)
    frequencies = np.sign(squares) * np.sqrt(np.abs(squares)) * calculation.unit_conversion_factor
    return q_points[firsts], frequencies, is_commensurate


def _imaginary(
    q_points: np.ndarray, frequencies_thz: np.ndarray, is_commensurate: np.ndarray, threshold_thz: float
) -> tuple[ImaginaryMode, ...]:
    places = np.argwhere(frequencies_thz < -threshold_thz)
    modes = []
    for place, branch in places:
        first, second, third = (float(x) for x in q_points[place])
        frequency = float(frequencies_thz[place, branch])
        modes.append(ImaginaryMode((first, second, third), int(branch), frequency, bool(is_commensurate[place])))
    return tuple(sorted(modes, key=lambda mode: (mode.frequency_thz, mode.q_point, mode.branch)))


def _notes(residual_ev_per_ang: float) -> tuple[str, ...]:
    if residual_ev_per_ang <= RESIDUAL_FORCE_EV_PER_ANG:
        return ()
    return (
        f"the undisplaced crystal has a force of {residual_ev_per_ang:.3f} eV/A: it is at no stationary point, so its "
        "frequencies mean little; relax it further",
    )
