"""Truth: pymatgen's rms of every pair."""

import math

import numpy as np
import pytest

from generative.metrics import nearest_match as module
from generative.metrics.nearest_match import nearest_match
from generative.screening.matching import ReferenceSet, Tolerances
from tests.generative.metrics.crystal_sets import (
    N_REAL,
    csp_rms,
    formula_of,
    real_crystals,
    samples_of_real,
    structure_of,
)

CSP = Tolerances.of(0.3, 0.5, 10.0)


@pytest.mark.parametrize("tile", [1, 3, 500])
def test_the_nearest_either_way_is_pymatgens_whatever_the_tiles(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    n = N_REAL if tile == 500 else 80
    samples = [None if structure_of(s) is None else s for s in samples_of_real()[:n]]
    found = nearest_match(samples, ReferenceSet([str(i) for i in range(n)], real_crystals()[:n]), CSP)
    of_sample, of_reference = np.full(n, math.nan), np.full(n, math.nan)
    for (i, j), rms in csp_rms().items():
        if i < n and j < n:
            of_sample[i], of_reference[j] = np.fmin(of_sample[i], rms), np.fmin(of_reference[j], rms)
    np.testing.assert_allclose(found.of_sample, of_sample, atol=1e-9)
    np.testing.assert_allclose(found.of_reference, of_reference, atol=1e-9)
    assert np.isfinite(of_sample).any()
    formulas = [formula_of(structure_of(c)) for c in real_crystals()[:n]]
    asked = [formula_of(structure_of(s)) for s in samples if s is not None]
    assert found.n_pairs == sum(formulas.count(formula) for formula in asked)


def test_nothing_against_nothing_gives_nothing() -> None:
    found = nearest_match([None], ReferenceSet([], []), CSP)
    assert np.isnan(found.of_sample).all()
    assert (len(found.of_reference), found.n_pairs, found.failures) == (0, 0, {})
