"""The hull of a campaign's DFT records with the Materials Project's entries, as a table in the campaign's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.files import write_table

if TYPE_CHECKING:
    from dft.hull.corrected_hull import HullRow

TABLE = "dft-hull.parquet"
"""The table's file in the campaign's folder."""

_TEXT, _NUMBER = pa.string(), pa.float64()


@dataclass(frozen=True)
class HullTable:
    """What `hullward dft hull` found.

    Attributes:
        name: of the campaign.
        file: Parquet file of all rows.
        rows: dft.hull.corrected_hull.HullRow as plain values; own records first.
        notes: what the user should know of the hull as a whole.
        scheme: of every energy in it.
    """

    name: str
    file: Path
    rows: list[dict[str, Any]]
    notes: tuple[str, ...]
    scheme: str

    @property
    def own(self) -> list[dict[str, Any]]:
        """Rows of the campaign's own records."""
        return [row for row in self.rows if row["role"] != "database"]


def corrected_hull(folder: Path, references: Sequence[Path]) -> HullTable:
    """The campaign's relaxed records and a database's entries on one corrected hull; written to its folder.

    Args:
        folder: of a run with DFT jobs, or of `hullward dft submit`.
        references: JSON files of the database's entries; see dft.hull.reference_entries.

    Raises:
        CampaignError: if the folder holds no campaign, or one without a finished relaxation.
        EntriesError: if a file holds no entries.
        MixedSettingsError: if no record was computed with the Materials Project's settings; it names what differs.
    """
    from dft.campaign.campaign import Campaign, CampaignError
    from dft.campaign.collection import records_of
    from dft.hull.corrected_hull import hull_with_materials_project
    from dft.hull.corrections import MP2020
    from dft.hull.reference_entries import read_entries
    from dft.job_folder import Purpose

    campaign = Campaign.read(folder)
    records = {key: one for key, one in records_of(campaign).items() if one.purpose != Purpose.STATIC}
    if not records:
        raise CampaignError(
            f"campaign {campaign.name} has no finished relaxation yet: expected some before its hull; look with "
            f"`hullward dft status {folder}`"
        )
    entries, refused = read_entries(references)
    found = hull_with_materials_project(records, entries)
    rows = [asdict(row) for row in found.rows]
    write_table(table_of(rows), folder / TABLE)
    unread = [f"{len(refused)} entries could not be read, the first: {refused[0]}"] if refused else []
    notes = (*unread, *_account(found.rows, len(entries)), *found.notes)
    return HullTable(campaign.name, folder / TABLE, rows, notes, MP2020)


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows as a table of fixed columns, whatever of them is empty."""
    from dft.hull.corrected_hull import HullRow

    kinds = {name: _NUMBER if "float" in str(kind) else _TEXT for name, kind in HullRow.__annotations__.items()}
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def _account(rows: Sequence[HullRow], n_entries: int) -> list[str]:
    """Where every entry of the database went, and which were left out, by reason and name."""
    database = [row for row in rows if row.role == "database"]
    out = [row for row in database if row.left_out]
    said = [
        f"{n_entries} entries of the database: {len(database) - len(out)} on the hull, {len(out)} left out, "
        f"{n_entries - len(database)} of other chemical systems"
    ]
    for reason, n in Counter(row.left_out for row in out).most_common():
        ids = [row.id for row in out if row.left_out == reason]
        said.append(f"left out: {', '.join(ids[:5])}{', ...' if n > 5 else ''} ({n}): {reason}")
    if off := [row.id for row in database if "the database corrects" in row.note]:
        said.append(f"{len(off)} entries are corrected otherwise than the database states, such as {off[0]}: see note")
    return said
