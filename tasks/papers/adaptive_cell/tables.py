"""The reproduction of the adaptive-cell model for readers: its tables, paper beside ours, and the training's curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from configs.adaptive_cell_reproduction import MODEL, AdaptiveCellReproductionConfig, name_of_chemistry
from generative.metrics.distributions import Property
from tasks.papers.adaptive_cell.claims import ASKED_FOR, RECOVERED, PaperNumbers, claims, name_of
from tasks.papers.adaptive_cell.compounds import KJ_PER_MOL, PAPER_COMPOUNDS
from tasks.papers.claims import OurNumbers
from tasks.papers.page import Report, curves_png, report_on
from tasks.papers.report import (
    EMPTY,
    Beside,
    Claims,
    Collected,
    Table,
    missing_table,
    paper_beside_ours,
    short_name,
    training_table,
    with_error,
)
from tasks.papers.results import Measured
from tasks.report.evaluation.model import value_text

PAPER = "Sultanov et al., arXiv:2310.10695"
TABLE_ONE: Mapping[str, str] = {
    "COV-P": "%", "COV-R": "%", "Frechet distance, CrystalNN": "", "Frechet distance, CGCNN": "",
    "W density": Property.DENSITY.unit, "W number of elements": "", "valid samples": "%", "asked space group": "%",
    "composition of the test crystal": "%", "match the test crystal": "%",
}  # fmt: skip
KNOWN: Mapping[str, str] = dict.fromkeys(
    ("recovered", "recovered as drawn", "samples that match as drawn", "samples of the composition", "valid samples",
     "asked space group"),
    "%",
)  # fmt: skip

Found = Collected[AdaptiveCellReproductionConfig]


def claims_of(found: Found) -> Claims:
    """The paper's claims with its numbers and ours."""
    config = found.config
    names = [name_of_chemistry(elements) for elements in config.compounds.chemistries]
    chosen = {config.data.name, *names}
    return Claims(tuple(claims(config.data.name, names)), PaperNumbers(), OurNumbers(found.results), name_of, chosen)


def report_of(found: Found) -> Report:
    """All that readers are shown of these results."""
    claimed, config = claims_of(found), found.config
    curves = {key: result for key, result in found.made("train") if result.curves}
    return report_on(
        found,
        claimed,
        "The adaptive-cell score model",
        _lead(config),
        tables(found, claimed),
        {"curves.png": curves_png(curves, config.data.name, name_of)} if curves else {},
    )


def _lead(config: AdaptiveCellReproductionConfig) -> str:
    files = ", ".join(map(short_name, config.data.train))
    return (
        f"The results of {PAPER}, made again with a network of size {config.size}, seed {config.seed}. Trained on "
        f"{files}, tested on {short_name(config.data.test)}, all without monoclinic and triclinic crystals. "
        "The paper's model for Table 1 was trained on MP-20's whole training part, that for the rest on the Materials "
        "Project, and its samples were relaxed by DFT; here a potential takes the place of DFT."
    )


def tables(found: Found, claimed: Claims) -> list[Table]:
    """All tables, in the order in which they are read."""
    hint = "Seconds are those of the steps, validations left out; the loss is 1 where nothing is learned."
    return [
        claimed.table(),
        _table_one(found),
        _known(found),
        _structures(found),
        _compounds(found),
        _best(found),
        training_table(found, ("train",), name_of, hint),
        missing_table(found, name_of),
    ]


def _table_one(found: Found) -> Table:
    """The paper's rows, also of what is not made again, above and beside ours."""
    hint = (
        "Groups and sites of test crystals are asked for; systems that heed no sites get the atoms of the primitive "
        "cell, which tells them the composition. Metrics over the valid samples, against the whole test set. COV-R and "
        "Frechet distances depend on n (published: 1,000): compare with training structures of the same n. The CGCNN "
        "is ours, the paper's is not published."
    )
    dataset, ours = found.config.data.name, OurNumbers(found.results)
    beside = Beside("Table 1", hint, TABLE_ONE, PaperNumbers(), ours, name_of)
    table = _with_shipped(paper_beside_ours(found, "generate", dataset, beside))
    rows = []
    for system in ("pgcgm", "cdvae"):
        stated = [PaperNumbers().number("generate", dataset, system, "", metric) for metric in TABLE_ONE]
        pairs = zip(stated, TABLE_ONE.values(), strict=True)
        cells = [EMPTY if number is None else value_text(number.value, unit) for number, unit in pairs]
        rows.append((name_of(system), "paper", *cells, "", ""))
    return replace(table, rows=(*table.rows, *rows), ours=(*table.ours, False, False))


def _with_shipped(table: Table) -> Table:
    """The table, in which `wyckoff` is not without a network but shipped with one."""
    rows = tuple((*row[:-1], "shipped checkpoint") if row[:2] == ("wyckoff", "ours") else row for row in table.rows)
    return replace(table, rows=rows)


