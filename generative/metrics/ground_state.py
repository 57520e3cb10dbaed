"""How close generated crystals are to what they relax to: match, displacement, volume, energy, steps.

Differences are relaxed minus generated, per atom, as in dft.potentials.ground_state; only an energy drop is the other
way round. The relaxation is done elsewhere: what comes here are arrays, one entry per sample, and the name of the model
or DFT method that made the energies. A potential in place of DFT, or no pressure where the paper has 10 GPa, gives
metrics that compare with one another but not with the paper's, so both are settings.

The papers' metrics: match rate (of ALL samples: one that failed to relax is no match), mean rms over the matched, root
mean squares of dV and dE over the relaxed, converged or not (DP-CDVAE, Sci. Rep. 2024, Table 3); convergence rate, mean
number of steps of the converged, mean energy drop (ConditionCDVAE+, Sci. Rep. 2025, doi:10.1038/s41598-025-06432-9,
Table 3, apparently per cell). A few crystals that relax far away decide a root mean square, so medians and 5 and 95 %
quantiles stand beside it.

A sample whose relaxation ended with an atom that has no neighbour within the potential's cut-off is in none of them: no
force acts on that atom wherever it stands, and a crystal of such atoms would match itself without any displacement.
These samples are counted beside, as 'isolated'; every other share is of the samples without them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from generative.crystal.crystals import Crystal
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.reconstruction import RMS_UNIT, csp_tolerances, settings_of
from generative.metrics.shares import counted, percentage, statistic
from generative.metrics.validity import unmatchable, unreadable
from generative.screening.matching import pairwise_rms

PROTOCOL = "ground state"
ABOUT = (
    "Generated crystals against what they relax to: match, rms, volume and energy change (DP-CDVAE, Table 3), "
    "convergence and steps (ConditionCDVAE+, Table 3)."
)
MEV_PER_EV = 1000.0


@dataclass(frozen=True)
class Relaxations:
    """What relaxation made of the samples: one entry each, in order.

    Attributes:
        generated: as they entered the relaxation; None where a sample is no crystal.
        relaxed: None where there is no relaxed crystal.
        initial_energy_ev_per_atom: of the generated crystals, (n,), eV/atom; NaN where unknown.
        energy_ev_per_atom: of the relaxed crystals, with the same method, (n,), eV/atom; NaN where unknown.
        n_steps: of each relaxation, (n,); NaN where there was none.
        converged: whether each relaxation met its criterion; False where there was none.
        potential: name of the model or DFT method.
        pressure_gpa: at which was relaxed, GPa. The energies are taken as they come, with or without a PV term.
        isolated: whether each relaxation ended with an atom that the potential does not see; None: none did.
    """

    generated: Sequence[Crystal | None]
    relaxed: Sequence[Crystal | None]
    initial_energy_ev_per_atom: Sequence[float] | np.ndarray
    energy_ev_per_atom: Sequence[float] | np.ndarray
    n_steps: Sequence[float] | np.ndarray
    converged: Sequence[bool] | np.ndarray
    potential: str
    pressure_gpa: float = 0.0
    isolated: Sequence[bool] | np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if self.isolated is not None:
            lengths["isolated"] = len(self.isolated)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns have the lengths {lengths}: expected one entry per sample in each")


_COLUMNS = ("generated", "relaxed", "initial_energy_ev_per_atom", "energy_ev_per_atom", "n_steps", "converged")


def ground_state(relaxations: Relaxations, workers: int = 1) -> Evaluation:
    """The metrics of DP-CDVAE's and ConditionCDVAE+'s ground-state tests.

    Args:
        relaxations: generated and relaxed crystals with energies, steps and convergence.
        workers: of the matcher; the result does not depend on it.
    """
    started = time.perf_counter()
    n_samples = len(relaxations.generated)
    flags = [False] * n_samples if relaxations.isolated is None else relaxations.isolated
    isolated = np.asarray(flags, dtype=bool).reshape(-1)
    relaxations = _taken(relaxations, np.flatnonzero(~isolated))
    rms, n_relaxed, n_failures = _rms(relaxations, workers)
    seconds = {"matching": time.perf_counter() - started}
    dv = np.array([_dv(*pair) for pair in zip(relaxations.generated, relaxations.relaxed, strict=True)], dtype=float)
    de = _column(relaxations.energy_ev_per_atom) - _column(relaxations.initial_energy_ev_per_atom)
    sizes = [math.nan if crystal is None else len(crystal.atomic_numbers) for crystal in relaxations.generated]
    settings: dict[str, Setting] = {
        "potential": relaxations.potential,
        "pressure_gpa": relaxations.pressure_gpa,
        "n_samples": n_samples,
        "n_isolated": int(isolated.sum()),
        "n_relaxed": n_relaxed,
    }
    metrics = (
        *_match_metrics(rms, n_relaxed, n_failures, settings),
        *_spread("dV", dv, "A^3/atom", settings),
        *_spread("dE", de * MEV_PER_EV, "meV/atom", settings),
        *_relaxation_metrics(relaxations, de, np.array(sizes, dtype=float), settings),
        percentage(PROTOCOL, "isolated", int(isolated.sum()), n_samples, settings, _isolated_reason(isolated)),
    )
    columns: dict[str, tuple[object, ...]] = {
        "rms": _optional(_spread_out(rms, ~isolated)),
        "dv_ang3_per_atom": _optional(_spread_out(dv, ~isolated)),
        "de_ev_per_atom": _optional(_spread_out(de, ~isolated)),
        "converged": tuple((_spread_out(_column(relaxations.converged), ~isolated) == 1.0).tolist()),
        "isolated": tuple(isolated.tolist()),
    }
    return Evaluation(PROTOCOL, ABOUT, metrics, seconds, columns)


def _taken(relaxations: Relaxations, places: np.ndarray) -> Relaxations:
    """The relaxations at these places alone."""
    columns: dict[str, Any] = {name: [getattr(relaxations, name)[place] for place in places] for name in _COLUMNS}
    return replace(relaxations, **columns, isolated=None)


def _spread_out(values: np.ndarray, is_there: np.ndarray) -> np.ndarray:
    """Values of some samples as those of all, NaN for the others."""
    column = np.full(len(is_there), math.nan)
    column[is_there] = values
    return column


def _isolated_reason(isolated: np.ndarray) -> str:
    what = "with an atom that has no neighbour within the potential's cut-off: in no other ground-state figure"
    return counted(int(isolated.sum()), f"sample {what}|samples {what}")


def _rms(relaxations: Relaxations, workers: int) -> tuple[np.ndarray, int, int]:
    """(rms of the generated against the relaxed crystal, NaN without a match; relaxed crystals; pairs that failed)."""
    pairs = [
        (index, generated, relaxed)
        for index, (generated, relaxed) in enumerate(zip(relaxations.generated, relaxations.relaxed, strict=True))
        if generated is not None and relaxed is not None and not (unmatchable(generated) or unmatchable(relaxed))
    ]
    n_relaxed = sum(relaxed is not None for relaxed in relaxations.relaxed)
    found = pairwise_rms([g for _, g, _ in pairs], [r for _, _, r in pairs], csp_tolerances(), workers)
    rms = np.full(len(relaxations.generated), math.nan)
    rms[[index for index, _, _ in pairs]] = found.rms
    return rms, n_relaxed, n_relaxed - len(pairs) + len(found.failures)


def _dv(generated: Crystal | None, relaxed: Crystal | None) -> float:
    """Volume per atom, relaxed minus generated, A^3; NaN where one of them is no crystal."""
    if generated is None or relaxed is None or unreadable(generated) or unreadable(relaxed):
        return math.nan
    per_atom = [abs(float(np.linalg.det(c.lattice_ang))) / len(c.atomic_numbers) for c in (relaxed, generated)]
    return per_atom[0] - per_atom[1]


def _match_metrics(
    rms: np.ndarray, n_relaxed: int, n_failures: int, settings: dict[str, Setting]
) -> tuple[Metric, ...]:
    used = {**settings, **settings_of(csp_tolerances())}
    matched = rms[np.isfinite(rms)]
    reasons = (
        counted(len(rms) - n_relaxed, "sample has no relaxed crystal|samples have no relaxed crystal"),
        counted(n_failures, "pair could not be matched|pairs could not be matched"),
    )
    reason = "; ".join(r for r in (*reasons, _left_out(settings)) if r)
    return (
        percentage(PROTOCOL, "match rate", len(matched), len(rms), used, reason, _of(settings)),
        statistic(PROTOCOL, "mean rms", matched, "mean", RMS_UNIT, used, of="matched samples"),
        statistic(PROTOCOL, "median rms", matched, "median", RMS_UNIT, used, of="matched samples"),
    )


def _spread(name: str, values: np.ndarray, unit: str, settings: dict[str, Setting]) -> tuple[Metric, ...]:
    """Root mean square, median, 5 and 95 % quantile of a signed difference."""
    titles = {"rms": f"{name} rms", "median": f"median {name}", "q05": f"{name}, 5 %", "q95": f"{name}, 95 %"}
    of = _of(settings)
    return tuple(statistic(PROTOCOL, title, values, how, unit, settings, of=of) for how, title in titles.items())


def _left_out(settings: Mapping[str, Setting]) -> str:
    """How many samples a rate is without."""
    return counted(int(settings["n_isolated"] or 0), "isolated sample left out|isolated samples left out")


def _of(settings: Mapping[str, Setting]) -> str:
    """What the metrics are of."""
    return "samples without isolated atoms" if settings["n_isolated"] else "samples"


def _relaxation_metrics(
    relaxations: Relaxations, de_ev_per_atom: np.ndarray, n_atoms: np.ndarray, settings: dict[str, Setting]
) -> tuple[Metric, ...]:
    converged = np.asarray(relaxations.converged, dtype=bool).reshape(-1)
    steps = _column(relaxations.n_steps)[converged]
    drop = -de_ev_per_atom
    of = "converged samples"
    return (
        percentage(
            PROTOCOL,
            "convergence rate",
            int(converged.sum()),
            len(converged),
            settings,
            _left_out(settings),
            _of(settings),
        ),
        statistic(PROTOCOL, "mean steps", steps, "mean", "steps", settings, of=of),
        statistic(PROTOCOL, "median steps", steps, "median", "steps", settings, of=of),
        statistic(PROTOCOL, "mean energy drop", drop, "mean", "eV/atom", settings, of=_of(settings)),
        statistic(PROTOCOL, "mean energy drop per cell", drop * n_atoms, "mean", "eV", settings, of=_of(settings)),
    )


def _column(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=float).reshape(-1)


def _optional(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(value if math.isfinite(value) else None for value in values.tolist())
