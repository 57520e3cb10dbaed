"""The reproduction of conditional generation and modification for readers: tables, curves, notes."""

from __future__ import annotations

from configs.unet_reproduction import UNetReproductionConfig
from tasks.papers.claims import OurNumbers
from tasks.papers.page import Report, curves_png, report_on
from tasks.papers.report import (
    Beside,
    Claims,
    Collected,
    Table,
    missing_table,
    paper_beside_ours,
    short_name,
    training_table,
)
from tasks.papers.unet.claims import PaperNumbers, claims, name_of

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

Found = Collected[UNetReproductionConfig]


def claims_of(found: Found) -> Claims:
    """The paper's claims with its numbers and ours."""
    chosen = [entry.name for entry in found.config.datasets]
    return Claims(tuple(claims(chosen)), PaperNumbers(), OurNumbers(found.results), name_of, chosen)


def report_of(found: Found) -> Report:
    """All that readers are shown of these results."""
    claimed = claims_of(found)
    return report_on(
        found,
        claimed,
        "Conditional generation and modification",
        _lead(found.config),
        tables(found, claimed),
        _pictures(found),
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


def tables(found: Found, claimed: Claims) -> list[Table]:
    """All tables, in the order in which they are read."""
    hint = "DDIM has the weights of DDPM. Of modifiers a crystal of a batch is a pair, and an epoch a pair per group."
    return [
        claimed.table(),
        *(_beside(found, stage, entry.name) for stage in TITLES for entry in found.config.datasets),
        training_table(found, ("train",), name_of, hint),
        missing_table(found, name_of),
    ]


def _beside(found: Found, stage: str, dataset: str) -> Table:
    """The paper's row above ours for every system; the baselines without a network last."""
    title, hint = TITLES[stage]
    hint += " Prototype: whether the training part holds a crystal of the same space group and pattern of counts."
    table = Beside(
        f"{title}, {dataset}", hint, dict.fromkeys(COLUMNS, "%"), PaperNumbers(), OurNumbers(found.results), name_of,
        "paper, AFLOW",
    )  # fmt: skip
    return paper_beside_ours(found, stage, dataset, table)


def _pictures(found: Found) -> dict[str, bytes]:
    """Losses over the steps, one picture per data set."""
    pictures = {}
    for entry in found.config.datasets:
        here = {key: result for key, result in found.made("train", dataset=entry.name) if result.curves}
        if here:
            pictures[f"curves-{entry.name}.png"] = curves_png(here, entry.name, name_of)
    return pictures