def _known(found: Found) -> Table:
    rule = found.config.known
    hint = (
        f"{rule.n_structures} structures of {short_name(rule.crystals)}, drawn with the seed among those of "
        f"{' or '.join(map(str, rule.n_elements))} elements, at most {rule.n_sites_max} sites and "
        f"{rule.e_above_hull_max_ev_per_atom:g} eV/atom above the hull, whose formula no system has learned from. "
        f"{rule.n_samples} samples each (published: 50), relaxed by {rule.relax.potential}; recovered where one then "
        f"matches (StructureMatcher's default tolerances). The paper: {RECOVERED} of {ASKED_FOR} structures that "
        "are unstable at 0 K, another list."
    )
    ours = OurNumbers(found.results)
    beside = Beside("Known structures", hint, KNOWN, PaperNumbers(), ours, name_of)
    return _with_shipped(paper_beside_ours(found, "known", found.config.data.name, beside))


def _structures(found: Found) -> Table:
    """Every known structure with what each system made of it."""
    made = found.made("known")
    stated: dict[str, Mapping[str, Any]] = {}
    for _, result in made:
        stated |= result.budget["structures"]

    def cell(structures: Mapping[str, Mapping[str, Any]], name: str) -> str:
        one = structures.get(name)
        if one is None or not one["of_the_composition"]:
            return EMPTY
        said = "recovered" if one["relaxed"] else "not"
        return f"{said}, {one['as_drawn']} of {one['of_the_composition']} as drawn"

    rows = tuple(
        (one["formula"], str(one["group"]), one["sites"], *(cell(r.budget["structures"], name) for _, r in made))
        for name, one in stated.items()
    )
    head = ("structure", "group", "sites", *(name_of(key.system) for key, _ in made))
    hint = "Of the samples with the structure's composition, how many match before relaxation; a dash: none has it."
    return Table("structures", "Known structures, one by one", hint, head, rows, "lrl" + "l" * len(made))


def _compounds(found: Found) -> Table:
    """What the campaigns found, beside the paper's compounds, in both units."""
    rows: list[tuple[str, ...]] = []
    ours: list[bool] = []
    for elements in found.config.compounds.chemistries:
        name, system = name_of_chemistry(elements), "-".join(elements)
        if name in PAPER_COMPOUNDS:
            formula, group = PAPER_COMPOUNDS[name]
            pair = [PaperNumbers().number("compounds", name, MODEL, "", metric) for metric in _ENERGIES]
            cells = [cell for number in pair for cell in _both_units(None if number is None else number.value)]
            rows.append((system, "paper, DFT", "its compound", formula, group, *cells, EMPTY, ""))
            ours.append(False)
        for key, result in found.made("compounds", dataset=name):
            for which, suffix in (("the paper's formula", ""), ("lowest of all", ", best of all")):
                measured = [result.measured(metric + suffix) for metric in _ENERGIES]
                rows.append((system, name_of(key.system), which, *_of_candidate(measured), f"{result.budget['n']:,}"))
                ours.append(True)
    potential = found.config.compounds.relax.potential
    hint = (
        f"Lowest candidate of each kind by {potential}; n: crystals drawn. Errors are the potential's mean absolute "
        "errors against DFT. Per mole of atoms; 1 kJ/mol is 10.4 meV/atom."
    )
    units = ("kJ/mol", "meV/atom")
    energies = [f"{what} ({unit})" for what in ("formation", "above hull") for unit in units]
    head = ("chemical system", "", "crystal", "formula", "space group", *energies, "lowest phonon (THz)", "n")
    return Table("compounds", "New compounds (Table 3)", hint, head, tuple(rows), "lllll" + "r" * 6, tuple(ours))


_ENERGIES = ("heat of formation", "energy above hull")


def _of_candidate(pair: list[Measured | None]) -> Iterator[str]:
    """Formula, group, both energies in both units and lowest phonon of a candidate; dashes where there is none."""
    first = pair[0]
    if first is None:
        yield from (EMPTY,) * 7
        return
    yield str(first.metric.settings["formula"])
    yield str(first.metric.settings["spacegroup"])
    for one in pair:
        yield with_error(one)
        yield EMPTY if one is None else f"{_in_mev(one.metric.value):z.0f}"
    lowest = first.metric.settings["lowest_phonon_thz"]
    yield _number(None if lowest is None else float(lowest), 2)


def _both_units(value: float | None) -> tuple[str, str]:
    return (EMPTY, EMPTY) if value is None else (value_text(value, "kJ/mol"), f"{_in_mev(value):z.0f}")


def _number(value: float | None, digits: int) -> str:
    return EMPTY if value is None else f"{value:z.{digits}f}"


def _in_mev(kj_per_mol: float) -> float:
    return 1000 * kj_per_mol / KJ_PER_MOL


def _best(found: Found) -> Table:
    """The first ranks of every campaign."""
    rows = tuple(
        (
            key.dataset, name_of(key.system), str(one["rank"]), one["formula"], str(one["spacegroup_symbol"]),
            _number(one["e_above_hull_ev_per_atom"], 3), _number(one["formation_energy_ev_per_atom"], 3),
            _number(one["lowest_phonon_thz"], 2),
        )
        for key, result in found.made("compounds")
        for one in result.budget["best"]
    )  # fmt: skip
    head = (
        "chemical system", "system", "rank", "formula", "space group", "above hull (eV/atom)", "formation (eV/atom)",
        "lowest phonon (THz)",
    )  # fmt: skip
    return Table("best", "New compounds, first ranks", "", head, rows, "llrllrrr")
