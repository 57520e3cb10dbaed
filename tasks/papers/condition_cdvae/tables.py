"""The reproduction of ConditionCDVAE+ for readers: its tables, paper beside ours, and what was asked for and came."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from configs.condition_reproduction import (
    FOR_ENERGIES,
    FOR_FORMULAS,
    FOR_PROPERTIES,
    ConditionData,
    ConditionReproductionConfig,
)
from generative.metrics.coverage import TIGHT
from tasks.papers.claims import OurNumbers
from tasks.papers.condition_cdvae.asked import BY_POTENTIAL, FREE, JUDGED
from tasks.papers.condition_cdvae.claims import NAMES, PaperNumbers, claims, name_of, units_of
from tasks.papers.condition_cdvae.properties import (
    JUDGED_AGAIN,
    JUDGED_TRUE,
    READ,
    Target,
    target_keys,
    told_to,
    words_of,
)
from tasks.papers.page import Report, curves_png, report_on
from tasks.papers.protocols import UNGATED
from tasks.papers.report import (
    EMPTY,
    Beside,
    Claims,
    Collected,
    Table,
    missing_table,
    paper_beside_ours,
    sampling_table,
    short_name,
    training_table,
    with_error,
)
from tasks.papers.results import Result, ResultKey
from tasks.report.dataset.plots import INK, MUTED
from tasks.report.png import figure_png

PAPER = "Gao et al., Sci. Rep. 2025, doi:10.1038/s41598-025-06432-9"
OUR_METRICS = {
    ("reconstruct", "match rate"): "match rate, published gate",
    ("reconstruct", "mean rms"): "mean rms, published gate",
}
"""Names of our metrics where they differ from the paper's."""
FURTHER: Mapping[str, Mapping[str, str]] = {
    "reconstruct": {f"match rate, {UNGATED}": "%", "right number of atoms": "%", "right composition": "%"},
    "generate": {"COV-R, tight": "%", "COV-P, tight": "%"},
    "relax": {"match rate": "%", "mean energy drop": "eV/atom"},
}
"""Metrics that the paper does not have, beside its own."""
TITLES = {
    "reconstruct": ("Table 1: reconstruction", "Test crystals encoded, decoded and matched (published gate)."),
    "generate": (
        "Table 2: generation",
        f"Nothing is asked; beside the test set. Tight: cut-offs {TIGHT.structure:g} and {TIGHT.composition:g} in the "
        "place of 0.4 and 10. crystal-flow is told the composition of training crystals, so its composition metrics "
        "are theirs.",
    ),
    "relax": (
        "Table 3: relaxation",
        "The first valid generated crystals (published: novel ones), relaxed by {potential} in the place of DFT; steps "
        "are those of its own optimiser.",
    ),
}
OF_DATA = {
    "j2dh-8": "J2DH-8 is not public: rows of that name are of a stand-in with energies of a potential "
    "(two-dimensional.md). ",
    "c2db": "c2db are monolayers with numbers of DFT, on which the paper has no results. ",
}
DRAWING = ("reconstruct", "generate", "energies", "formulas", "properties", "readings")
"""Stages that draw crystals."""
HEARD_SIGMAS = 5.0
"""Means of samples for two targets that differ by so many standard errors show that a target is heard."""
CEILINGS = {
    "reconstruct": ("the test crystals", "no model: what the gate leaves of the truth"),
    "generate": ("training crystals", "no model: what real crystals of this number reach"),
}

Found = Collected[ConditionReproductionConfig]


def claims_of(found: Found) -> Claims:
    """The paper's claims with its numbers and ours."""
    chosen = {entry.name for entry in found.config.datasets}
    ours = OurNumbers(found.results, OUR_METRICS)
    return Claims(claims(found.config.energies.targets), PaperNumbers(), ours, name_of, chosen)


def report_of(found: Found) -> Report:
    """All that readers are shown of these results."""
    claimed = claims_of(found)
    return report_on(found, claimed, "ConditionCDVAE+", _lead(found.config), _tables(found, claimed), pictures(found))


def _lead(config: ConditionReproductionConfig) -> str:
    files = "; ".join(
        f"{entry.name}: {', '.join(map(short_name, entry.files))}, "
        + (f"{100 * entry.test_share:g} % held out" if entry.test is None else f"tested on {short_name(entry.test)}")
        for entry in config.datasets
    )
    return (
        f"The results of {PAPER}, made again with networks of size {config.size}, seed {config.seed}. {files}. "
        + "".join(OF_DATA[entry.name] for entry in config.datasets if entry.name in OF_DATA)
        + "Figures compare with one another, and with the paper's rows only where data and budget are the paper's."
    )


