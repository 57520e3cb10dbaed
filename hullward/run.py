"""A run's folder as an object: tables, crystals, hull and pictures of what `discover` has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hullward.drawings import Drawing, draw, draw_hull
from hullward.results import Crystals, data_frame, html_of, shown_frame, structures_of, text_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pymatgen.core.structure import Structure


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run. Files are read when they are asked for, and once.

    Attributes:
        folder: where it lies, such as runs/quickstart; docs/architecture.md says what is in it.
    """

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Settings, seed, versions, counts, times: what manifest.json says."""
        from tasks.discover.run import RunFolder, read_manifest

        return read_manifest(RunFolder(self.folder))

    @cached_property
    def table(self) -> pa.Table:
        """Every candidate with all columns (docs/numbers.md), ranked ones first."""
        from storage.tables import read_table
        from tasks.discover.run import RunFolder
        from tasks.files import OF_A_RUN

        return read_table(RunFolder(self.folder).candidates, OF_A_RUN)

    @property
    def report(self) -> Path:
        """The run's page: one file, to be opened in a browser."""
        return self.folder / "report.html"

    @property
    def elements(self) -> tuple[str, ...]:
        """The chemical system, in the order given."""
        return tuple(self.manifest["settings"]["elements"])

    def to_pandas(self) -> pd.DataFrame:
        """Every candidate, ranked ones first; those turned away have `rejected_by` and `reason`. Crystals left out."""
        return data_frame(self.table)

    def best(self, n: int = 10) -> Crystals:
        """The first n of the ranked candidates, as relaxed: to look at, or to hand to the stages.

        Raises: ValueError: if n is below 1.
        """
        if n < 1:
            raise ValueError(f"n is {n}: expected at least 1")
        from flows.cli.console import RANKED, with_phonons

        rows = self._ranked.slice(0, n)
        judged = {"judge_e_above_hull_ev_per_atom": "judge eV/atom", "near_hull_probability": "within 0.1 by DFT"}
        columns: dict[str, str] = {}  # the judge's beside the first potential's, as the run itself shows them
        for key, heading in with_phonons(rows.select(["lowest_phonon_thz"]).to_pylist(), RANKED).items():
            columns |= {key: heading} | (judged if key == "e_above_hull_ev_per_atom" else {})
        return Crystals(rows, columns)

    @property
    def _ranked(self) -> pa.Table:
        return self.table.slice(0, len(self.table) - self.table.column("rank").null_count)

    def structures(self, *, generated: bool = False) -> dict[str, Structure]:
        """pymatgen Structures by id, those of ranked candidates first; as relaxed, or as `generated`.

        A candidate that was turned away before relaxation has no relaxed crystal.
        """
        return structures_of(self.table, "" if generated else "relaxed_")

    @cached_property
    def phases(self) -> pd.DataFrame:
        """The competing phases with their origins and energies above the hull that they span."""
        return data_frame(self._phases)

    @property
    def _phases(self) -> pa.Table:
        from storage.tables import read_table
        from tasks.files import OF_A_RUN

        return read_table(self.folder / "phases.parquet", OF_A_RUN)

    @cached_property
    def hull(self) -> Drawing:
        """The convex hull with the candidates of the report on it: a picture, and interactive figures."""
        from tasks.report.run.ranked_rows import MOST_LISTED, hull_of_phases, report_candidates

        hull = hull_of_phases(self._phases, self.elements, self.manifest["potential"]["method"])
        return draw_hull(hull, list(report_candidates(self._ranked.slice(0, MOST_LISTED), {})))

    def draw(self, candidate: str | int = 1, size_px: int = 360) -> Drawing:
        """A picture of one candidate as relaxed, by its rank or id.

        Raises: ValueError: if there is no relaxed crystal of this rank or id.
        """
        key = "rank" if isinstance(candidate, int) else "id"
        places = [i for i, value in enumerate(self.table.column(key).to_pylist()) if value == candidate]
        found = structures_of(self.table.slice(places[0], 1), "relaxed_") if places else {}
        if not found:
            raise ValueError(f"{self.folder} has no relaxed candidate of {key} {candidate!r}")
        return draw(next(iter(found.values())), size_px, self.elements)

    def __repr__(self) -> str:
        return "\n".join([self._said, text_of(self._head)])

    def _repr_html_(self) -> str:
        return html_of(self._head, [self._said])

    @property
    def _said(self) -> str:
        from tasks.report.run.ranked_rows import ranked_sentence

        return f"run {self.folder.name}: {'-'.join(self.elements)}, {ranked_sentence(self.table)}"

    @property
    def _head(self) -> pd.DataFrame:
        from flows.cli.results import ranked_view
        from tasks.discover.own_files import plain_rows

        rows, columns = ranked_view(plain_rows(self._ranked))
        return shown_frame(rows, columns)


def load_run(folder: str | Path) -> Run:
    """A finished run by its folder.

    Args:
        folder: such as runs/quickstart.

    Raises: RunUnfinishedError: if the folder holds no run that came to its report.
    """
    place = Path(folder).expanduser()
    run = Run(place)
    if not (place / "candidates.parquet").is_file() or not _is_of_a_run(run.manifest):
        from tasks.discover.finished import RunUnfinishedError

        raise RunUnfinishedError(f"{place} holds no finished run: expected the folder of one, such as runs/quickstart")
    return run


def _is_of_a_run(manifest: Mapping[str, Any]) -> bool:
    return {"settings", "potential"} <= manifest.keys()
