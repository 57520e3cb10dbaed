"""Densities of k-points: closed forms, meshes of pymatgen, ASE and VASP, what is said of a hull of unlike ones."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.calculators.calculator import kptdensity2monkhorstpack
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Kpoints

from dft.engines.vasp_outputs import read_run
from dft.hull.kpoint_notes import KPointNotes, is_metal, kpoint_notes
from dft.inputs.kpoints import (
    ADEQUATE_METAL_DENSITY_ANG3,
    KPointSampling,
    density_bounds,
    sampling_of_kpoints,
    sampling_of_mesh,
)
from dft.records import DFTRecord, RecordError
from tests.dft import made_records

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))


def record(structure: Structure, mesh: tuple[int, int, int] | None = None, **changes: Any) -> DFTRecord:
    kpoints = None if mesh is None else sampling_of_mesh(mesh, structure.lattice)
    return made_records.record(structure, -1.0, **{"kpoints": kpoints, **changes})


def cells(n: int, seed: int) -> list[Structure]:
    """Random cells from 8 to some 2000 A^3, needles, plates and oblique ones among them, with one atom."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < n:
        lattice = Lattice.from_parameters(*rng.uniform(2.3, 16, 3), *rng.uniform(50, 130, 3))
        if not np.isfinite(lattice.matrix).all() or lattice.volume < 8 or lattice.volume < 0.2 * math.prod(lattice.abc):
            continue
        found.append(Structure(lattice, ["Cu"], [[0, 0, 0]]))
    return found


def copper() -> Structure:
    half = 3.61 / 2
    return Structure([[0, half, half], [half, 0, half], [half, half, 0]], ["Cu"], [[0, 0, 0]])


def test_density_and_spacing_of_random_meshes_are_their_closed_forms() -> None:
    rng = np.random.default_rng(0)
    for cell in cells(50, seed=1):
        mesh = tuple(int(n) for n in rng.integers(1, 12, 3))
        found = sampling_of_mesh(mesh, cell.lattice)
        # The reciprocal cell has volume (2 pi)^3 / V, and |b_i| = 2 pi |a_j x a_k| / V.
        a = cell.lattice.matrix
        assert found.density_ang3 == pytest.approx(math.prod(mesh) * cell.volume / (2 * math.pi) ** 3)
        faces = [np.linalg.norm(np.cross(a[(i + 1) % 3], a[(i + 2) % 3])) for i in range(3)]
        spacings = [2 * math.pi * face / cell.volume / n for face, n in zip(faces, mesh, strict=True)]
        assert found.spacing_per_ang == pytest.approx(max(spacings))


def test_copper_of_the_issue_has_a_tenth_of_the_density_that_64_asks_for() -> None:
    asked = Kpoints.automatic_density_by_vol(copper(), 64)
    assert asked.kpts == [(11, 11, 11)]
    assert sampling_of_kpoints(asked, copper().lattice).density_ang3 == pytest.approx(64, rel=0.03)  # type: ignore[union-attr]
    assert sampling_of_mesh((5, 5, 5), copper().lattice).density_ang3 == pytest.approx(5.93, abs=0.01)


@pytest.mark.parametrize("density", [20, 64, 200])
def test_the_density_that_pymatgen_was_asked_for_lies_within_the_bounds_of_its_mesh(density: int) -> None:
    for cell in cells(40, seed=density):
        sampling = sampling_of_kpoints(Kpoints.automatic_density_by_vol(cell, density), cell.lattice)
        assert sampling is not None
        low, high = density_bounds(sampling, [cell.lattice])
        assert low <= density <= high


def test_the_density_that_ase_was_asked_for_lies_within_the_bounds_of_its_mesh() -> None:
    for cell in cells(40, seed=9):
        mesh = kptdensity2monkhorstpack(Atoms(cell=cell.lattice.matrix, pbc=True), 3.5, even=False)
        low, high = density_bounds(sampling_of_mesh(mesh, cell.lattice), [cell.lattice])
        assert low <= 3.5**3 <= high


def test_automatic_length_gives_the_mesh_that_vasp_would_make() -> None:
    """N_i = max(1, int(R |b_i| + 0.5)), b_i without 2 pi (VASP wiki, KPOINTS)."""
    lattice = Lattice.orthorhombic(3.0, 4.0, 30.0)
    found = sampling_of_kpoints(Kpoints.automatic(20), lattice)
    assert found is not None
    assert found.mesh == (7, 5, 1)  # 20/3 = 6.67, 20/4 = 5, 20/30 = 0.67


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 1)])
@pytest.mark.parametrize("mesh", [(4, 4, 4), (5, 5, 3), (6, 6, 2)])
def test_a_list_of_irreducible_points_has_the_density_of_its_mesh(
    mesh: tuple[int, int, int], shift: tuple[int, int, int]
) -> None:
    lattice = Lattice.tetragonal(3.2, 5.1)
    cell = (lattice.matrix, [[0, 0, 0], [0.5, 0.5, 0.37]], [1, 2])
    mapping, grid = spglib.get_ir_reciprocal_mesh(mesh, cell, is_shift=shift)
    points = (grid + np.array(shift) / 2) / np.array(mesh)
    first, counts = np.unique(mapping, return_counts=True)
    listed = Kpoints(
        style=Kpoints.supported_modes.Reciprocal,
        num_kpts=len(first),
        kpts=[tuple(points[i]) for i in first],
        kpts_weights=[round(count / math.prod(mesh), 8) for count in counts],
    )
    found = sampling_of_kpoints(listed, lattice)
    assert found is not None
    assert found.density_ang3 == pytest.approx(sampling_of_mesh(mesh, lattice).density_ang3)


