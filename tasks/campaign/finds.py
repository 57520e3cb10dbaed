"""What a campaign has found: new crystals near the hull, each once, whichever systems hold its elements.

A find is credited to the proposer that first came to it, in the order of rounds, of systems in the settings, and of
relaxations. From the next round on it is known, and competes, in every other system that holds its elements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from configs.campaign import CampaignConfig, proposer_of
from generative.crystal.crystals import crystals_of, field_of
from tasks.discover.candidates import RELAXED, Stage, plain
from tasks.files import ROWS_PER_GROUP, FileRef, key_of, keyed

SOURCE = "campaign"
"""Of finds among known crystals; their ids there are 'campaign:ID'."""

FINDS = [
    field_of("system", pa.string(), "elements of the system that found it, joined by '-'"),
    field_of("proposer", pa.string(), "who came to it first"),
    field_of("round", pa.int32(), "in which round, from 0"),
    field_of("chemsys", pa.string(), "its own elements joined by '-', all or some of the system's"),
    field_of("e_above_hull_ev_per_atom", pa.float64(), "above the hull as it was when it was found, eV/atom"),
    field_of("spacegroup", pa.int16(), "international number of the relaxed crystal"),
    *RELAXED,
]


class Worked(Protocol):
    """A round in a system, as far as finds are concerned; see tasks.campaign.system_rounds.SystemRound."""

    @property
    def system(self) -> str:
        """Its name."""

    @property
    def number(self) -> int:
        """Of the round, from 0."""

    @property
    def screened(self) -> FileRef:
        """Candidates of all rounds so far, in the order in which they were looked at."""

    @property
    def ranked(self) -> FileRef:
        """The same with their ranks."""


def credited(proposed_by: str, proposers: Collection[str]) -> str:
    """The proposer that a candidate counts for, of what the column `proposed_by` says: 'generator:NAME'.

    Args:
        proposed_by: the proposer, or what it has become by learning.
        proposers: names of all.
    """
    proposer = proposer_of(proposed_by.partition(":")[2], proposers)
    assert proposer is not None, f"{proposed_by} is none of {sorted(proposers)}"  # a campaign has no other candidates
    return proposer


def no_finds() -> pa.Table:
    """The table of FINDS before the first round."""
    return pa.schema(FINDS).empty_table()


def with_new_finds(finds: pa.Table, rounds: Sequence[Worked], config: CampaignConfig) -> pa.Table:
    """The finds with those of a round.

    Args:
        finds: of the rounds before, columns FINDS.
        rounds: of all systems that were worked on, in the order of systems.
        config: what is near, and the matcher's tolerances.
    """
    for one in rounds:
        finds = pa.concat_tables([finds, _unlike(finds, _new(finds, one, config), config)])
    return finds


def _new(finds: pa.Table, worked: Worked, config: CampaignConfig) -> pa.Table:
    """Ranked candidates of a system near the hull, none of whose copies is a find already; columns FINDS."""
    ranked = worked.ranked.read()
    rows: list[dict[str, Any]] = plain(ranked).to_pylist()
    registered = set(finds.column("id").to_pylist())
    place = {name: i for i, name in enumerate(worked.screened.read_columns("id").column("id").to_pylist())}
    copies: dict[str, list[str]] = defaultdict(list)
    within_ev_per_atom, proposers = config.find_within_ev_per_atom, [entry.label for entry in config.proposers]
    proposer = {row["id"]: credited(row["proposed_by"], proposers) for row in rows}
    for row in rows:
        if row["rejected_by"] == Stage.DUPLICATE_RELAXED:
            copies[row["duplicate_of"]].append(row["id"])
    chosen: list[int] = []
    columns: dict[str, list[Any]] = defaultdict(list)
    for number, row in enumerate(rows):
        height = row["e_above_hull_ev_per_atom"]
        group = [row["id"], *copies[row["id"]]]
        if row["rank"] is None or height is None or height > within_ev_per_atom or registered & set(group):
            continue
        chosen.append(number)
        columns["system"].append(worked.system)
        columns["proposer"].append(proposer[min(group, key=place.__getitem__)])
        columns["round"].append(worked.number)
        columns["chemsys"].append(chemical_system_of(row["formula"]))
    taken = ranked.take(pa.array(chosen, pa.int64()))
    columns_of = {f.name: columns[f.name] for f in FINDS[:4]}
    arrays = [
        pa.array(columns_of[f.name], f.type) if f.name in columns_of else taken.column(f.name).combine_chunks()
        for f in FINDS
    ]
    return pa.table(arrays, schema=pa.schema(FINDS))


def _unlike(finds: pa.Table, new: pa.Table, config: CampaignConfig) -> pa.Table:
    """Those of the new finds that are no crystal that is found already, as another system of this round may have."""
    from generative.screening.matching import Tolerances, group

    same = set(new.column("chemsys").to_pylist())
    rivals = finds.filter(pa.array([name in same for name in finds.column("chemsys").to_pylist()], pa.bool_()))
    crystals = [c for c in crystals_of(pa.concat_tables([rivals, new]), "relaxed_") if c is not None]
    first = group(crystals, Tolerances.from_config(config.screen)).first_members[len(rivals) :]
    return new.filter(pa.array([number >= len(rivals) for number in first], pa.bool_()))


def chemical_system_of(formula: str) -> str:
    """'TiB2' as 'B-Ti'."""
    from pymatgen.core.composition import Composition

    return "-".join(sorted(str(element) for element in Composition(formula).elements))


def finds_of_others(finds: pa.Table, system: str, *, its_own: bool = False) -> pa.Table:
    """Finds of other systems whose elements a system holds; with the ids that they have among known crystals.

    Args:
        finds: columns FINDS.
        system: its name.
        its_own: those of the system too.
    """
    elements = set(system.split("-"))
    rows: Sequence[Mapping[str, Any]] = finds.select(["system", "chemsys"]).to_pylist()
    keep = [(its_own or row["system"] != system) and elements.issuperset(row["chemsys"].split("-")) for row in rows]
    others = finds.filter(pa.array(keep, pa.bool_()))
    names = pa.array([f"{SOURCE}:{name}" for name in others.column("id").to_pylist()], pa.string())
    index = others.schema.get_field_index("id")
    return others.set_column(index, others.schema.field(index), names)


def known_with_finds(known: FileRef, others: pa.Table, path: Path) -> FileRef:
    """Known crystals of a system with what others have found.

    Args:
        known: of the dataset.
        others: as finds_of_others gives them.
        path: where the table goes.
    """
    names = others.column("id").to_pylist()
    key = key_of("known with finds", known_with_finds, known=known.sha256, finds=names)

    def compute() -> pa.Table:
        from generative.datasets.origins import Origin
        from generative.datasets.records import row_of, table_of

        rows = zip(plain(others).to_pylist(), crystals_of(others, "relaxed_"), strict=True)
        found = [
            row_of(
                crystal,
                SOURCE,
                row["id"].removeprefix(f"{SOURCE}:"),
                row["energy_method"],
                {"energy_ev_per_atom": row["energy_ev_per_atom"], "spacegroup": row["spacegroup"]},
                origin=Origin.HYPOTHETICAL,
            )
            for row, crystal in rows
            if crystal is not None
        ]
        return pa.concat_tables(
            [known.read().replace_schema_metadata(None), table_of(found).replace_schema_metadata(None)]
        )

    return keyed(path, key, compute, ROWS_PER_GROUP)


def finds_file(finds: pa.Table, path: Path, parts: Sequence[str]) -> FileRef:
    """finds.parquet after a round.

    Args:
        finds: columns FINDS.
        path: the file.
        parts: digests of what they were read off.
    """
    return keyed(path, key_of("finds", with_new_finds, parts=list(parts), n=len(finds)), lambda: finds, ROWS_PER_GROUP)
