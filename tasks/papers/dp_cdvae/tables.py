"""The tables of a reproduction: paper beside ours with its budget, claims, what stages took, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.reproduction import STAGES, ReproductionConfig
from generative.metrics.papers import papers
from tasks.files import key_of
from tasks.papers.dp_cdvae.claims import OUR_FIGURES, PAPER_NAMES, OurNumbers, PaperNumbers, claims, name_of
from tasks.papers.dp_cdvae.measures import (
    MEASURES,
    UNGATED,
    ceiling_inputs,
    generate_inputs,
    ground_state_inputs,
    reconstruct_inputs,
)
from tasks.papers.dp_cdvae.places import places, train_place
from tasks.papers.dp_cdvae.training import training_inputs
from tasks.papers.gathering import Collected, collect
from tasks.papers.results import Measured, Place, Result, digest_of
from tasks.papers.tables import Claims, Table, with_error
from tasks.report.evaluation.model import heading, value_text

INPUTS: dict[str, Callable[[ReproductionConfig, Place], dict[str, Any]]] = {
    "ceiling": ceiling_inputs,
    "reconstruct": reconstruct_inputs,
    "generate": generate_inputs,
    "ground-state": ground_state_inputs,
}
"""Stage -> what its result depends on, beside the code."""


@dataclass(frozen=True)
class Gathered(Collected):
    """All that a reproduction has measured.

    Attributes:
        config: its settings.
    """

    config: ReproductionConfig = field(kw_only=True)

    @property
    def claims(self) -> Claims:
        """The paper's claims with its numbers and ours."""
        chosen = {entry.name for entry in self.config.datasets}
        return Claims(claims(), PaperNumbers(), OurNumbers(self.results), name_of, chosen)


def gather(config: ReproductionConfig, failures: Mapping[Place, str] | None = None) -> Gathered:
    """The results of a reproduction; see gathering.collect."""
    every = (place for stage in STAGES for place in places(config, stage))
    found = collect(config, every, lambda place: _expected(config, place), failures or {})
    missing = dict(found.missing)
    if config.ground_state.dataset not in {entry.name for entry in config.datasets}:
        missing[Place("ground-state", config.ground_state.dataset)] = "the data set is not among those chosen"
    return Gathered(found.results, missing, found.foreign, config=config)


def _expected(config: ReproductionConfig, place: Place) -> tuple[str, str]:
    """Digests of inputs, and of inputs with code, that a result has if it is made now."""
    if place.stage not in INPUTS:
        inputs = training_inputs(config, config.dataset(place.dataset), place.system)
        return inputs, inputs
    stated = INPUTS[place.stage](config, place)
    return digest_of(stated), key_of(place.stage, MEASURES[place.stage], inputs=stated)


def tables(found: Gathered) -> list[Table]:
    """All tables, in the order in which they are read."""
    made = [found.claims.table()]
    for entry in found.config.datasets:
        made.append(_paired(found, "reconstruct", entry.name))
        made.append(_reconstruction_details(found, entry.name))
        made.append(_paired(found, "generate", entry.name))
    made.append(_paired(found, "ground-state", found.config.ground_state.dataset))
    made += [_ground_state_details(found), _training(found), _sampling(found), _missing(found)]
    return [table for table in made if table.rows]


CEILINGS = {
    "reconstruct": ("the test crystals", "no model: what the gate leaves of the truth"),
    "generate": ("training crystals", "no model: what real crystals of this number reach"),
}
"""Stage -> name of the row of real crystals, and what it says."""

TITLES = {
    "reconstruct": (
        "Tables 1 and S1",
        "Reconstruction",
        "Test crystals encoded, decoded and matched (published gate).",
    ),
    "generate": ("Table 2", "Generation", "Crystals decoded from the prior beside the test set."),
    "ground-state": ("Table 3", "Ground state", "Generated crystals against what they relax to under pressure."),
}