def _tables(found: Found, claimed: Claims) -> list[Table]:
    made = [claimed.table()]
    for stage in ("reconstruct", "generate", "relax"):
        made += [_beside(found, stage, entry.name) for entry in found.config.datasets if found.keys(stage, entry.name)]
    hint = "Seconds are those of the steps, validations left out. Losses of different systems weigh parts differently."
    return [
        *made,
        _energies(found),
        *_of_properties(found),
        _formulas(found),
        _readings(found),
        _latents(found),
        training_table(found, ("train", "judge"), name_of, hint),
        _judges(found),
        sampling_table(found, DRAWING, name_of, "Calls are per batch."),
        missing_table(found, name_of),
    ]


def _beside(found: Found, stage: str, dataset: str) -> Table:
    title, hint = TITLES[stage]
    methods = sorted({str(result.budget["potential"]) for _, result in found.made("relax")} if stage == "relax" else ())
    further = {ResultKey("ceiling", dataset): CEILINGS[stage]} if stage in CEILINGS else {}
    beside = Beside(
        f"{title}, {dataset}", hint.format(potential=", ".join(methods)), units_of(stage) | dict(FURTHER[stage]),
        PaperNumbers(), OurNumbers(found.results, OUR_METRICS), lambda system, _: NAMES[system],
        further=further,
    )  # fmt: skip
    return paper_beside_ours(found, stage, dataset, beside)


