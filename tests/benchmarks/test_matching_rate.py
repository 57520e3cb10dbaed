"""How fast uniqueness and novelty are judged, beside pymatgen's group_structures in the same run.

HULLWARD_BENCH_CRYSTALS takes the first so many crystals of carbon_24_test, since pymatgen needs minutes for all 2,030;
HULLWARD_BENCH_WORKERS sets the threads of our side (default 2). Ours is timed with its code compiled, as in every run
after a machine's first; what compiling takes is printed. Figures are ratios within one run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher

from configs.paths import AssetError, resolve
from generative.crystal.crystals import Crystal
from generative.screening.matching import ReferenceSet, Tolerances, find_known, group
from tests.cifs import parse_cif

pytestmark = pytest.mark.benchmark

SETS = {"default": Tolerances.of(0.2, 0.3, 5.0), "loose": Tolerances.of(0.3, 0.5, 10.0)}
WORKERS = int(os.environ.get("HULLWARD_BENCH_WORKERS", "2"))


def crystals(name: str, n: int | None = None) -> list[Crystal]:
    try:
        path = Path(resolve(f"assets:data/{name}.csv.gz"))
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    return [parse_cif(cif, 1000) for cif in pd.read_csv(path, nrows=n)["cif"]]


class Spent(NamedTuple):
    """Seconds by the clock, and of the processor over all threads, which others on the machine disturb less."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> tuple[Spent, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), result


def counted_groups(matcher: StructureMatcher, known: list[Crystal]) -> tuple[list[int], int]:
    """First member of each crystal's group by pymatgen, and how often it fitted a pair."""
    structures = [crystal.to_structure() for crystal in known]
    place = {id(structure): index for index, structure in enumerate(structures)}
    n_fits = 0
    plain = StructureMatcher.fit

    def counting(self: StructureMatcher, *args: object, **kwargs: object) -> bool:
        nonlocal n_fits
        n_fits += 1
        return plain(self, *args, **kwargs)

    first = [-1] * len(known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StructureMatcher, "fit", counting)
        for members in matcher.group_structures(structures):
            for member in members:
                first[place[id(member)]] = place[id(members[0])]
    return first, n_fits


@pytest.mark.parametrize("tolerances", SETS.values(), ids=SETS)
def test_uniqueness_of_carbon_beside_pymatgen(tolerances: Tolerances) -> None:
    known = crystals("carbon_24_test", int(os.environ.get("HULLWARD_BENCH_CRYSTALS", "0")) or None)
    compiling, _ = timed(lambda: group([known[0], known[0]], tolerances))
    spent, ours = timed(lambda: group(known, tolerances, workers=WORKERS))
    theirs, (expected, n_fits) = timed(lambda: counted_groups(tolerances.matcher(), known))
    print(  # noqa: T201
        f"\n{len(known)} crystals, {tolerances}: {len(set(expected))} groups, equal: {ours.first_members == expected}\n"
        f"  pymatgen {theirs.wall:.1f} s, {n_fits} fits; ours {spent.wall:.2f} s on {WORKERS} threads: "
        f"{theirs.wall / spent.wall:.0f} times as fast, {theirs.cpu / spent.cpu:.0f} times by processor time\n"
        f"  {ours.n_fits} exact fits: {n_fits / ours.n_fits:.0f} times fewer; {ours.pairs.as_dict()}\n"
        f"  first call (compiling, or loading compiled code) {compiling.wall:.1f} s"
    )
    assert ours.first_members == expected


def test_novelty_of_500_crystals_against_20000_references() -> None:
    real = [c for name in ("mp_20_biternary_val", "mp_20_biternary_test", "carbon_24_test") for c in crystals(name)]
    rng = np.random.default_rng(0)
    references = [*real, *(_shaken(real[i], rng) for i in rng.integers(len(real), size=20_000 - len(real)))]
    candidates = [_shaken(references[i], rng) for i in rng.integers(len(references), size=500)]
    tolerances = SETS["default"]
    known = ReferenceSet([str(i) for i in range(len(references))], references)
    group([candidates[0], candidates[0]], tolerances)
    first, _ = timed(lambda: find_known(candidates, known, tolerances, workers=WORKERS))
    again, found = timed(lambda: find_known(candidates, known, tolerances, workers=WORKERS))
    sample = range(0, 500, 25)
    theirs, expected = timed(lambda: [_first_fit(candidates[i], known, references, tolerances) for i in sample])
    named = [None if (match := found.matches[i]) is None else int(match.reference_id) for i in sample]
    print(  # noqa: T201
        f"\n500 crystals against {len(references)} references: {first.wall:.2f} s with their reduction, "
        f"{again.wall:.2f} s after it, {sum(m is not None for m in found.matches)} known\n"
        f"  pymatgen {25 * theirs.wall:.0f} s (25 times 20 of them): {25 * theirs.wall / first.wall:.0f} times "
        f"as fast, {25 * theirs.cpu / first.cpu:.0f} times by processor time; {found.pairs.as_dict()}"
    )
    assert named == expected


def _first_fit(crystal: Crystal, known: ReferenceSet, references: list[Crystal], tolerances: Tolerances) -> int | None:
    from generative.screening.matching import formula_key

    matcher = tolerances.matcher()
    structure = crystal.to_structure()
    for index in known.with_formula(formula_key(crystal)):
        if matcher.fit(references[index].to_structure(), structure):
            return index
    return None


def _shaken(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    lattice = crystal.lattice_ang @ (np.eye(3) + 0.01 * rng.normal(size=(3, 3)))
    frac = crystal.frac + 0.05 * rng.normal(size=crystal.frac.shape) @ np.linalg.inv(lattice)
    return Crystal(lattice, np.mod(frac + rng.random(3), 1), crystal.atomic_numbers)
