"""Candidates made in place of sampled ones, some thousand a second, for loads that no generator fills in time.

Each is a real crystal of the asked stoichiometry in another chemistry, its atoms replaced, its volume changed, its cell
strained and its atoms displaced, then written in another cell; or, where no real crystal has the stoichiometry and in
some cases besides, atoms at random in a random cell. Formulas and cell sizes are those of a run's plan, so the sizes of
the groups that have to be compared are those of a run. Seeded: candidate i is the same whatever n is.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
import pyarrow as pa

from configs.paths import resolve
from generative.config import ConditionsConfig
from generative.crystal.crystals import Crystal
from generative.datasets.records import formula_of
from generative.plans.plan import plan
from generative.requests import Request
from tasks.discover.candidates import SAMPLED, Proposer, table_of
from tests.cifs import parse_cif

ELEMENTS = ("Al", "Ti", "N")
FILES = ("mp_20_train_part", "mp_20_val", "mp_20_test", "wbm_val")
ROWS_PER_FILE = 4000
MOST_ATOMS = 16
REAL_SHARE = 0.7
"""Share of candidates made of a real crystal, where one has the stoichiometry."""

VOLUME_ANG3 = (9.0, 16.0)
"""Volume per atom is drawn between these; that of AlN is 10, of TiAl 16."""

DISPLACEMENT_ANG, STRAIN = 0.12, 0.03
"""Mean of the exponential from which the size of a candidate's displacements is drawn; standard deviation of strain."""


@lru_cache(maxsize=1)
def real_crystals() -> dict[tuple[int, ...], list[Crystal]]:
    """Real crystals of three elements by their atoms per element, fewest first; elements are numbered in that order.

    Raises: AssetError: if the files are not on this machine.
    """
    found: dict[tuple[int, ...], list[Crystal]] = defaultdict(list)
    for name in FILES:
        with gzip.open(resolve(f"assets:data/{name}.csv.gz"), "rb") as raw:
            for row in islice(csv.DictReader(io.TextIOWrapper(raw, "utf-8")), ROWS_PER_FILE):
                crystal = parse_cif(row["cif"], 1000)
                numbers, counts = np.unique(crystal.atomic_numbers, return_counts=True)
                if len(numbers) != 3 or counts.sum() > MOST_ATOMS:
                    continue
                order = np.argsort(counts, kind="stable")
                place = {int(numbers[i]): rank for rank, i in enumerate(order)}
                kinds = np.array([place[int(z)] for z in crystal.atomic_numbers])
                found[tuple(int(n) for n in counts[order])].append(Crystal(crystal.lattice_ang, crystal.frac, kinds))
    return dict(found)


def made_crystal(condition: Request, rng: np.random.Generator) -> Crystal:
    """A crystal of the asked atoms."""
    counts = condition.formula_counts
    numbers = np.array(condition.atomic_numbers, dtype=np.int16)
    n = len(numbers)
    volume_ang3 = n * rng.uniform(*VOLUME_ANG3)
    models = real_crystals().get(tuple(sorted(count for _, count in counts)), [])
    if models and rng.random() < REAL_SHARE:
        model = models[rng.integers(len(models))]
        # Elements of equal count may stand on each other's sites.
        ranked = sorted(range(len(counts)), key=lambda i: (counts[i][1], rng.random()))
        zs = np.array([int(numbers[sum(c for _, c in counts[:i])]) for i in ranked], dtype=np.int16)
        numbers = zs[model.atomic_numbers]
        lattice = model.lattice_ang @ (np.eye(3) + STRAIN * rng.normal(size=(3, 3)))
        lattice *= (volume_ang3 / abs(np.linalg.det(lattice))) ** (1 / 3)
        steps = rng.exponential(DISPLACEMENT_ANG) * rng.normal(size=(n, 3))
        frac = model.frac + steps @ np.linalg.inv(lattice)
    else:
        lattice = np.diag(rng.uniform(0.6, 1.6, 3)) @ (np.eye(3) + 0.15 * rng.normal(size=(3, 3)))
        lattice *= (volume_ang3 / abs(np.linalg.det(lattice))) ** (1 / 3)
        frac = _apart(lattice, n, rng)
    return _disguised(lattice, frac, numbers, rng)


def _apart(lattice: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Random fractional coordinates, (n, 3), each the farthest of a few draws from those before it."""
    frac = rng.random((1, 3))
    while len(frac) < n:
        drawn = rng.random((12, 3))
        steps = drawn[:, None, :] - frac[None, :, :]
        distances = np.linalg.norm((steps - np.rint(steps)) @ lattice, axis=2).min(axis=1)
        frac = np.concatenate([frac, drawn[[distances.argmax()]]])
    return frac


def _disguised(lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, rng: np.random.Generator) -> Crystal:
    """The same crystal turned, moved, in another basis and order; right-handed."""
    if rng.random() < 0.5:
        i, j = rng.choice(3, 2, replace=False)
        shear = np.eye(3)
        shear[i, j] = rng.choice([-1, 1])
        frac, lattice = frac @ np.linalg.inv(shear), shear @ lattice
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    lattice = lattice @ turned
    if np.linalg.det(lattice) < 0:
        lattice = -lattice
    order = rng.permutation(len(frac))
    moved = np.mod(frac + rng.random(3), 1)[order]
    return Crystal(lattice, np.where(moved >= 1, 0.0, moved), numbers[order])


def made_candidates(n: int, seed: int = 0, chunk: int = 10_000) -> Iterator[pa.Table]:
    """The table of n candidates as sampling leaves it, in pieces of `chunk` rows, columns SAMPLED."""
    conditions = plan(ConditionsConfig(), ELEMENTS, n, seed)
    for first in range(0, n, chunk):
        rows = []
        for index in range(first, min(first + chunk, n)):
            crystal = made_crystal(conditions[index], np.random.default_rng((seed, index)))
            rows.append(
                {
                    "id": hashlib.sha256(f"{seed} {index}".encode()).hexdigest()[:16],
                    "proposed_by": Proposer.GENERATOR.value,
                    "index": index,
                    "formula": formula_of(crystal.atomic_numbers),
                    "condition": conditions[index].to_json(),
                    "n_atoms": len(crystal.atomic_numbers),
                    "lattice_ang": crystal.lattice_ang.ravel(),
                    "frac_coords": crystal.frac.ravel(),
                    "atomic_numbers": crystal.atomic_numbers,
                }
            )
        yield table_of(rows, SAMPLED)
