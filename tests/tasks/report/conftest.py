"""Report inputs for tests: real Al-Ti-N crystals built by pymatgen, with made-up energies that only tests ever see."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from tasks.report.run.model import HullData, HullPhase, Rejection, ReportCandidate, ReportInputs, StageYield

MADE_UP_FORMATION_EV_PER_ATOM = {
    "Al": 0.0, "Ti": 0.0, "N": 0.0, "AlN": -1.60, "TiN": -1.90, "Ti2N": -1.45, "TiAl": -0.41, "TiAl3": -0.40,
    "Ti3Al": -0.28, "Ti2AlN": -1.38, "Ti3AlN": -1.05, "Ti4AlN3": -1.62, "TiAl2": -0.40, "Ti3N4": -1.30,
    "Al3N": -0.30, "Ti2AlN2": -1.50,
}  # fmt: skip


def crystal(name: str) -> Structure:
    """Real crystals of the Al-Ti-N system, lattice parameters in angstrom as in the literature."""
    spg = Structure.from_spacegroup
    third = 1 / 3
    makers: dict[str, Callable[[], Structure]] = {
        "TiN": lambda: spg("Fm-3m", Lattice.cubic(4.24), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "AlN": lambda: spg(
            "P6_3mc", Lattice.hexagonal(3.11, 4.98), ["Al", "N"], [[third, 2 / 3, 0], [third, 2 / 3, 0.382]]
        ),
        "TiAl": lambda: spg("P4/mmm", Lattice.tetragonal(2.83, 4.07), ["Ti", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "TiAl3": lambda: spg(
            "I4/mmm", Lattice.tetragonal(3.85, 8.61), ["Ti", "Al", "Al"], [[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0.25]]
        ),
        "Ti3AlN": lambda: spg(
            "Pm-3m", Lattice.cubic(4.11), ["Al", "Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5]]
        ),
        "Ti2AlN": lambda: spg(
            "P6_3/mmc", Lattice.hexagonal(2.99, 13.65), ["Ti", "Al", "N"],
            [[third, 2 / 3, 0.0855], [third, 2 / 3, 0.75], [0, 0, 0]],
        ),
        "AlTiN2": lambda: spg(
            "P4/mmm", Lattice.tetragonal(2.93, 4.19), ["Ti", "Al", "N", "N"],
            [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0, 0, 0.5]],
        ),
        "Al3TiN": lambda: spg(
            "Pm-3m", Lattice.cubic(4.02), ["Ti", "Al", "N"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5]]
        ),
    }  # fmt: skip
    return makers[name]()


@functools.cache
def elements_of(name: str) -> frozenset[str]:
    return frozenset(e.symbol for e in crystal(name).composition)


def made_up_diagram(elements: tuple[str, ...]) -> PhaseDiagram:
    names = [n for n in MADE_UP_FORMATION_EV_PER_ATOM if {e.symbol for e in Composition(n)} <= set(elements)]
    return PhaseDiagram(
        [PDEntry(Composition(n), MADE_UP_FORMATION_EV_PER_ATOM[n] * Composition(n).num_atoms, name=n) for n in names]
    )


def decorated_rocksalt(elements: tuple[str, ...], rng: np.random.Generator) -> Structure:
    structure = crystal("TiN")
    for index in range(len(structure)):
        structure.replace(index, str(rng.choice(elements)))
    return structure


def made_up_hull(elements: tuple[str, ...]) -> HullData:
    names = [n for n in MADE_UP_FORMATION_EV_PER_ATOM if {e.symbol for e in Composition(n)} <= set(elements)]
    diagram = made_up_diagram(elements)
    phases = []
    entries = {entry.name: entry for entry in diagram.all_entries}
    for number, name in enumerate(names):
        entry = entries[name]
        above = max(0.0, float(diagram.get_e_above_hull(entry)))
        fractions = {e.symbol: float(f) for e, f in Composition(name).fractional_composition.items()}
        phases.append(
            HullPhase(
                id=f"test-{100 + number}", formula=name, fractions=fractions, stable=above < 1e-9,
                formation_energy_ev_per_atom=MADE_UP_FORMATION_EV_PER_ATOM[name], e_above_hull_ev_per_atom=above,
            )
        )  # fmt: skip
    return HullData(elements=elements, phases=tuple(phases))


def made_up_candidates(n: int, elements: tuple[str, ...] = ("Al", "Ti", "N")) -> tuple[ReportCandidate, ...]:
    rng = np.random.default_rng(7)
    names = [
        name
        for name in ("AlTiN2", "Ti2AlN", "Ti3AlN", "Al3TiN", "TiN", "AlN", "TiAl", "TiAl3")
        if elements_of(name) <= set(elements)
    ]
    above = np.sort(np.round(np.abs(rng.normal(0.0, 0.12, n)) - 0.012, 4))
    diagram = made_up_diagram(elements)
    candidates = []
    for rank in range(1, n + 1):
        structure = decorated_rocksalt(elements, rng) if rank % 2 else crystal(names[(rank * 3 // 2) % len(names)])
        structure.scale_lattice(structure.volume * float(rng.uniform(0.96, 1.05)))
        if rank % 3 == 0:
            structure.perturb(0.12, seed=rank)
        symmetry = SpacegroupAnalyzer(structure, symprec=0.1)
        lost = rank == n - 1
        on_hull = float(diagram.get_hull_energy_per_atom(structure.composition))
        candidates.append(
            ReportCandidate(
                rank=rank,
                id=hashlib.sha256(f"test candidate {rank}".encode()).hexdigest()[:12],
                formula=structure.composition.reduced_formula,
                structure=structure,
                spacegroup_number=symmetry.get_space_group_number(),
                spacegroup_symbol=symmetry.get_space_group_symbol(),
                e_above_hull_ev_per_atom=None if lost else float(above[rank - 1]),
                formation_energy_ev_per_atom=None if lost else on_hull + float(above[rank - 1]),
                decomposition="" if lost else "0.50 TiN + 0.50 AlN",
                delta_e_ev_per_atom=float(-abs(rng.normal(0.08, 0.06))),
                delta_v_ang3_per_atom=float(rng.normal(0.1, 0.4)),
                rms=None if rank % 5 == 0 else float(abs(rng.normal(0.06, 0.03))),
                relax_status="step cap" if rank % 9 == 0 else "converged",
                relax_steps=int(rng.integers(20, 180)),
                known_match="test-104" if rank % 11 == 0 else None,
                smact_valid=bool(rank % 2),
                cif_path=f"cifs/{rank}.cif",
                inputs_path=f"dft/{rank}" if rank <= 5 else None,
                hull_note="no competing phase holds a reference for N" if lost else "",
            )
        )
    return tuple(candidates)


def made_up_inputs(n_candidates: int = 18, elements: tuple[str, ...] = ("Al", "Ti", "N")) -> ReportInputs:
    return ReportInputs(
        run_name="quickstart",
        elements=elements,
        potential_method="CHGNet 0.3.0",
        notes=(
            "M3GNet weights were not found, so CHGNet 0.3.0 relaxed and scored every crystal of this run.",
            "1 candidate has no place on the hull: no competing phase holds a reference for N.",
        ),
        settings={"name": "quickstart", "seed": 0, "elements": list(elements), "sample": {"n_candidates": 96}},
        provenance={
            "dataset": {"source": "prototypes", "rows": 412, "fingerprint": "9f2b" * 16},
            "checkpoint": {"file": "shipped", "digest": "41ac" * 16, "training_config": "77aa" * 16},
            "seed": 0,
            "versions": {"hullward": "0.1.0", "torch": "2.13.0", "matgl": "4.0.2", "pymatgen": "2026.5.4"},
            "hardware": "2 CPU cores, no accelerator",
        },
        yields=(
            StageYield("sample", 96, 96, 41.2, "4 chunks of 24"),
            StageYield("screen", 96, 61, 3.4),
            StageYield("relax", 61, 55, 118.0, "1 of 4 chunks reused from an earlier run"),
            StageYield("unique and novel", 55, n_candidates, 9.9),
            StageYield("hull", n_candidates, n_candidates, 2.1),
            StageYield("inputs", n_candidates, min(5, n_candidates), None, "the best 5 were asked for"),
        ),
        rejected=(
            Rejection("screen", "two atoms closer than 0.5 A", 28),
            Rejection("screen", "volume below 4 A^3 per atom", 7),
            Rejection("relax", "force explosion", 6),
            Rejection("unique and novel", "matches a known crystal", 11),
            Rejection("unique and novel", "duplicate of a better candidate", 8),
        ),
        candidates=made_up_candidates(n_candidates, elements),
        hull=made_up_hull(elements),
        tolerances={"matcher_ltol": 0.2, "matcher_stol": 0.3, "matcher_angle_tol_deg": 5.0, "symprec_ang": 0.1},
        run_folder="runs/quickstart",
    )


@pytest.fixture(scope="session")
def inputs() -> ReportInputs:
    return made_up_inputs()


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., ReportInputs]:
    return made_up_inputs


@pytest.fixture(scope="session")
def make_crystal() -> Callable[[str], Structure]:
    return crystal
