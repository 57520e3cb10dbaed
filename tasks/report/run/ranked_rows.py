"""The rows of candidates.parquet and phases.parquet as the report shows, counts and lists them; ranked candidates come
first in theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
from pymatgen.core.composition import Composition

from dft.results import KeptSymmetry
from generative.crystal.crystals import crystals_of
from tasks.discover.candidates import Proposer, plain
from tasks.report.run.cif_files import cif_path
from tasks.report.run.kept_symmetry import kept_of
from tasks.report.run.model import HullData, HullPhase, JudgedPhase, ReportCandidate
from tasks.report.run.opinions import opinion_of

MOST_LISTED = 1000
"""Candidates on the page, by rank, some 4 kB each; the others are in the listing and in candidates.parquet."""

LISTING = "candidates.csv"
"""All ranked candidates, where the page holds only the best."""

ROWS_AT_ONCE = 500
"""Rows whose crystals are in memory at once while CIFs are written."""


class RankedRow(NamedTuple):
    """What the counts of a report need of a ranked row."""

    e_above_hull_ev_per_atom: float | None
    known_match: str | None
    relax_status: str
    proposed_by: str
    kept: KeptSymmetry | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Of a row of candidates.parquet."""
        energy, status = row["e_above_hull_ev_per_atom"], row["relax_status"]
        return cls(energy, row["known_match"], status, row["proposed_by"], kept_of(row))


def report_candidates(
    table: pa.Table, folders: Mapping[str, str | None], n_ranked: int | None = None
) -> Iterator[ReportCandidate]:
    """The ranked rows as the report shows them, one at a time.

    Args:
        table: of candidates, or a part of it.
        folders: of the VASP inputs of some, relative to the run folder, by id.
        n_ranked: ranked candidates of the run, which decide where CIFs lie; by default those of `table`.
    """
    total = len(table) - table.column("rank").null_count if n_ranked is None else n_ranked
    for row, crystal in zip(plain(table).to_pylist(), crystals_of(table, "relaxed_"), strict=True):
        if row["rank"] is None or crystal is None:
            continue
        yield ReportCandidate(
            rank=row["rank"],
            id=row["id"],
            formula=row["formula"],
            structure=crystal.to_structure(),
            spacegroup_number=row["spacegroup"],
            spacegroup_symbol=row["spacegroup_symbol"] or "",
            e_above_hull_ev_per_atom=row["e_above_hull_ev_per_atom"],
            formation_energy_ev_per_atom=row["formation_energy_ev_per_atom"],
            decomposition=row["decomposition"] or "",
            delta_e_ev_per_atom=row["delta_e_ev_per_atom"],
            delta_v_ang3_per_atom=row["delta_v_ang3_per_atom"],
            rms=row["rms"],
            relax_status=row["relax_status"],
            relax_steps=row["relax_steps"],
            known_match=row["known_match"],
            proposed_by=row.get("proposed_by") or Proposer.GENERATOR.value,
            prototype_match=row.get("prototype_match"),
            smact_valid=row["smact_valid"],
            cif_path=cif_path(row["rank"], row["formula"], row["id"], total),
            inputs_path=folders.get(row["id"]),
            hull_note=row["hull_note"] or "",
            lowest_phonon_thz=row.get("lowest_phonon_thz"),
            dynamically_stable=row.get("dynamically_stable"),
            phonon_note=row.get("phonon_note") or "",
            kept=kept_of(row),
            opinion=opinion_of(row),
        )


def hull_of_phases(
    phases: pa.Table, elements: Sequence[str], method: str, judged: Mapping[str, JudgedPhase] | None = None
) -> HullData:
    """The competing phases that have a place on their hull, as the report draws them.

    Args:
        phases: columns of phases.parquet.
        elements: the chemical system, in the order of the axes.
        method: level of theory.
        judged: what the judge says of some of them, by id.
    """
    drawn = []
    for row in phases.to_pylist():
        if row["e_above_hull_ev_per_atom"] is None:
            continue
        fractions = Composition(row["formula"]).fractional_composition.get_el_amt_dict()
        drawn.append(
            HullPhase(
                id=row["id"],
                formula=row["formula"],
                fractions={str(symbol): float(x) for symbol, x in fractions.items()},
                formation_energy_ev_per_atom=row["formation_energy_ev_per_atom"] or 0.0,
                e_above_hull_ev_per_atom=row["e_above_hull_ev_per_atom"],
                stable=row["on_hull"],
                origin=row["origin"],
                same_as=row["same_as"],
                judged=(judged or {}).get(row["id"]),
            )
        )
    return HullData(elements=tuple(elements), phases=tuple(drawn), level_of_theory=method)


def all_candidates(table: pa.Table, folders: Mapping[str, str | None]) -> Iterator[ReportCandidate]:
    """Every ranked row; few of them in memory at once, for a crystal as a Structure takes tens of kilobytes."""
    n_ranked = len(table) - table.column("rank").null_count
    for first in range(0, n_ranked, ROWS_AT_ONCE):  # ranked rows come first
        yield from report_candidates(table.slice(first, min(ROWS_AT_ONCE, n_ranked - first)), folders, n_ranked)


def write_listing(table: pa.Table, file: Path) -> None:
    """The numbers of all ranked candidates as CSV, by rank: the columns of candidates.parquet but those of crystals."""
    from pyarrow.csv import write_csv

    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    n_ranked = len(table) - table.column("rank").null_count
    write_csv(plain(table).slice(0, n_ranked), temporary)
    os.replace(temporary, file)


def ranked_sentence(table: pa.Table) -> str:
    """'114 of 128 candidates ranked', or the same of generated ones with the stable prototypes beside them."""
    rows = table.select(["rank", "proposed_by"]).to_pylist()
    ours = [row for row in rows if row["proposed_by"] == Proposer.PROTOTYPE]
    generated = [row for row in rows if row["proposed_by"] != Proposer.PROTOTYPE]
    n_ranked = sum(row["rank"] is not None for row in generated)
    if not ours:
        return f"{n_ranked} of {len(generated)} candidates ranked"
    n_ours = sum(row["rank"] is not None for row in ours)
    total = n_ranked + n_ours
    return f"{total} candidates ranked: {n_ranked} of {len(generated)} generated, {n_ours} stable prototypes"
