"""The reproduction of conditional generation and modification for readers: tables, curves, notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from configs.unet_reproduction import UNET_STAGES, UNetReproductionConfig
from tasks.files import key_of
from tasks.papers.gathering import Collected, collect, short_name
from tasks.papers.page import Report, curves_png
from tasks.papers.results import Place, digest_of
from tasks.papers.tables import Claims, Table, with_error
from tasks.papers.unet.claims import BASELINES, PAPER_NAMES, OurNumbers, PaperNumbers, claims, name_of
from tasks.papers.unet.measures import measure_inputs, measured, training_inputs
from tasks.papers.unet.places import places, train_place
from tasks.report.evaluation.model import heading, value_text

PAPER = (
    "Unleashing the power of novel conditional generative approaches for new materials discovery (AIRI), Tables 1 and 2"
)
COLUMNS = (
    "match rate", "match rate, tolerances x2", "match rate, tolerances x5", "match rate, prototype known",
    "match rate, prototype new", "match rate, at most 8 atoms", "match rate, more than 8 atoms", "asked space group",
)  # fmt: skip
TITLES = {
    "generate": ("Generation", "Test crystals asked for by composition, space group and formation energy, once each."),
    "modify": ("Modification", "A higher polymorph, turned into the lowest by its space group and change of energy."),
}


@dataclass(frozen=True)
class Gathered(Collected):
    """All that a reproduction has measured.

    Attributes:
        config: its settings.
    """

    config: UNetReproductionConfig = field(kw_only=True)

    @property
    def claims(self) -> Claims:
        """The paper's claims with its numbers and ours."""
        chosen = [entry.name for entry in self.config.datasets]
        return Claims(tuple(claims(chosen)), PaperNumbers(), OurNumbers(self.results), name_of, chosen)


def gather(config: UNetReproductionConfig, failures: Mapping[Place, str] | None = None) -> Gathered:
    """The results of a reproduction; see gathering.collect."""
    every = (place for stage in UNET_STAGES for place in places(config, stage))
    found = collect(config, every, lambda place: _expected(config, place), failures or {})
    return Gathered(found.results, found.missing, found.foreign, config=config)


def _expected(config: UNetReproductionConfig, place: Place) -> tuple[str, str]:
    """Digests of inputs, and of inputs with code, that a result has if it is made now."""
    if place.stage == "train":
        inputs = training_inputs(config, config.dataset(place.dataset), place.system)
        return inputs, inputs
    stated = measure_inputs(config, place)
    return digest_of(stated), key_of(place.stage, measured, inputs=stated)


def report_of(found: Gathered) -> Report:
    """All that readers are shown of these results."""
    config, judged = found.config, found.claims
    return Report(
        name=config.name,
        folder=config.folder,
        subject="Conditional generation and modification",
        lead=_lead(config),
        notes=found.notes(),
        verdicts=judged.counts(),
        tables=tables(found),
        pictures=_pictures(found),
        content=found.as_dict(config, judged),
    )


def _lead(config: UNetReproductionConfig) -> str:
    files = "; ".join(
        f"{entry.name}: {', '.join(map(short_name, entry.files))}"
        + (f", tested on {short_name(entry.test)}" if entry.test else "")
        for entry in config.datasets
    )
    return (
        f"The seven figures of {PAPER}, made again with networks of size {config.size}, seed {config.seed}. {files}. "
        f"Test formulas are in no training part ({100 * config.generation_share:g} % for generation, "
        f"{100 * config.modification_share:g} % for modification) but where a file of test crystals is named. The "
        "paper's models were trained on millions of AFLOW entries; its rows are there for the order of the systems."
    )


def tables(found: Gathered) -> list[Table]:
    """All tables, in the order in which they are read."""
    made = [found.claims.table()]
    made += [_figures(found, stage, e.name) for stage in ("generate", "modify") for e in found.config.datasets]
    made += [_training(found), _missing(found)]
    return [table for table in made if table.rows]