def test_points_along_lines_are_no_sampling_of_the_zone() -> None:
    lines = Kpoints(
        style=Kpoints.supported_modes.Line_mode, num_kpts=10, kpts=[(0, 0, 0), (0.5, 0, 0)], labels=["G", "X"]
    )
    assert sampling_of_kpoints(lines, Lattice.cubic(4)) is None


@pytest.mark.parametrize(
    ("name", "mesh", "gap"),
    [("nonmetallic", (10, 10, 10), 0.617), ("vasp_mp_run1", (3, 3, 3), 0.0)],
)
def test_a_real_run_of_vasp_says_its_mesh_and_gap(name: str, mesh: tuple[int, int, int], gap: float) -> None:
    """KSPACING in INCAR, and KPOINTS that is not among the files kept: vasprun.xml says both meshes."""
    folder = ASSETS / "vasp_runs" / name
    if not folder.is_dir():
        pytest.skip(f"no recorded VASP runs under {ASSETS}: set HULLWARD_ASSETS to the folder that holds vasp_runs/")
    run = read_run(folder)
    assert run.kpoints == sampling_of_mesh(mesh, run.structure.lattice)
    assert run.bandgap_ev == pytest.approx(gap, abs=1e-3)


def test_a_record_keeps_its_k_points_and_an_older_one_is_read_by_what_it_resolved() -> None:
    one = record(copper(), (5, 5, 5))
    assert DFTRecord.from_json(one.to_json()).kpoints == one.kpoints
    older = one.as_document()
    del older["kpoints"]
    assert DFTRecord.from_document(older).kpoints is None
    text = str(Kpoints.monkhorst_automatic((5, 5, 5)))
    for resolved in ({"kpoints": text}, {"mesh": [5, 5, 5]}):
        assert DFTRecord.from_document({**older, "resolved": resolved}).kpoints == one.kpoints
    broken = {**one.as_document(), "kpoints": {"density_ang3": 1.0, "mesh": [0, 1, 1], "spacing_per_ang": 1.0}}
    with pytest.raises(RecordError, match="0x1x1"):
        DFTRecord.from_document(broken)
    assert json.loads(one.to_json())["kpoints"]["mesh"] == [5, 5, 5]


@pytest.mark.parametrize("seed", range(4))
def test_meshes_of_one_density_never_warn_and_one_mesh_in_small_and_large_cells_does(seed: int) -> None:
    structures = cells(25, seed=100 + seed)
    like: dict[str, DFTRecord] = {}
    for i, cell in enumerate(structures):
        mesh = Kpoints.automatic_density_by_vol(cell, 64).kpts[0]
        rng = np.random.default_rng(i)
        relaxed = Structure(Lattice(cell.lattice.matrix * rng.uniform(0.9, 1.1)), cell.species, cell.frac_coords)
        like[f"c-{i}"] = record(
            relaxed, initial_structure=cell, kpoints=sampling_of_mesh([int(n) for n in mesh], relaxed.lattice)
        )
    assert kpoint_notes(like) == KPointNotes({}, ())
    fixed = {f"c-{i}": record(cell, (5, 5, 5)) for i, cell in enumerate(structures)}
    notes = kpoint_notes(fixed)
    assert "unlike density" in notes.of_hull[0]
    # Brute force: who is below every density that any other's 5x5x5 could have been made for.
    bounds = {name: density_bounds(one.kpoints, [one.structure.lattice]) for name, one in fixed.items()}  # type: ignore[arg-type]
    expected = {a for a in fixed if any(bounds[a][1] < bounds[b][0] for b in fixed)}
    assert {name for name, note in notes.of_record.items() if "sparser than" in note} == expected


def test_a_metal_with_too_few_k_points_is_named_and_an_insulator_is_not() -> None:
    notes = kpoint_notes({"cu": record(copper(), (5, 5, 5), candidate_id="cu-1")})
    assert notes.of_record["cu"] == "k-points (5x5x5, 5.93 A^3) sparse for a metal: expected at least 43 A^3"
    assert notes.of_hull[0].startswith("metals with fewer k-points than 43 per A^-3")
    assert "1, such as Cu cu-1 (5x5x5, 5.93 A^3)" in notes.of_hull[0]
    assert kpoint_notes({"cu": record(copper(), (11, 11, 11))}) == KPointNotes({}, ())
    assert kpoint_notes({"cu": record(copper(), (5, 5, 5), resolved={"bandgap_ev": 1.0})}) == KPointNotes({}, ())
    assert kpoint_notes({"cu": record(copper())}) == KPointNotes({}, ())
    assert ADEQUATE_METAL_DENSITY_ANG3 < 64  # or the Materials Project's own mesh would warn


def test_whether_a_crystal_is_a_metal_is_the_gap_s_to_say_before_its_elements() -> None:
    salt = made_records.rock_salt("Ti", "N", 4.2)
    assert is_metal(record(copper()))
    assert not is_metal(record(salt))
    assert is_metal(record(salt, resolved={"bandgap_ev": 0.0}))


def test_a_sampling_without_a_mesh_is_bounded_as_a_cube_of_its_points() -> None:
    low, high = density_bounds(KPointSampling(125.0), [Lattice.cubic(4)])
    assert (low, high) == (pytest.approx(64.0), pytest.approx(216.0))
