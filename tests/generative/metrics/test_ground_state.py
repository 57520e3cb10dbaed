"""Truth: pymatgen's matcher and numpy over the arrays, written out; and dft.potentials.ground_state pair by pair."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from dft.potentials.ground_state import compare, summarise
from dft.results import Relaxation, RelaxStatus
from generative.metrics.ground_state import Relaxations, ground_state
from generative.metrics.metric import Evaluation
from tests.generative.metrics.crystal_sets import N_REAL, csp_rms, real_crystals, samples_of_real, structure_of


@lru_cache(maxsize=1)
def relaxations() -> Relaxations:
    """Perturbed crystals that 'relax' to the real ones; some have no relaxed crystal, some no energy."""
    rng = np.random.default_rng(5)
    before = rng.normal(-3, 1, N_REAL)
    after = before - rng.exponential(0.2, N_REAL)
    after[::17] = np.nan
    relaxed = [None if i % 13 == 12 else crystal for i, crystal in enumerate(real_crystals())]
    steps = rng.integers(3, 200, N_REAL).astype(float)
    converged = [crystal is not None and n < 150 for crystal, n in zip(relaxed, steps, strict=True)]
    return Relaxations(samples_of_real(), relaxed, before, after, steps, converged, "a potential", 10.0)


@lru_cache(maxsize=1)
def found() -> Evaluation:
    return ground_state(relaxations())


def differences() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rms, dv, de = [], [], []
    given = relaxations()
    for i, (sample, relaxed) in enumerate(zip(given.generated, given.relaxed, strict=True)):
        a, b = structure_of(sample), structure_of(relaxed)
        de.append(given.energy_ev_per_atom[i] - given.initial_energy_ev_per_atom[i])
        dv.append(math.nan if a is None or b is None else b.volume / len(b) - a.volume / len(a))
        rms.append(math.nan if b is None else csp_rms().get((i, i), math.nan))
    return np.array(rms), np.array(dv), np.array(de)


def test_every_metric_is_that_of_the_arrays_written_out() -> None:
    rms, dv, de = differences()
    given = relaxations()
    converged = np.array(given.converged)
    sizes = np.array([math.nan if c is None else len(c.atomic_numbers) for c in given.generated])
    truth = {
        "match rate": 100 * np.isfinite(rms).mean(),
        "mean rms": np.nanmean(rms),
        "median rms": np.nanmedian(rms),
        "dV rms": np.sqrt(np.nanmean(dv**2)),
        "median dV": np.nanmedian(dv),
        "dV, 5 %": np.nanpercentile(dv, 5),
        "dV, 95 %": np.nanpercentile(dv, 95),
        "dE rms": 1000 * np.sqrt(np.nanmean(de**2)),
        "median dE": 1000 * np.nanmedian(de),
        "dE, 5 %": 1000 * np.nanpercentile(de, 5),
        "dE, 95 %": 1000 * np.nanpercentile(de, 95),
        "convergence rate": 100 * converged.mean(),
        "mean steps": given.n_steps[converged].mean(),
        "median steps": np.median(given.n_steps[converged]),
        "mean energy drop": -np.nanmean(de),
        "mean energy drop per cell": -np.nanmean(de * sizes),
        "isolated": 0.0,
    }
    assert {metric.name: metric.value for metric in found().metrics} == pytest.approx(truth, abs=1e-9)
    assert {f.name: f.n for f in found().metrics}["mean rms"] == np.isfinite(rms).sum()
    assert 0 < truth["match rate"] < 100


def test_the_room_of_dft_says_the_same_pair_by_pair() -> None:
    given = relaxations()
    pairs = [i for i in range(N_REAL) if structure_of(given.generated[i]) is not None and i % 8 == 0]
    results = []
    for i in pairs:
        relaxed = Relaxation(
            status=RelaxStatus.CONVERGED,
            structure=structure_of(given.relaxed[i]),
            energy_ev_per_atom=float(given.energy_ev_per_atom[i]),
            initial_energy_ev_per_atom=float(given.initial_energy_ev_per_atom[i]),
            fmax_ev_per_ang=None,
            max_stress_gpa=None,
            n_steps=int(given.n_steps[i]),
        )
        results.append(compare(structure_of(given.generated[i]), relaxed))
    summary = summarise(results)
    ours = ground_state(
        replace(
            given,
            generated=[given.generated[i] for i in pairs],
            relaxed=[given.relaxed[i] for i in pairs],
            **{name: np.asarray(getattr(given, name))[pairs] for name in COLUMNS},
        )
    )
    assert ours.metric("match rate").value == pytest.approx(100 * summary.match_rate)
    for name, value in (
        ("mean rms", summary.rms_mean),
        ("median rms", summary.rms_median),
        ("median dV", summary.dv_median_ang3_per_atom),
        ("dV rms", summary.dv_rms_ang3_per_atom),
        ("median dE", 1000 * summary.de_median_ev_per_atom),
        ("dE rms", 1000 * summary.de_rms_ev_per_atom),
    ):
        assert ours.metric(name).value == pytest.approx(value, abs=1e-9)


COLUMNS = ("initial_energy_ev_per_atom", "energy_ev_per_atom", "n_steps", "converged")


def test_settings_name_the_potential_the_pressure_and_the_counts() -> None:
    for metric in found().metrics:
        assert {
            "potential": "a potential",
            "pressure_gpa": 10.0,
            "n_samples": N_REAL,
        }.items() <= metric.settings.items()
    assert "no relaxed crystal" in found().metric("match rate").reason
    assert "have no value" in found().metric("dE rms").reason


def test_a_crystal_that_relaxes_to_itself_differs_by_nothing() -> None:
    crystal = real_crystals()[50]
    result = ground_state(Relaxations([crystal], [crystal], [-1.0], [-1.0], [0], [True], "p"))
    for name in ("mean rms", "dV rms", "dE rms", "mean energy drop"):
        assert result.metric(name).value == pytest.approx(0, abs=1e-9)
    assert result.metric("match rate").value == 100


def test_nothing_relaxed_leaves_all_but_the_rates_undefined() -> None:
    nan = [math.nan] * 2
    result = ground_state(Relaxations([real_crystals()[0], None], [None, None], nan, nan, nan, [False, False], "p"))
    for metric in result.metrics:
        if metric.name in ("match rate", "convergence rate", "isolated"):
            assert (metric.value, metric.n) == (0, 2)
        else:
            assert math.isnan(metric.value)
            assert metric.reason


def test_an_empty_set_is_undefined_and_columns_of_unequal_length_are_refused() -> None:
    result = ground_state(Relaxations([], [], [], [], [], [], "p"))
    assert all(math.isnan(metric.value) and metric.reason for metric in result.metrics)
    with pytest.raises(ValueError, match="one entry per sample"):
        Relaxations([None], [], [], [], [], [], "p")


def test_isolated_samples_are_counted_and_leave_every_other_metric_as_it_is_without_them() -> None:
    given = relaxations()
    rng = np.random.default_rng(11)
    isolated = rng.random(N_REAL) < 0.3
    crystals = [c if flag else r for c, r, flag in zip(given.generated, given.relaxed, isolated, strict=True)]
    with_them = replace(given, relaxed=crystals, isolated=isolated)  # as if at rest: each would match itself
    others = np.flatnonzero(~isolated)
    without = replace(
        given,
        generated=[given.generated[i] for i in others],
        relaxed=[given.relaxed[i] for i in others],
        **{name: np.asarray(getattr(given, name))[others] for name in COLUMNS},
    )
    found_, expected = ground_state(with_them), ground_state(without)
    for metric in expected.metrics:
        if metric.name != "isolated":
            assert (found_.metric(metric.name).value, found_.metric(metric.name).n) == pytest.approx(
                (metric.value, metric.n), abs=1e-12
            )
    counted = found_.metric("isolated")
    assert counted.value == pytest.approx(100 * isolated.mean())
    assert counted.n == N_REAL
    assert f"{isolated.sum()} samples with an atom" in counted.reason
    assert found_.metric("match rate").settings["n_isolated"] == isolated.sum()
    for name in ("match rate", "convergence rate"):
        assert f"{isolated.sum()} isolated samples left out" in found_.metric(name).reason
    columns = found_.per_sample
    assert np.flatnonzero(columns["isolated"]).tolist() == np.flatnonzero(isolated).tolist()
    for name in ("rms", "dv_ang3_per_atom", "de_ev_per_atom"):
        assert [columns[name][i] for i in others] == list(expected.per_sample[name])
        assert all(columns[name][i] is None for i in np.flatnonzero(isolated))


def test_of_isolated_samples_alone_there_is_no_ground_state_metric() -> None:
    crystals = list(real_crystals()[:4])
    energies = [-1.0] * 4
    result = ground_state(
        Relaxations(crystals, crystals, energies, energies, [0] * 4, [True] * 4, "p", isolated=[True] * 4)
    )
    assert result.metric("isolated").value == 100
    for metric in result.metrics:
        if metric.name != "isolated":
            assert math.isnan(metric.value)
            assert metric.n == 0
            assert metric.reason.startswith("there are no ")
    assert result.metric("dE rms").reason == "there are no samples without isolated atoms"
    assert result.per_sample["converged"] == (False,) * 4
