"""The reproduction of DP-CDVAE for readers: its tables, paper beside ours, and the curves of its trainings."""

from __future__ import annotations

from configs.reproduction import ReproductionConfig
from generative.metrics.papers import papers
from tasks.papers.claims import OurNumbers
from tasks.papers.dp_cdvae.claims import OUR_METRICS, PAPER_NAMES, PaperNumbers, claims, name_of
from tasks.papers.page import Report, curves_png, report_on
from tasks.papers.protocols import UNGATED
from tasks.papers.report import (
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
from tasks.papers.results import ResultKey
from tasks.report.evaluation.model import heading, value_text

PAPER = "Pakornchote et al., Sci. Rep. 14, 1275 (2024), doi:10.1038/s41598-024-51400-4"

Found = Collected[ReproductionConfig]

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


def claims_of(found: Found) -> Claims:
    """The paper's claims with its numbers and ours."""
    chosen = {entry.name for entry in found.config.datasets}
    return Claims(claims(), PaperNumbers(), OurNumbers(found.results, OUR_METRICS), name_of, chosen)


def report_of(found: Found) -> Report:
    """All that readers are shown of these results."""
    claimed = claims_of(found)
    return report_on(found, claimed, "DP-CDVAE", lead(found.config), tables(found, claimed), curve_pictures(found))


def lead(config: ReproductionConfig) -> str:
    """What was made again, on what, in a few sentences."""
    files = "; ".join(
        f"{e.name}: trained on {short_name(e.train)}, tested on {short_name(e.test)}" for e in config.datasets
    )
    return (
        f"The tables of DP-CDVAE ({PAPER}) made again with Hullward's systems, networks of size {config.size}, "
        f"seed {config.seed}. {files}. The paper's models were trained on the official training sets; figures from "
        "other files compare with one another, not with the paper's rows."
    )


def tables(found: Found, claimed: Claims) -> list[Table]:
    """All tables, in the order in which they are read."""
    made = [claimed.table()]
    for entry in found.config.datasets:
        made.append(_beside(found, "reconstruct", entry.name))
        made.append(_reconstruction_details(found, entry.name))
        made.append(_beside(found, "generate", entry.name))
    made.append(_beside(found, "ground-state", found.config.ground_state.dataset))
    hint = "All systems of a data set get the same steps. Seconds are those of the steps, validations left out. "
    hint += "Losses of different systems weigh their parts differently."
    decoding = "Network calls are counted per batch; published: 5,000 for CDVAE, 999 for DP-CDVAE."
    return [
        *made,
        _ground_state_details(found),
        training_table(found, ("train", "regressor"), _system, hint),
        sampling_table(found, ("reconstruct", "generate"), _system, decoding),
        missing_table(found, _system),
    ]


def _system(name: str, reverse: str = "") -> str:
    return PAPER_NAMES.get(name, "energy regressor")


def _with_step(name: str, reverse: str) -> str:
    """A system's name with its reverse step, where it has a choice."""
    return PAPER_NAMES[name] + {"eq6": ", Eq. 6", "eq7": ", Eq. 7"}.get(reverse, "")


def _beside(found: Found, stage: str, dataset: str) -> Table:
    """The paper's row above ours, the real crystals' last."""
    number, title, hint = TITLES[stage]
    rows = [r for r in papers() if r.table.startswith("dp-cdvae-") and r.dataset == dataset]
    units = next(row.units for row in rows if row.protocol == PaperNumbers.PROTOCOLS[stage])
    further = {ResultKey("ceiling", dataset): CEILINGS[stage]} if stage in CEILINGS else {}
    ours = OurNumbers(found.results, OUR_METRICS)
    table = Beside(f"{number}: {title}, {dataset}", hint, units, PaperNumbers(), ours, _with_step, further=further)
    return paper_beside_ours(found, stage, dataset, table)


def _reconstruction_details(found: Found, dataset: str) -> Table:
    """What a match presupposes, and what the gate costs."""
    names = (f"match rate, {UNGATED}", f"mean rms, {UNGATED}", "right number of atoms", "right composition")
    rows = tuple(
        (PAPER_NAMES[key.system], key.reverse, *(with_error(result.measured(name)) for name in names))
        for key, result in found.made("reconstruct", dataset=dataset)
    )
    head = ("system", "decoded by", *(heading(n, "(V/N)^(1/3)" if "rms" in n else "%") for n in names))
    hint = "A wrong number of atoms or composition, both decoded from the latent vector alone, cannot match."
    title = f"Reconstruction in detail, {dataset}"
    return Table(f"reconstruct-details-{dataset}", title, hint, head, rows, "llrrrr")


def _ground_state_details(found: Found) -> Table:
    """Medians and quantiles beside the root mean squares, and enthalpies."""
    rows, head = [], ["system"]
    made = found.made("ground-state")
    for key, result in made:
        shown = [m for m in result.metrics if m.metric.name not in ("match rate", "mean rms", "dV rms", "dE rms")]
        head = ["system", *(heading(m.metric.name, m.metric.unit) for m in shown)]
        rows.append((PAPER_NAMES[key.system], *(value_text(m.metric.value, m.metric.unit) for m in shown)))
    methods = sorted({str(result.budget["potential"]) for _, result in made})
    relax = found.config.ground_state.relax
    hint = f"Relaxed at {relax.pressure_gpa:g} GPa with {', '.join(methods)}, a machine-learned potential, not DFT. "
    hint += "A few crystals decide a root mean square; dH is of the enthalpy E + PV, which goes down under pressure."
    align = "l" + "r" * (len(head) - 1)
    return Table("ground-state-details", "Ground state in detail", hint, tuple(head), tuple(rows), align)


def curve_pictures(found: Found) -> dict[str, bytes]:
    """Losses over the steps, one picture per data set and stage; file name -> PNG."""
    pictures = {}
    for entry in found.config.datasets:
        for stage in ("train", "regressor"):
            results = {key: result for key, result in found.made(stage, dataset=entry.name) if result.curves}
            if results:
                pictures[f"curves-{stage}-{entry.name}.png"] = curves_png(results, f"{stage}, {entry.name}", _system)
    return pictures
