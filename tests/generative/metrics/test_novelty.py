"""Truth: pymatgen's group_structures and fit over all pairs, and the rule of ConditionCDVAE+ written out."""

import math

import numpy as np
import pytest

from generative.crystal.crystals import Crystal
from generative.metrics.novelty import TOLERANCES, condition_cdvae_novelty, named_tolerances, novelty, uniqueness
from generative.screening.matching import ReferenceSet
from tests.generative.metrics.crystal_sets import (
    KNOWN,
    N_REAL,
    csp_rms,
    first_of_groups,
    fits_no_known,
    real_crystals,
    samples_of_real,
    structure_of,
)


def known() -> ReferenceSet:
    crystals = real_crystals()[KNOWN]
    return ReferenceSet([str(i) for i in range(len(crystals))], crystals)


@pytest.mark.parametrize("name", list(TOLERANCES))
def test_uniqueness_is_that_of_group_structures(name: str) -> None:
    truth = first_of_groups(*TOLERANCES[name])
    n_bad = sum(structure_of(sample) is None for sample in samples_of_real())
    found = uniqueness(samples_of_real(), [name])
    flags, metric = found.per_sample[f"unique_{name}"], found.metric(f"unique ({name})")
    assert {index for index, flag in enumerate(flags) if flag} == truth
    assert metric.value == pytest.approx(100 * len(truth) / N_REAL)
    assert found.metric(f"distinct ({name})").value == len(truth) < N_REAL - n_bad
    assert metric.settings["stol"] == TOLERANCES[name][1]
    assert flags.count(None) == n_bad > 0
    assert f"{n_bad} samples" in metric.reason


@pytest.mark.parametrize("name", list(TOLERANCES))
def test_novelty_is_that_of_fit_against_every_known_crystal(name: str) -> None:
    truth = fits_no_known(*TOLERANCES[name])
    found = novelty(samples_of_real(), known(), "every second", [name])
    assert found.per_sample[f"novel_{name}"] == truth
    metric = found.metric(f"novel ({name})")
    assert metric.value == pytest.approx(100 * sum(flag is True for flag in truth) / N_REAL)
    assert 0 < metric.value < 100
    assert {"known": "every second", "n_known": N_REAL // 2, "tolerances": name}.items() <= metric.settings.items()


def test_the_novelty_of_condition_cdvae_is_a_match_below_three_tenths_written_out() -> None:
    training = real_crystals()
    found = condition_cdvae_novelty(
        samples_of_real(), ReferenceSet([str(i) for i in range(len(training))], training), "all"
    )
    best = [min((r for (i, _), r in csp_rms().items() if i == index), default=None) for index in range(N_REAL)]
    readable = [structure_of(sample) is not None for sample in samples_of_real()]
    truth = tuple(bool(b is None or b >= 0.3) if ok else None for b, ok in zip(best, readable, strict=True))
    assert found.per_sample["novel"] == truth
    assert [math.nan if b is None else b for b in found.per_sample["rms"]] == pytest.approx(
        [math.nan if b is None else b for b in best], abs=1e-9, nan_ok=True
    )
    assert found.metric("novel").value == pytest.approx(100 * sum(flag is True for flag in truth) / N_REAL)
    matched = [b for b in best if b is not None]
    assert any(b >= 0.3 for b in matched)  # matched and novel all the same: where the rule differs from `novelty`
    assert found.metric("matched by a training crystal").value == pytest.approx(100 * len(matched) / N_REAL)
    assert found.metric("median of smallest rms").value == pytest.approx(np.median(matched), abs=1e-9)
    assert found.metric("novel").settings["rms_unit"] == "(V/N)^(1/3)"


def test_without_known_crystals_every_crystal_is_novel() -> None:
    samples = [*real_crystals()[:4], None]
    nothing = ReferenceSet([], [])
    assert novelty(samples, nothing, "none", ["csp"]).metric("novel (csp)").value == 80
    assert condition_cdvae_novelty(samples, nothing, "none").metric("novel").value == 80


def test_a_set_of_one_crystal_is_unique_and_an_empty_one_is_undefined() -> None:
    assert uniqueness(real_crystals()[:1], ["lemat"]).metric("unique (lemat)").value == 100
    for evaluation in (uniqueness([]), novelty([], known(), "k"), condition_cdvae_novelty([], known(), "k")):
        for metric in evaluation.metrics:
            assert math.isnan(metric.value) or (metric.unit == "crystals" and metric.value == 0)
            assert metric.n == 0


def test_a_set_of_nothing_but_broken_samples_has_neither() -> None:
    broken: list[Crystal | None] = [None, Crystal(np.zeros((3, 3)), np.zeros((1, 3)), np.array([6], dtype=np.int16))]
    unique = uniqueness(broken, ["csp"]).metric("unique (csp)")
    assert (unique.value, unique.n) == (0, 2)
    assert "2 samples" in unique.reason
    assert novelty(broken, known(), "k", ["csp"]).per_sample["novel_csp"] == (None, None)


def test_unknown_tolerances_are_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"'strict'.*csp"):
        named_tolerances("strict")


def test_crystals_of_a_sampler_that_diverged_have_no_verdict_and_do_not_stall_the_matcher() -> None:
    good = real_crystals()[0]
    shapes = (np.diag([0.3, 0.3, 300.0]), 1e-4 * np.eye(3), 3 * np.array([[1, 0, 0], [50, 1, 0], [0, 70, 1]]))
    wild = [Crystal(np.asarray(shape, dtype=float), good.frac, good.atomic_numbers) for shape in shapes]
    samples = [good, *wild, *wild]
    references = ReferenceSet(["good"], [good])
    assert uniqueness(samples, ["csp"]).per_sample["unique_csp"] == (True, *[None] * 6)
    assert novelty(samples, references, "one", ["csp"]).per_sample["novel_csp"] == (False, *[None] * 6)
    assert condition_cdvae_novelty(samples, references, "one").per_sample["novel"] == (False, *[None] * 6)
