"""What campaigns have found: hidden crystals among relaxed candidates, after how many relaxations and at which rank.

A hidden crystal is found if the matcher says that a relaxed candidate is the same as it, as the reference gives it or
relaxed by the same potential. The rank is that of a campaign of as many relaxations as the budget has, with repeats
after relaxation turned away, as the report of a run has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from configs.rediscovery import PORTFOLIO, RediscoveryConfig
from generative.crystal.crystals import Crystal, crystals_of, field_of
from generative.plans.turns import share_out
from generative.screening.matching import Tolerances, group, pairwise_rms
from tasks.discover.candidates import RELAXED, Stage, joined, plain, table_of
from tasks.discover.phases import competing_hull, hull_energy
from tasks.discover.rank import ranked_rows, turn_away_repeats
from tasks.files import FileRef, key_of, unchanged, write_table
from tasks.rediscovery.campaign import Campaign, HiddenSystem, run_of

STRICT = (0.2, 0.3, 5.0)
"""StructureMatcher's default tolerances, beside those of the structure-prediction literature."""


@dataclass(frozen=True)
class Candidate:
    """A relaxed candidate of a campaign.

    Attributes:
        row: its row of the table RANKED, without crystals.
        generated: before relaxation.
        relaxed: after it; None if that failed.
        found: names of hidden crystals that it is, by the usual tolerances.
        found_strict: the same by the strict ones.
    """

    row: Mapping[str, Any]
    generated: Crystal
    relaxed: Crystal | None
    found: frozenset[str] = frozenset()
    found_strict: frozenset[str] = frozenset()


def targets_of(system: HiddenSystem, config: RediscoveryConfig) -> list[dict[str, Any]]:
    """The hidden crystals of a system, and what the potential says of each: its energy above the known phases' hull."""
    run, relaxed = run_of(config, system.elements), joined([ref.read() for ref in system.relaxed], RELAXED)
    hull = competing_hull(joined([ref.read() for ref in system.competing], RELAXED), run)
    rows: list[dict[str, Any]] = plain(system.targets.read()).to_pylist()
    for row, done, crystal in zip(rows, plain(relaxed).to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True):
        above = None
        if crystal is not None:
            energy = hull_energy(done, crystal, run.relax.pressure_gpa)
            composition = crystal.to_structure().composition
            above = hull.place(composition, energy, done["energy_method"]).e_above_hull_ev_per_atom
        row["potential_e_above_hull_ev_per_atom"] = above
    return rows


def hidden_forms(system: HiddenSystem) -> dict[str, list[Crystal]]:
    """By name of a hidden crystal: as the reference gives it, and relaxed by the potential if that went well."""
    given, relaxed = system.targets.read(), joined([ref.read() for ref in system.relaxed], RELAXED)
    forms = zip(crystals_of(given), crystals_of(relaxed, "relaxed_"), strict=True)
    names = given.column("id").to_pylist()
    return {name: [c for c in both if c is not None] for name, both in zip(names, forms, strict=True)}


def candidates_of(ranked: pa.Table, hidden: Mapping[str, Sequence[Crystal]]) -> list[Candidate]:
    """The candidates of a campaign in the order of its plan, with the hidden crystals that they are.

    Args:
        ranked: columns RANKED.
        hidden: forms of each hidden crystal.
    """
    from generative.metrics.reconstruction import csp_tolerances

    ordered = ranked.sort_by("index")
    relaxed = crystals_of(ordered, "relaxed_")
    found = [_matches(relaxed, hidden, tolerances) for tolerances in (csp_tolerances(), Tolerances.of(*STRICT))]
    rows = zip(plain(ordered).to_pylist(), crystals_of(ordered), relaxed, *found, strict=True)
    # Every row of a run's candidates has a crystal as it was drawn.
    return [Candidate(row, drawn, end, *sets) for row, drawn, end, *sets in rows if drawn is not None]


def _matches(
    crystals: Sequence[Crystal | None], hidden: Mapping[str, Sequence[Crystal]], tolerances: Tolerances
) -> list[frozenset[str]]:
    pairs = [
        (place, name, form, crystal)
        for place, crystal in enumerate(crystals)
        if crystal is not None
        for name, forms in hidden.items()
        for form in forms
    ]
    rms = pairwise_rms([form for *_, form, _ in pairs], [crystal for *_, crystal in pairs], tolerances).rms
    found: list[set[str]] = [set() for _ in crystals]
    for (place, name, *_), value in zip(pairs, rms, strict=True):
        if not math.isnan(value):
            found[place].add(name)
    return [frozenset(names) for names in found]


