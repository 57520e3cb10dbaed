"""Crystals per second of the batched relaxation against the packages' own loops, on the same crystals in one run."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.config import RelaxConfig
from dft.potentials.loading import load_potential
from dft.potentials.matgl import load_matgl
from dft.potentials.relaxation import relax
from dft.results import Relaxation
from tests.own_calculators import turn_m3gnet_convolutions

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("HULLWARD_ASSETS", REPOSITORY.parent / "shared"))
M3GNET = "M3GNet-MP-2021.2.8-PES"
N_CRYSTALS = int(os.environ.get("HULLWARD_BENCHMARK_CRYSTALS", "64"))
CONFIG = RelaxConfig(fmax_ev_per_ang=0.05, max_steps=300)

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not (ASSETS / "models").is_dir(), reason="needs HULLWARD_ASSETS/models and /data"),
]


def perturbed_crystals() -> list[Structure]:
    """Real crystals, atoms moved by 0.1 A (rms per direction), cells strained by up to 4 % along each axis."""
    table = pd.read_csv(ASSETS / "data" / "mp_20_biternary_test.csv.gz").sample(N_CRYSTALS, random_state=0)
    rng = np.random.default_rng(0)
    crystals = []
    for cif in table["cif"]:
        crystal = Structure.from_str(cif, fmt="cif")
        matrix = crystal.lattice.matrix @ np.diag(1 + rng.uniform(-0.04, 0.04, 3))
        cart = crystal.frac_coords @ matrix + rng.normal(scale=0.1, size=(len(crystal), 3))
        crystals.append(Structure(Lattice(matrix), crystal.species, cart, coords_are_cartesian=True))
    return crystals


def compare(name: str, loop: Callable[[Structure], tuple[float, int]], record: Callable[[str, object], None]) -> None:
    """Run both on the same crystals; `loop` returns (energy in eV, steps) of one."""
    crystals = perturbed_crystals()
    potential = load_potential(name, fallback=None, search=[ASSETS / "models"])
    relax(crystals[:2], potential, CONFIG)  # warms the allocator
    loop(crystals[0])
    started, cpu = time.perf_counter(), time.process_time()
    ours = relax(crystals, potential, CONFIG)
    ours_s, ours_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    started, cpu = time.perf_counter(), time.process_time()
    theirs = [loop(crystal) for crystal in crystals]
    theirs_s, theirs_cpu_s = time.perf_counter() - started, time.process_time() - cpu

    energies = np.array([r.energy_ev_per_atom if r.energy_ev_per_atom is not None else np.nan for r in ours])
    expected = np.array([energy / len(crystal) for (energy, _), crystal in zip(theirs, crystals, strict=True)])
    steps, their_steps = [r.n_steps for r in ours], [n for _, n in theirs]
    rate, their_rate = len(crystals) / ours_s, len(crystals) / theirs_s
    difference = energies - expected
    print(
        f"\n{potential.method}, {len(crystals)} crystals, {torch.get_num_threads()} threads, fmax 0.05, 300 steps:\n"
        f"  batched    {rate:6.2f} crystals/s, {np.mean(steps):5.1f} steps, {1e3 * ours_s / sum(steps):6.2f} ms/step\n"
        f"  their loop {their_rate:6.2f} crystals/s, {np.mean(their_steps):5.1f} steps, "
        f"{1e3 * theirs_s / sum(their_steps):6.2f} ms/step\n"
        f"  ratio {rate / their_rate:.1f} in crystals/s; {theirs_cpu_s / ours_cpu_s:.1f} in processor time, "
        "which others on the machine disturb less\n"
        f"  final energies, ours minus theirs, meV/atom: median {1e3 * np.nanmedian(difference):+.3f}, "
        f"median of the absolute value {1e3 * np.nanmedian(np.abs(difference)):.3f}, "
        f"lower by more than 1: {np.sum(difference < -1e-3)}, higher by more than 1: {np.sum(difference > 1e-3)}, "
        f"without energy: {np.isnan(difference).sum()}"
    )
    for key, value in {"crystals_per_s": rate, "their_crystals_per_s": their_rate, "ratio": rate / their_rate}.items():
        record(f"{name}_{key}", round(value, 3))


def test_m3gnet_rate_against_matgls_relaxer(record_property: Callable[[str, object], None]) -> None:
    from matgl.ext.ase import Relaxer

    raw = load_matgl(ASSETS / "models" / M3GNET)
    turn_m3gnet_convolutions(raw)
    relaxer = Relaxer(raw)

    def loop(crystal: Structure) -> tuple[float, int]:
        trajectory = relaxer.relax(crystal, fmax=CONFIG.fmax_ev_per_ang, steps=CONFIG.max_steps)["trajectory"]
        return float(np.squeeze(trajectory.energies[-1])), len(trajectory.energies) - 2

    compare(M3GNET, loop, record_property)


def test_chgnet_rate_against_its_own_optimizer(record_property: Callable[[str, object], None]) -> None:
    from chgnet.model.dynamics import StructOptimizer

    optimizer = StructOptimizer(use_device="cpu")

    def loop(crystal: Structure) -> tuple[float, int]:
        result = optimizer.relax(
            crystal, fmax=CONFIG.fmax_ev_per_ang, steps=CONFIG.max_steps, verbose=False, assign_magmoms=False
        )
        energies = result["trajectory"].energies
        return float(np.squeeze(energies[-1])), len(energies) - 2

    compare("CHGNet", loop, record_property)


def test_relaxation_in_the_group_against_free(record_property: Callable[[str, object], None]) -> None:
    """The same crystals, strained within their groups: free, and kept and then released, to one force, in one run."""
    crystals = strained_crystals()
    potential = load_potential(M3GNET, fallback=None, search=[ASSETS / "models"])
    fmax = RelaxConfig().symmetric_fmax_ev_per_ang
    relax(crystals[:2], potential, CONFIG)  # warms the allocator

    def timed(**settings: Any) -> tuple[list[Relaxation], float]:
        started = time.perf_counter()
        done = relax(crystals, potential, RelaxConfig(max_steps=300, **settings))
        return done, time.perf_counter() - started

    free, free_s = timed(fmax_ev_per_ang=fmax)
    kept, kept_s = timed(fmax_ev_per_ang=fmax, symmetry="kept")
    usual, usual_s = timed()
    told = [(r.n_steps - r.kept.n_release_steps, r.kept) for r in kept if r.kept is not None]
    after = [k.n_release_steps for _, k in told if k.is_minimum is True]
    lower = [k.n_release_steps for _, k in told if k.is_minimum is False]
    pairs = [
        (a.energy_ev_per_atom, b.energy_ev_per_atom)
        for a, b in zip(kept, free, strict=True)
        if a.energy_ev_per_atom is not None and b.energy_ev_per_atom is not None
    ]
    change = np.array([a - b for a, b in pairs])
    ms = [1e3 * s / sum(r.n_steps for r in done) for done, s in ((free, free_s), (kept, kept_s), (usual, usual_s))]
    print(
        f"\n{potential.method}, {len(crystals)} crystals, {torch.get_num_threads()} threads, fmax {fmax}, 300 steps:\n"
        f"  free  median {np.median([r.n_steps for r in free]):.0f} steps, {free_s:.1f} s, {ms[0]:.1f} ms/step; "
        f"to 0.05 eV/A {np.median([r.n_steps for r in usual]):.0f} steps, {usual_s:.1f} s, {ms[2]:.1f} ms/step\n"
        f"  kept  median {np.median([n for n, _ in told]):.0f} steps in the group; released {np.median(after):.0f} "
        f"more of {len(after)} minima, {np.median(lower or [0]):.0f} of {len(lower)} saddle points; {kept_s:.1f} s, "
        f"{ms[1]:.1f} ms/step\n"
        f"  ratio of time, kept to free: {kept_s / free_s:.2f}, to free at 0.05 eV/A {kept_s / usual_s:.2f}\n"
        f"  final energies, kept minus free, meV/atom: median {1e3 * np.median(change):+.3f}, "
        f"lower by more than 1: {np.sum(change < -1e-3)}, higher by more than 1: {np.sum(change > 1e-3)}"
    )
    record_property("kept_to_free_time", round(kept_s / free_s, 3))
    record_property("kept_to_free_ms_per_step", round(ms[1] / ms[0], 3))


def strained_crystals() -> list[Structure]:
    """Real crystals whose cells are 2 % to 8 % too large: each in its group, as a generator with sites gives them."""
    table = pd.read_csv(ASSETS / "data" / "mp_20_biternary_test.csv.gz").sample(N_CRYSTALS, random_state=0)
    rng = np.random.default_rng(0)
    crystals = [Structure.from_str(cif, fmt="cif") for cif in table["cif"]]
    return [crystal.scale_lattice(crystal.volume * rng.uniform(1.06, 1.25)) for crystal in crystals]
