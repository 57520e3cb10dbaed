"""What the benchmark of judges found: judges.json, judges.md, and a calibration with its pairs for each potential."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.judges import JudgesConfig
from dft.potentials.calibration import SCHEMA_VERSION
from storage.atomic import write_text
from tasks.judges.curves import Fit, fit, verdicts
from tasks.judges.measuring import DIGITS, Measured

if TYPE_CHECKING:
    from dft.potentials.loading import LoadedPotential

JSON, TABLE = "judges.json", "judges.md"
BOUNDS_EV_PER_ATOM = (0.0, 0.05, 0.1)
MISSING = "by DFT, without the phases that have no crystal"
BY_DFT_HULL = "formation energy on DFT's hull"
OWN_HULL = "own hull, no phase missing"
"""Protocols; see tasks.judges.measuring."""
PAIRS = ("row", "above_dft", "above_own", "formation_error", "is_whole")


@dataclass(frozen=True)
class Judged:
    """One potential.

    Attributes:
        potential: who.
        measured: of crystals as DFT relaxed them.
        relaxed: of some of them, relaxed by the potential; None where none were.
    """

    potential: LoadedPotential
    measured: Measured
    relaxed: Measured | None = None


def protocols(measured: Measured) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, true and predicted distances (n,) by each protocol."""
    yield MISSING, measured.above, measured.above_lacking
    there = np.isfinite(measured.formation_error)
    yield BY_DFT_HULL, measured.above[there], measured.above_by_dft_hull[there]
    there = np.isfinite(measured.above_own)
    yield OWN_HULL, measured.above[there], measured.above_own[there]


def figures(true: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """n, errors (eV/atom) and verdicts of one protocol; empty arrays give n alone."""
    if not len(true):
        return {"n": 0}
    calls = [verdicts(true, predicted, bound) for bound in BOUNDS_EV_PER_ATOM]
    error = predicted - true
    return {
        "n": len(true),
        "mae_ev_per_atom": float(np.abs(error).mean()),
        "mean_error_ev_per_atom": float(error.mean()),
        "median_absolute_error_ev_per_atom": float(np.median(np.abs(error))),
        "verdicts": [{**vars(v), "precision": v.precision, "recall": v.recall, "f1": v.f1} for v in calls],
    }


def fits(measured: Measured, seed: int) -> dict[float, Fit]:
    """The curves by bound, of distances above the potential's own hull where no phase is missing."""
    chosen = np.isfinite(measured.above_own)
    formulas = [name for name, is_in in zip(measured.formulas, chosen, strict=True) if is_in]
    above, own = measured.above[chosen], measured.above_own[chosen]
    return {bound: fit(own, above <= bound, formulas, seed) for bound in BOUNDS_EV_PER_ATOM}


def calibration(judged: Judged, config: JudgesConfig, data: str) -> dict[str, Any]:
    """The document that dft.potentials.calibration reads."""
    measured = judged.measured
    found = {name: figures(true, predicted) for name, true, predicted in protocols(measured)}
    curves = fits(measured, config.seed)
    whole = found[OWN_HULL]
    return {
        "schema_version": SCHEMA_VERSION,
        "method": judged.potential.method,
        "fingerprint": judged.potential.fingerprint,
        "scheme": judged.potential.scheme.value,
        "n": whole["n"],
        "data": data,
        "mae_ev_per_atom": whole["mae_ev_per_atom"],
        "mae_formation_ev_per_atom": float(np.nanmean(np.abs(measured.formation_error))),
        "curves": {
            f"{bound:g}": {
                "form": one.form,
                "log_loss_held_out": one.log_loss,
                "log_loss_of_the_share": one.base_log_loss,
                "e_above_hull_ev_per_atom": one.curve.e_above_hull_ev_per_atom,
                "probability": one.curve.probability,
            }
            for bound, one in curves.items()
        },
        "elements_ev_per_atom": measured.elements,
        "figures": found,
        "figures_relaxed": relaxed_beside(judged),
    }


def relaxed_beside(judged: Judged) -> dict[str, Any] | None:
    """Figures of the crystals that were relaxed, as DFT relaxed them and as the potential did; None without any."""
    if judged.relaxed is None:
        return None
    n = len(judged.relaxed.rows)
    first = judged.measured
    same = Measured(
        first.rows[:n], first.formulas[:n], first.above[:n], first.formation_error[:n], first.above_own[:n],
        first.above_lacking[:n], first.is_whole[:n], first.elements,
    )  # fmt: skip
    return {
        how: {name: figures(true, predicted) for name, true, predicted in protocols(one)}
        for how, one in (("as DFT relaxed them", same), ("relaxed with the potential", judged.relaxed))
    }


def pairs(measured: Measured) -> str:
    """The numbers that a calibration rests on, as CSV."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(PAIRS)
    columns = (measured.above, measured.above_own, measured.formation_error)
    for row, *numbers, whole in zip(measured.rows, *columns, measured.is_whole, strict=True):
        said = ["" if not np.isfinite(number) else f"{number:.{DIGITS}f}" for number in numbers]
        rows.writerow([row, *said, int(whole)])
    return text.getvalue()


def write_results(found: Sequence[Judged], config: JudgesConfig, data: str) -> Path:
    """All files; returns the table's."""
    documents = [calibration(judged, config, data) for judged in found]
    for judged, document in zip(found, documents, strict=True):
        name = re.sub(r"[^\w.-]+", "-", judged.potential.name)
        write_text(config.calibrations_folder / f"{name}.json", _json(document))
        write_text(config.calibrations_folder / f"{name}.csv", pairs(judged.measured))
    write_text(config.folder / JSON, _json({"settings": config.model_dump(mode="json"), "potentials": documents}))
    write_text(config.folder / TABLE, markdown(documents))
    return config.folder / TABLE


def markdown(documents: Sequence[dict[str, Any]]) -> str:
    """A row for each potential and protocol."""
    bounds = [f"F1 / precision / recall at {bound:g}" for bound in BOUNDS_EV_PER_ATOM]
    lines = ["| " + " | ".join(["potential", "distance", "n", "MAE", *bounds]) + " |", "|---" * 7 + "|"]
    for document in documents:
        told = dict(document["figures"])
        for how, some in (document["figures_relaxed"] or {}).items():
            told |= {f"{name}; {how}": one for name, one in some.items()}
        for name, one in told.items():
            if one["n"]:
                lines.append("| " + " | ".join([document["method"], name, *_cells(one)]) + " |")
    return "\n".join(lines) + "\n"


def _cells(one: dict[str, Any]) -> list[str]:
    calls = [" / ".join(_share(v[k]) for k in ("f1", "precision", "recall")) for v in one["verdicts"]]
    return [f"{one['n']:,}", f"{one['mae_ev_per_atom']:.3f}", *calls]


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