def merged(
    of_proposer: Sequence[Sequence[Candidate]], shares: Sequence[float], most: int, tolerances: Tolerances
) -> list[Candidate]:
    """The campaign that several proposers make together, out of the relaxations of each alone.

    Places are shared out as those of a run with several generators; a candidate that is a repeat of an earlier one of
    anybody costs nothing, and the next place comes.

    Args:
        of_proposer: candidates of each, in the order of the plan.
        shares: of each.
        most: candidates, at most.
        tolerances: by which two candidates are the same before relaxation.
    """
    whole = sum(shares)
    # So many that everybody's last candidate has had its place.
    n_places = max(math.ceil(len(own) * whole / share) for own, share in zip(of_proposer, shares, strict=True))
    turns = share_out(n_places + len(shares), shares)
    placed = [pair for own, places in zip(of_proposer, turns, strict=True) for pair in zip(places, own, strict=False)]
    in_order = [candidate for _, candidate in sorted(placed, key=lambda pair: pair[0])]
    first = group([candidate.generated for candidate in in_order], tolerances).first_members
    return [candidate for place, candidate in enumerate(in_order) if first[place] == place][:most]


def ranks(candidates: Sequence[Candidate], tolerances: Tolerances) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Best rank at which each hidden crystal stands in a campaign of these relaxations, and the ranked rows.

    A candidate that relaxed into a lower one stands at that one's rank.
    """
    after = {Stage.DUPLICATE_RELAXED.value, None}  # what is a repeat depends on how many there are
    again = {"rejected_by": None, "duplicate_of": None, "rank": None}
    rows = [{**c.row, **(again if c.row["rejected_by"] in after else {"rank": None})} for c in candidates]
    turn_away_repeats(rows, [c.relaxed for c in candidates], tolerances)
    kept = ranked_rows(rows, "e_above_hull_ev_per_atom")
    rank_of: dict[str, int] = {row["id"]: row["rank"] for row in kept}
    best: dict[str, int] = {}
    for candidate, row in zip(candidates, rows, strict=True):
        rank = rank_of.get(row["id"] if row["rejected_by"] is None else row["duplicate_of"])
        if rank is not None:
            best |= {name: min(rank, best.get(name, rank)) for name in candidate.found}
    return best, kept


def found_fields(config: RediscoveryConfig) -> list[pa.Field]:
    """Columns of found.parquet: a row per system, campaign and hidden crystal."""
    return [
        field_of("system", pa.string(), "elements joined by '-'"),
        field_of("proposer", pa.string(), "who looked; 'portfolio': all that share"),
        field_of("id", pa.string(), "id of the hidden crystal in the reference"),
        field_of("formula", pa.string(), "its reduced formula"),
        field_of("n_atoms", pa.int16(), "atoms in its primitive cell"),
        field_of("spacegroup", pa.int16(), "its international number"),
        field_of("e_above_hull_ev_per_atom", pa.float64(), "as the reference states it, eV/atom"),
        field_of(
            "potential_e_above_hull_ev_per_atom",
            pa.float64(),
            "by the potential, against the known phases, eV/atom; below 0: the potential calls it stable; or null",
        ),
        field_of("n_of_formula", pa.int32(), "relaxed candidates of its formula"),
        field_of("found_after", pa.int32(), "relaxations when it was found, the last of them it; null: not found"),
        field_of("found_after_strict", pa.int32(), "the same by ltol 0.2, stol 0.3, angle 5"),
        *(
            field_of(
                f"rank_at_{k}", pa.int32(), f"its rank by energy above hull after {k} relaxations; null: not found"
            )
            for k in config.budgets
        ),
    ]


def counted_fields() -> list[pa.Field]:
    """Columns of counted.parquet: a row per system and campaign."""
    return [
        field_of("system", pa.string(), "elements joined by '-'"),
        field_of("proposer", pa.string(), "who looked; 'portfolio': all that share"),
        field_of("relaxations", pa.int32(), "relaxed candidates"),
        field_of("relax_steps", pa.int64(), "steps of their relaxations together"),
        field_of("ranked", pa.int32(), "of them ranked: neither failed nor known nor a repeat after relaxation"),
        field_of("ranked_p1", pa.int32(), "of these without symmetry: space group P1"),
        field_of("below_hull", pa.int32(), "ranked candidates below the hull of the known phases by the potential"),
    ]


RELAXATIONS = [
    field_of("system", pa.string(), "elements joined by '-'"),
    field_of("proposer", pa.string(), "whose candidate it is"),
    field_of("number", pa.int32(), "of the relaxation in the proposer's campaign, from 1"),
    field_of("drawn", pa.int32(), "the same number: the same crystal in this system before relaxation"),
    field_of("relaxed", pa.int32(), "likewise after it; null: it failed, or became a known crystal"),
    field_of("e_above_hull_ev_per_atom", pa.float64(), "above the hull of the known phases, eV/atom; or null"),
    field_of("hidden", pa.list_(pa.string()), "ids of the hidden crystals that it is"),
]
"""Columns of relaxations.parquet: a row per relaxation of every proposer."""


class CountedSystem(BaseModel):
    """What was found in a system.

    Attributes:
        found: columns of found.parquet.
        counted: columns of counted.parquet.
        relaxations: columns RELAXATIONS.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    found: FileRef
    counted: FileRef
    relaxations: FileRef


