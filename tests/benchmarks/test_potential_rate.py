"""What energy, forces and stress of a crystal cost: batched, and by the own calculator of each potential's package.

The same crystals, in one process; printed, never asserted. HULLWARD_BENCHMARK_CRYSTALS (64) of MP-20, atoms moved by
0.05 A. On the processor with one thread and with two; on a GPU if there is one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core.structure import Structure
from torch_sim.io import structures_to_state

from dft.potentials.loading import load_potential
from dft.potentials.registry import POTENTIALS
from tests.own_calculators import own_calculator

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).resolve().parents[2].parent / "shared"))
N_CRYSTALS = int(os.environ.get("HULLWARD_BENCHMARK_CRYSTALS", "64"))
PLACES = [("cpu", 1), ("cpu", 2), *([("cuda", 1)] if torch.cuda.is_available() else [])]

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not (ASSETS / "models").is_dir(), reason="needs HULLWARD_ASSETS/models and /data"),
]


def displaced_crystals() -> list[Structure]:
    """Real crystals, atoms moved by 0.05 A (rms per direction)."""
    table = pd.read_csv(ASSETS / "data" / "mp_20_val.csv.gz").sample(N_CRYSTALS, random_state=0)
    rng = np.random.default_rng(0)
    crystals = [Structure.from_str(cif, fmt="cif") for cif in table["cif"]]
    for crystal in crystals:
        for i, shift in enumerate(rng.normal(scale=0.05, size=(len(crystal), 3))):
            crystal.translate_sites([i], shift, frac_coords=False)
    return crystals


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """So many for torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    yield
    torch.set_num_threads(before)


def timed(work: Callable[[], None], device: str, rounds: int) -> tuple[float, float]:
    """Median wall time and processor time, s, after one round for the allocator."""
    taken: list[tuple[float, float]] = []
    for round_number in range(rounds + 1):
        started = time.perf_counter(), time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if round_number:
            taken.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, processor = zip(*taken, strict=True)
    return statistics.median(wall), statistics.median(processor)


@pytest.mark.parametrize(("device", "n_threads"), PLACES)
@pytest.mark.parametrize("name", POTENTIALS)
def test_evaluations_batched_against_the_own_calculators_loop(
    name: str, device: str, n_threads: int, record_property: Callable[[str, object], None]
) -> None:
    potential = load_potential(name, fallback=None, search=[ASSETS / "models"], device=device)
    calculator = own_calculator(name, potential, ASSETS / "models", device)
    crystals = displaced_crystals()
    state = structures_to_state(crystals, torch.device(device), torch.float64)
    lists = potential.model.neighbour_lists()
    lists.extend(len(crystals))

    def loop() -> None:
        for crystal in crystals:
            atoms = crystal.to_ase_atoms()
            atoms.calc = calculator
            atoms.get_potential_energy()
            atoms.get_forces()
            atoms.get_stress()

    with threads(n_threads):
        ours = timed(lambda: potential.model(state, lists) and None, device, 3)
        theirs = timed(loop, device, 1)
    n, size = len(crystals), sum(map(len, crystals)) / len(crystals)
    print(
        f"\n{potential.method}, {n} crystals of {size:.1f} atoms, {device}, {n_threads} threads:\n"
        f"  batched    {n / ours[0]:7.1f} crystals/s, {1e3 * ours[0] / n:7.2f} ms per evaluation, "
        f"{1e3 * ours[1] / n:7.2f} of processor time\n"
        f"  their loop {n / theirs[0]:7.1f} crystals/s, {1e3 * theirs[0] / n:7.2f} ms per evaluation, "
        f"{1e3 * theirs[1] / n:7.2f} of processor time\n"
        f"  ratio {theirs[0] / ours[0]:.1f} times; {theirs[1] / ours[1]:.1f} in processor time, which others on the "
        "machine disturb less"
    )
    record_property(f"{name}_{device}_{n_threads}_ratio", round(theirs[0] / ours[0], 2))
