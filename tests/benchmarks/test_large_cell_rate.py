"""Time to check one crystal of 1,000 atoms, the most a record may have. Times are printed, never asserted."""

from __future__ import annotations

import time

import numpy as np
import pytest

from generative.crystal.crystals import Crystal
from generative.datasets.checks import checked
from generative.datasets.records import row_of

pytestmark = pytest.mark.benchmark


def grid(noise_ang: float, elements: tuple[int, ...], displaced_ang: float = 0.0) -> Crystal:
    """A cubic grid of 10 x 10 x 10 atoms, 3 A apart, each moved by about noise_ang and one by displaced_ang."""
    rng = np.random.default_rng(0)
    frac = np.stack(np.meshgrid(*[range(10)] * 3, indexing="ij"), -1).reshape(-1, 3) / 10
    frac = frac + rng.normal(scale=noise_ang / 30, size=frac.shape)
    frac[500] += displaced_ang / 30
    numbers = np.array([elements[i % len(elements)] for i in range(1000)], dtype=np.int16)
    return Crystal(np.eye(3) * 30.0, frac % 1, numbers)


@pytest.mark.parametrize(
    ("name", "crystal"),
    [
        ("one element, disordered", grid(0.3, (29,))),
        ("two elements, disordered", grid(0.3, (29, 79))),
        ("one element, perfect", grid(0.0, (29,))),
        ("one element, one atom displaced", grid(0.0, (29,), 0.15)),
        ("one element, moved as far as symmetry is looked for", grid(0.005, (29,))),
    ],
)
def test_time_to_check_a_thousand_atoms(name: str, crystal: Crystal) -> None:
    started_s = time.perf_counter(), time.process_time()
    row = row_of(checked(crystal), "s", "1", "PBE", {})
    took_s = time.perf_counter() - started_s[0], time.process_time() - started_s[1]
    print(f"\n{name}: {took_s[0]:.2f} s ({took_s[1]:.2f} of processor time), space group {row['spacegroup']}")
    assert row["n_atoms"] in (1, 1000)