def _paired(found: Gathered, stage: str, dataset: str) -> Table:
    """The paper's row above ours, for every system and way of decoding."""
    number, title, hint = TITLES[stage]
    paper, units = PaperNumbers(), _columns(stage, dataset)
    rows: list[tuple[str, ...]] = []
    ours: list[bool] = []
    for place in [p for p in places(found.config, stage) if p.dataset == dataset]:
        name = PAPER_NAMES[place.system] + {"eq6": ", Eq. 6", "eq7": ", Eq. 7"}.get(place.reverse, "")
        stated = {figure: paper.number(stage, dataset, place.system, place.reverse, figure) for figure in units}
        if any(value is not None for value in stated.values()):
            cells = ["–" if v is None else value_text(v.value, units[f]) for f, v in stated.items()]
            rows.append((name, "paper", *cells, "", ""))
            ours.append(False)
        result = found.results.get(place)
        if result is None:
            rows.append((name, "ours", *("–" for _ in units), "not measured", found.missing.get(place, "")))
        else:
            measured = [_figure(result, stage, figure) for figure in units]
            cells = ["–" if m is None else with_error(m) for m in measured]
            count = next((f"{m.figure.n:,}" for m in measured if m is not None), "")
            rows.append((name, "ours", *cells, count, budget_text(found, place)))
        ours.append(True)
    limit = found.results.get(Place("ceiling", dataset))
    if limit is not None and stage in CEILINGS:
        name, what = CEILINGS[stage]
        measured = [_figure(limit, stage, figure) for figure in units]
        cells = ["–" if m is None else with_error(m) for m in measured]
        rows.append((name, "ours", *cells, next((f"{m.figure.n:,}" for m in measured if m is not None), ""), what))
        ours.append(True)
    head = ("system", "", *(heading(f, u) for f, u in units.items()), "n", "budget")
    title = f"{number}: {title}, {dataset}"
    align = "ll" + "r" * (len(units) + 1) + "l"
    return Table(f"{stage}-{dataset}", title, hint, head, tuple(rows), align, tuple(ours))


def _columns(stage: str, dataset: str) -> dict[str, str]:
    """Figures of the paper's table with their units."""
    protocol = PaperNumbers.PROTOCOLS[stage]
    rows = [r for r in papers() if r.table.startswith("dp-cdvae-") and r.protocol == protocol and r.dataset == dataset]
    return dict(rows[0].units)


def _figure(result: Result, stage: str, figure: str) -> Measured | None:
    return result.measured(OUR_FIGURES.get((stage, figure), figure))


def budget_text(found: Gathered, place: Place) -> str:
    """What a system was given: steps, epochs, training seconds, network calls."""
    trained = found.results.get(train_place(place.dataset, place.system))
    if trained is None:
        return ""
    budget = trained.budget
    text = f"{budget['steps']:,} steps of {budget['batch_crystals']} ({budget['epochs']:g} epochs)"
    text += f", size {budget['size']}"
    calls = found.results[place].budget.get("network_calls")
    return text + (f", {calls:,} calls" if calls else "")


def _reconstruction_details(found: Gathered, dataset: str) -> Table:
    """What a match presupposes, and what the gate costs."""
    names = (f"match rate, {UNGATED}", f"mean rms, {UNGATED}", "right number of atoms", "right composition")
    rows = []
    for place in [p for p in places(found.config, "reconstruct") if p.dataset == dataset]:
        if (result := found.results.get(place)) is None:
            continue
        cells = ["–" if (m := result.measured(name)) is None else with_error(m) for name in names]
        rows.append((PAPER_NAMES[place.system], place.reverse, *cells))
    head = ("system", "decoded by", *(heading(n, "(V/N)^(1/3)" if "rms" in n else "%") for n in names))
    hint = "A wrong number of atoms or composition, both decoded from the latent vector alone, cannot match."
    title = f"Reconstruction in detail, {dataset}"
    return Table(f"reconstruct-details-{dataset}", title, hint, head, tuple(rows), "llrrrr")