def campaigns_of(
    system: HiddenSystem, campaigns: Sequence[Campaign], config: RediscoveryConfig
) -> Iterator[tuple[str, list[Candidate]]]:
    """Name and candidates of every proposer's campaign, then those of the portfolio, if there is one."""
    hidden = hidden_forms(system)
    own = {campaign.proposer: candidates_of(campaign.ranked.read(), hidden) for campaign in campaigns}
    yield from own.items()
    if config.portfolio:
        shared, shares = [own[name] for name in config.portfolio], list(config.portfolio.values())
        yield PORTFOLIO, merged(shared, shares, config.budgets[-1], Tolerances.from_config(config.screen))


def relaxation_rows(
    system: str, of_proposer: Mapping[str, Sequence[Candidate]], tolerances: Tolerances
) -> list[dict[str, Any]]:
    """Rows of RELAXATIONS of a system.

    Args:
        system: its name.
        of_proposer: candidates of each proposer, in the order of its plan.
        tolerances: by which two crystals are the same.
    """
    every = [(name, number, c) for name, own in of_proposer.items() for number, c in enumerate(own, start=1)]
    new = (None, Stage.DUPLICATE_RELAXED.value)
    relaxed = [c.relaxed if c.row["rejected_by"] in new else None for _, _, c in every]
    drawn = group([c.generated for _, _, c in every], tolerances).first_members
    kinds = iter(group([crystal for crystal in relaxed if crystal is not None], tolerances).first_members)
    return [
        {
            "system": system,
            "proposer": name,
            "number": number,
            "drawn": int(first),
            "relaxed": None if end is None else int(next(kinds)),
            "e_above_hull_ev_per_atom": candidate.row["e_above_hull_ev_per_atom"],
            "hidden": sorted(candidate.found),
        }
        for (name, number, candidate), first, end in zip(every, drawn, relaxed, strict=True)
    ]


def found_after(sets: Sequence[frozenset[str]], name: str) -> int | None:
    """Number of the first relaxation that gave the hidden crystal of this name, from 1; None if none did."""
    return next((number for number, names in enumerate(sets, start=1) if name in names), None)


def count(
    system: HiddenSystem, campaigns: Sequence[Campaign], config: RediscoveryConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of found.parquet, of counted.parquet and of relaxations.parquet of a system."""
    tolerances, targets = Tolerances.from_config(config.screen), targets_of(system, config)
    every = dict(campaigns_of(system, campaigns, config))
    found, counted = [], []
    for name, candidates in every.items():
        rank_at = {k: ranks(candidates[:k], tolerances)[0] for k in config.budgets}
        counted.append(_counted_row(system.name, name, candidates, ranks(candidates, tolerances)[1]))
        found += [
            {
                **target,
                "proposer": name,
                "n_of_formula": sum(candidate.row["formula"] == target["formula"] for candidate in candidates),
                "found_after": found_after([c.found for c in candidates], target["id"]),
                "found_after_strict": found_after([c.found_strict for c in candidates], target["id"]),
                **{f"rank_at_{k}": rank_at[k].get(target["id"]) for k in config.budgets},
            }
            for target in targets
        ]
    alone = {name: candidates for name, candidates in every.items() if name != PORTFOLIO}
    return found, counted, relaxation_rows(system.name, alone, tolerances)


def _counted_row(
    system: str, name: str, candidates: Sequence[Candidate], kept: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    heights = [row["e_above_hull_ev_per_atom"] for row in kept]
    return {
        "system": system,
        "proposer": name,
        "relaxations": len(candidates),
        "relax_steps": sum(candidate.row["relax_steps"] for candidate in candidates),
        "ranked": len(kept),
        "ranked_p1": sum(row["spacegroup"] == 1 for row in kept),
        "below_hull": sum(height is not None and height < 0 for height in heights),
    }


def counted_files(system: HiddenSystem, campaigns: Sequence[Campaign], config: RediscoveryConfig) -> CountedSystem:
    """found.parquet, counted.parquet and relaxations.parquet of a system; see count."""
    key = key_of(
        "count",
        count,
        targets=system.targets.sha256,
        relaxed=[ref.sha256 for ref in (*system.relaxed, *system.competing)],
        campaigns=[(campaign.proposer, campaign.ranked.sha256) for campaign in campaigns],
        portfolio=config.portfolio,
        budgets=config.budgets,
        screen=config.screen.model_dump(mode="json"),
        pressure_gpa=config.relax.pressure_gpa,
    )
    names = ("found", "counted", "relaxations")
    paths = [system.folder / "common" / f"{name}.parquet" for name in names]
    refs = [ref for path in paths if (ref := unchanged(path, key)) is not None]
    if len(refs) < len(names):
        rows = count(system, campaigns, config)
        fields = (found_fields(config), counted_fields(), RELAXATIONS)
        tables = [table_of(*part) for part in zip(rows, fields, strict=True)]
        refs = [write_table(table, path, key) for table, path in zip(tables, paths, strict=True)]
    return CountedSystem(**dict(zip(names, refs, strict=True)))