def _figures(found: Gathered, stage: str, dataset: str) -> Table:
    """The paper's row above ours for every system; the baselines without a network last."""
    paper = PaperNumbers()
    rows: list[tuple[str, ...]] = []
    ours: list[bool] = []
    for place in [p for p in places(found.config, stage) if p.dataset == dataset]:
        stated = paper.number(stage, dataset, place.system, "", "match rate")
        if stated is not None:
            empty = ["–"] * (len(COLUMNS) - 1)
            rows.append((name_of(place.system), "paper, AFLOW", value_text(stated.value, "%"), *empty, "", ""))
            ours.append(False)
        result = found.results.get(place)
        if result is None:
            cells = ["–"] * len(COLUMNS)
            rows.append((name_of(place.system), "ours", *cells, "not measured", found.missing.get(place, "")))
        else:
            measured = [result.measured(name) for name in COLUMNS]
            cells = ["–" if m is None else with_error(m) for m in measured]
            rows.append((name_of(place.system), "ours", *cells, f"{result.budget['n']:,}", _budget(found, place)))
        ours.append(True)
    title, hint = TITLES[stage]
    hint += " Prototype: whether the training part holds a crystal of the same space group and pattern of counts."
    heads = (heading(name.replace("match rate, ", ""), "%") for name in COLUMNS)
    head = ("system", "", *heads, "n", "budget")
    align = "ll" + "r" * (len(COLUMNS) + 1) + "l"
    return Table(f"{stage}-{dataset}", f"{title}, {dataset}", hint, head, tuple(rows), align, tuple(ours))


def _budget(found: Gathered, place: Place) -> str:
    """What a system was given."""
    if place.system in BASELINES:
        return "no network"
    trained = found.results.get(train_place(place.dataset, place.system))
    if trained is None:
        return ""
    b = trained.budget
    return f"{b['steps']:,} steps of {b['batch_crystals']} ({b['epochs']:g} epochs), size {b['size']}"


def _training(found: Gathered) -> Table:
    """What every training took."""
    rows = []
    for place in places(found.config, "train"):
        if (result := found.results.get(place)) is None:
            continue
        b = result.budget
        loss = result.curves.get("val_loss") or ()
        counts = (f"{b['parameters']:,}", f"{b['crystals']:,}", f"{b['steps']:,}", f"{b['batch_crystals']:,}")
        device = f"{b['device']}, {b['torch_threads']} threads"
        took = (f"{b['epochs']:g}", f"{b['seconds']:,.0f}", f"{b['crystals_per_second']:.4g}", device)
        last = f"{loss[-1][1]:.4g}" if loss else "–"
        rows.append((name_of(place.system), place.dataset, b["size"], *counts, *took, last))
    head = (
        "system", "data", "size", "parameters", "crystals", "steps", "batch", "epochs", "seconds",
        "crystals per second", "device", "last validation loss",
    )  # fmt: skip
    hint = "DDIM has the weights of DDPM. Of modifiers a crystal of a batch is a pair, and an epoch a pair per group."
    return Table("training", "Training", hint, head, tuple(rows), "lllrrrrrrrlr")


def _missing(found: Gathered) -> Table:
    """What has no result, and why."""
    rows = tuple((p.stage, p.dataset, name_of(p.system), why) for p, why in found.missing.items())
    return Table("missing", "Not measured", "", ("stage", "data", "system", "why"), rows, "llll")


def _pictures(found: Gathered) -> dict[str, bytes]:
    """Losses over the steps, one picture per data set."""
    pictures = {}
    for entry in found.config.datasets:
        here = {p: r for p, r in found.results.items() if (p.stage, p.dataset) == ("train", entry.name) and r.curves}
        if here:
            pictures[f"curves-{entry.name}.png"] = curves_png(here, entry.name, lambda s: PAPER_NAMES.get(s, s))
    return pictures