def _ground_state_details(found: Gathered) -> Table:
    """Medians and quantiles beside the root mean squares, and enthalpies."""
    rows, head = [], ["system"]
    for place in places(found.config, "ground-state"):
        if (result := found.results.get(place)) is None:
            continue
        shown = [m for m in result.figures if m.figure.name not in ("match rate", "mean rms", "dV rms", "dE rms")]
        head = ["system", *(heading(m.figure.name, m.figure.unit) for m in shown)]
        rows.append((PAPER_NAMES[place.system], *(value_text(m.figure.value, m.figure.unit) for m in shown)))
    methods = sorted({str(r.budget["potential"]) for p, r in found.results.items() if p.stage == "ground-state"})
    relax = found.config.ground_state.relax
    hint = f"Relaxed at {relax.pressure_gpa:g} GPa with {', '.join(methods)}, a machine-learned potential, not DFT. "
    hint += "A few crystals decide a root mean square; dH is of the enthalpy E + PV, which goes down under pressure."
    align = "l" + "r" * (len(head) - 1)
    return Table("ground-state-details", "Ground state in detail", hint, tuple(head), tuple(rows), align)


def _training(found: Gathered) -> Table:
    """What every training took."""
    head = (
        "system", "data", "size", "parameters", "crystals", "steps", "batch", "epochs", "seconds",
        "crystals per second", "device", "last validation loss",
    )  # fmt: skip
    rows = []
    for place in [*places(found.config, "train"), *places(found.config, "regressor")]:
        if (result := found.results.get(place)) is None:
            continue
        b = result.budget
        rate = f"{b['crystals_per_second']:.4g}"
        loss = result.curves.get("val_loss") or ()
        counts = (f"{b['parameters']:,}", f"{b['crystals']:,}", f"{b['steps']:,}", f"{b['batch_crystals']:,}")
        name = PAPER_NAMES.get(place.system, "energy regressor")
        last = f"{loss[-1][1]:.4g}" if loss else "–"
        device = f"{b['device']}, {b['torch_threads']} threads"
        took = (f"{b['epochs']:g}", f"{b['seconds']:,.0f}", rate, device, last)
        rows.append((name, place.dataset, b["size"], *counts, *took))
    hint = "All systems of a data set get the same steps. Seconds are those of the steps, validations left out. "
    hint += "Losses of different systems weigh their parts differently."
    return Table("training", "Training", hint, head, tuple(rows), "lllrrrrrrrlr")


def _sampling(found: Gathered) -> Table:
    """How fast every system decoded."""
    head = (
        "system", "data", "stage", "decoded by", "crystals", "network calls", "batch", "seconds", "crystals per second",
        "device",
    )  # fmt: skip
    rows = []
    for place in [*places(found.config, "reconstruct"), *places(found.config, "generate")]:
        if (result := found.results.get(place)) is None:
            continue
        b = result.budget
        rate = "–" if b["crystals_per_second"] is None else f"{b['crystals_per_second']:.4g}"
        counts = (f"{b['n']:,}", f"{b['network_calls']:,}", f"{b['chunk_size']:,}", f"{b['seconds']:,.1f}")
        device = f"{b['device']}, {b['torch_threads']} threads"
        rows.append((PAPER_NAMES[place.system], place.dataset, place.stage, place.reverse, *counts, rate, device))
    hint = "Network calls are counted per batch; published: 5,000 for CDVAE, 999 for DP-CDVAE."
    return Table("sampling", "Decoding", hint, head, tuple(rows), "llllrrrrrl")


def _missing(found: Gathered) -> Table:
    """What has no result, and why."""
    rows = tuple(
        (place.stage, place.dataset, PAPER_NAMES.get(place.system, "–"), place.reverse or "–", why)
        for place, why in found.missing.items()
    )
    return Table("missing", "Not measured", "", ("stage", "data", "system", "decoded by", "why"), rows, "lllll")