def _energies(found: Found) -> Table:
    """What was asked for, and what energies came, beside those of training crystals drawn at random."""
    asked = found.config.energies
    near = f"within {asked.within:g}"
    head = (
        "asked for", "n", "valid (%)", "mean, judged", "deviation", "distance", f"{near} (%)",
        "mean, by the potential", "deviation", "distance", f"{near} (%)", "n",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for key, result in found.made("energies"):
        name = "nothing" if key.reverse == FREE else key.reverse.removeprefix("to")
        counted = result.measured(f"{BY_POTENTIAL}: mean")
        rows.append(
            (name, str(asked.n), with_error(result.measured("valid samples")), *_number_cells(result, JUDGED),
             *_number_cells(result, BY_POTENTIAL), EMPTY if counted is None else str(counted.metric.n))
        )  # fmt: skip
    for _, result in found.made("ceiling"):
        for target in asked.targets if rows else ():
            cells = _number_cells(result, f"to{target:g}")
            if cells[0] != EMPTY:
                n = result.measured(f"to{target:g}: mean")
                assert n is not None
                rows.append((f"training crystals, for {target:g}", str(n.metric.n), EMPTY, *cells, *(EMPTY,) * 5))
    hint = (
        f"Of {name_of(FOR_ENERGIES)}; energies in {found.config.datasets[0].unit}, distances are means of those from "
        "the target. Judged by a CGCNN that no generator was trained with, of valid samples as drawn; by the potential "
        "that made the labels, of those that come to rest as two layers. Training crystals: their labels, unselected."
    )
    return Table("energies", "Asked for an energy", hint, head, tuple(rows), "l" + "r" * 11)


def _number_cells(result: Result, name: str) -> tuple[str, str, str, str]:
    words = ("mean", "standard deviation", "mean distance from the target", "within reach")
    one, two, three, four = (with_error(result.measured(f"{name}: {word}")) for word in words)
    return one, two, three, four


def _of_properties(found: Found) -> list[Table]:
    made = []
    for entry in found.config.datasets:
        results = {key.reverse: result for key, result in found.made("properties", dataset=entry.name)}
        if results:
            made += [_near_targets(found, entry, results), _heard(entry, results)]
    return made


def _near_targets(found: Found, entry: ConditionData, results: Mapping[str, Result]) -> Table:
    """What came for every target, beside samples of which nothing was asked and the labels of training crystals."""
    labels = found.results.get(ResultKey("labels", entry.name))
    head = ["asked for", "crystals", "n"]
    for one in entry.properties:
        head += [f"{one.name}: mean ({one.unit})", "deviation", "distance", f"within {one.within:g} (%)"]
    rows: list[tuple[str, ...]] = []
    for key, target in zip(target_keys(entry), ({}, *entry.targets), strict=True):
        words = words_of(target)
        shown = [("as asked", results.get(key.reverse))] if target else []
        shown += [("asked nothing", results.get(FREE)), ("training crystals", labels)]
        for whose, result in shown:
            if result is None:
                continue
            cells = [cell for one in entry.properties for cell in _number_cells(result, f"{words}: {one.name}")]
            counted = result.measured(f"{words}: {entry.properties[0].name}: mean")
            n = EMPTY if counted is None else f"{counted.metric.n:,}"
            rows.append((words, whose, n, *cells, with_error(result.measured(f"{words}: all within reach"))))
    hint = (
        f"Of {name_of(FOR_PROPERTIES)}, {found.config.properties.n} samples for each target, of which the valid ones "
        "are judged as they were drawn, each property by a CGCNN that no generator was trained with (its own error "
        "stands below). Distances are means of those from the target. Training crystals: their labels, unselected. A "
        "property that is not named was not asked for."
    )
    align = "llr" + "r" * (4 * len(entry.properties) + 1)
    title = f"Asked for properties, {entry.name}"
    return Table(f"properties-{entry.name}", title, hint, (*head, "all within (%)"), tuple(rows), align)


def _heard(entry: ConditionData, results: Mapping[str, Result]) -> Table:
    """Differences between means of samples for targets that differ in one property alone."""
    known = [(target, results[key.reverse]) for key, target in _targets(entry) if key.reverse in results]
    rows = []
    for one in entry.properties:
        for (low, lower), (high, higher) in combinations(known, 2):
            if low.keys() != high.keys() or {n for n in low if low[n] != high[n]} != {one.name}:
                continue
            if low[one.name] > high[one.name]:
                (low, lower), (high, higher) = (high, higher), (low, lower)
            means = [r.measured(f"{words_of(t)}: {one.name}: mean") for t, r in ((low, lower), (high, higher))]
            if means[0] is None or means[1] is None:
                continue
            difference = means[1].metric.value - means[0].metric.value
            error = math.hypot(means[0].error, means[1].error)
            asked = high[one.name] - low[one.name]
            sigmas = difference / error if error > 0 else math.nan
            rows.append(
                (one.name, words_of(low), words_of(high), f"{asked:g}", f"{difference:.3f} ± {error:.2g}",
                 f"{sigmas:.1f}", "yes" if sigmas >= HEARD_SIGMAS else "no")
            )  # fmt: skip
    hint = (
        "Means of the judged property of valid samples, and how far they lie apart where targets differ in it alone. "
        f"Heard: at least {HEARD_SIGMAS:g} standard errors in the direction that was asked for."
    )
    head = ("property", "asked for", "and for", "targets apart", "means apart", "standard errors", "heard")
    return Table(f"heard-{entry.name}", f"Which targets are heard, {entry.name}", hint, head, tuple(rows), "lllrrrl")


def _targets(entry: ConditionData) -> Iterator[tuple[ResultKey, Target]]:
    """Every target with its result's key; that of nothing is left out."""
    keys = iter(target_keys(entry))
    next(keys)
    return zip(keys, entry.targets, strict=True)


def _readings(found: Found) -> Table:
    """How far a number comes on its way from a crystal through the latent vector to what is decoded of it."""
    rows = []
    for key, result in found.made("readings"):
        decoded = "elements given" if key.reverse else "all decoded"
        for one in told_to(found.config.dataset(key.dataset), key.system):
            cells: list[str] = []
            for where in (JUDGED_TRUE, READ, JUDGED_AGAIN):
                r = result.measured(f"{one.name} {where}: correlation")
                error = result.measured(f"{one.name} {where}: mean absolute error")
                cells += [with_error(r), with_error(error)]
            n = result.measured(f"{one.name} {JUDGED_AGAIN}: mean absolute error")
            rows.append((key.dataset, one.name, decoded, EMPTY if n is None else str(n.metric.n), *cells, one.unit))
    hint = (
        "Numbers of test crystals against the truth, r and mean absolute error: as the judge tells them of the "
        "crystals themselves, as the model's head reads them from the latent vectors, and as the judge tells them of "
        "what is decoded from these. The model is not told the numbers."
    )
    head = (
        "data", "number", "decoding", "n decoded", "judge, crystal: r", "error", "head, z: r", "error",
        "judge, decoded: r", "error", "unit",
    )  # fmt: skip
    return Table("readings", "Where a number is lost", hint, head, tuple(rows), "lllrrrrrrrl")


def _judges(found: Found) -> Table:
    """What those that judge are worth."""
    rows = []
    for key, result in found.made("judge"):
        own, naive = (result.measured(f"mean absolute error {of}") for of in ("on the test set", "of the median"))
        n = EMPTY if own is None else f"{own.metric.n:,}"
        rows.append((key.dataset, key.reverse or "energy", n, with_error(own), with_error(naive)))
    hint = (
        "Mean absolute errors on test crystals, which neither they nor a generator have seen; and of the best constant."
    )
    head = ("data", "judged", "n", "error of the CGCNN", "of the median")
    return Table("judges", "The networks that judge", hint, head, tuple(rows), "llrrr")


def _formulas(found: Found) -> Table:
    names = ("of the formula", "of its elements", "of its number of atoms", "valid samples")
    rows = tuple(
        ("nothing" if key.reverse == FREE else key.reverse, str(found.config.formulas.n),
         *(with_error(result.measured(name)) for name in names))
        for key, result in found.made("formulas")
    )  # fmt: skip
    hint = f"Of {name_of(FOR_FORMULAS)}; no atom is forced. In the row of nothing: of any of the formulas below it."
    head = ("asked for", "n", *(f"{name} (%)" for name in names))
    return Table("formulas", "Asked for a formula", hint, head, rows, "lrrrrr")


def _latents(found: Found) -> Table:
    names = ("neighbours of the group, z", "neighbours of the group, z_c")
    rows = tuple(
        (name_of(key.system), str(result.budget["n"]), *(with_error(result.measured(name)) for name in names))
        for key, result in found.made("latents")
    )
    hint = (
        "Of the ten nearest test crystals in the latent space, how many are of the same third of energies or of the "
        "same formula, before and after the fusion with a crystal's own condition."
    )
    return Table("latents", "The latent space", hint, ("system", "n", "z (%)", "z_c (%)"), rows, "lrrr")


# --- pictures ---------------------------------------------------------------------------------------------------------


def pictures(found: Found) -> dict[str, bytes]:
    """Losses, histograms of energies, t-SNE of latent spaces; file name -> PNG."""
    made: dict[str, bytes] = {}
    for entry in found.config.datasets:
        curves = {key: result for key, result in found.made("train", dataset=entry.name) if result.curves}
        if curves:
            made[f"curves-{entry.name}.png"] = curves_png(curves, f"training, {entry.name}", name_of)
        energies = found.made("energies", dataset=entry.name)
        if energies:
            known = found.results.get(ResultKey("ceiling", entry.name))
            made[f"energies-{entry.name}.png"] = _histograms(energies, known, entry.unit, (JUDGED, BY_POTENTIAL))
        asked_for = found.made("properties", dataset=entry.name)
        for one in entry.properties if asked_for else ():
            labels = found.results.get(ResultKey("labels", entry.name))
            made[f"properties-{one.name}-{entry.name}.png"] = _histograms(asked_for, labels, one.unit, (one.name,))
        for key, result in found.made("latents", dataset=entry.name):
            made[f"latents-{key.system}-{entry.name}.png"] = _spaces(result, name_of(key.system))
    return made


def _histograms(
    made: Sequence[tuple[ResultKey, Result]], known: Result | None, unit: str, curves: Sequence[str]
) -> bytes:
    """Numbers by what was asked for, above those of the training crystals, which stand under the first name."""
    names = [name for name in curves if any(name in result.curves for _, result in made)]
    figure = Figure(figsize=(4.6 * len(names), 3.0), dpi=110, layout="constrained")
    values = {
        (name, key.reverse): np.array([point[1] for point in result.curves.get(name, ())])
        for name in names
        for key, result in made
    }
    labels = np.array([point[1] for point in known.curves.get(curves[0], ())]) if known is not None else np.array([])
    every = np.concatenate([*values.values(), labels])
    low, high = np.quantile(every, [0.005, 0.995]) if len(every) else (0.0, 1.0)
    bins: list[float] = np.linspace(low, high, 31).tolist()
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        if len(labels):
            axes.hist(labels, bins, density=True, color="#d7dbe0", label="training crystals")
        for key, _ in made:
            word = "nothing" if key.reverse == FREE else key.reverse.removeprefix("to")
            shown = values[name, key.reverse]
            if ((shown >= low) & (shown <= high)).any():  # a density of nothing is not defined
                axes.hist(shown, bins, density=True, histtype="step", lw=1.4, label=f"asked for {word}")
        axes.set_xlabel(f"{name} ({unit})", fontsize=8, color=MUTED)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7, frameon=False)
    return figure_png(figure)


def _spaces(result: Result, title: str) -> bytes:
    """t-SNE before and after the fusion, coloured by group."""
    figure = Figure(figsize=(9.2, 4.0), dpi=110, layout="constrained")
    for place, space in enumerate(("z", "z_c")):
        axes: Any = figure.add_subplot(1, 2, place + 1)
        for name, points in result.curves.items():
            which, _, group = name.partition(", ")
            if which == space:
                x, y = np.array(points).T
                axes.scatter(x, y, s=7, lw=0, label=group)
        axes.set_title(f"{title}: {space}", fontsize=9, color=INK)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(fontsize=7, frameon=False, markerscale=2)
    return figure_png(figure)
