"""What the stages give back: tables that are data frames, crystals and pictures too."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hullward.drawings import Drawing, draw, draw_hull

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ase import Atoms
    from pymatgen.core.structure import Structure

    from tasks.report.evaluation.model import EvaluationReport

SHOWN = 10
"""Rows that are shown of a table; the data frame holds all."""


def data_frame(table: pa.Table) -> pd.DataFrame:
    """All columns but those of crystals; whole numbers stay whole where some are missing."""
    import pandas as pd

    kept = [n for n in table.column_names if not n.endswith(("lattice_ang", "frac_coords", "atomic_numbers"))]
    kinds = {
        "int16": pd.Int16Dtype(),
        "int32": pd.Int32Dtype(),
        "int64": pd.Int64Dtype(),
        "bool": pd.BooleanDtype(),
    }
    frame: pd.DataFrame = table.select(kept).to_pandas(types_mapper=lambda kind: kinds.get(str(kind)))
    return frame


def structures_of(table: pa.Table, prefix: str = "") -> dict[str, Structure]:
    """The crystals of a table by id; rows without one are left out.

    Args:
        table: with structure columns.
        prefix: of their names: 'relaxed_' for crystals as relaxed.
    """
    from generative.crystal.crystals import crystals_of

    names = table.column("id").to_pylist()
    return {
        name: crystal.to_structure()
        for name, crystal in zip(names, crystals_of(table, prefix), strict=True)
        if crystal is not None
    }


def text_of(frame: pd.DataFrame) -> str:
    """Rows as a table in plain text, energies to 1 meV."""
    return str(frame.to_string(index=False, float_format="{:z.3f}".format, na_rep=""))


def html_of(frame: pd.DataFrame, said: Sequence[str]) -> str:
    """Sentences and rows as a notebook shows them."""
    lines = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in said)
    return lines + str(frame.to_html(index=False, float_format="{:z.3f}".format, na_rep="", border=0))


def shown_frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """These columns of the rows under their headings, in the words of the terminal."""
    import pandas as pd

    from flows.cli.console import cell

    return pd.DataFrame({heading: [cell(row.get(key)) for row in rows] for key, heading in columns.items()})


@dataclass(frozen=True, repr=False)
class Crystals:
    """Crystals with what a stage says of each. Those that failed stay in the table, with the reason.

    Attributes:
        table: a row per crystal, Hullward's own columns (docs/numbers.md).
        columns: those that are shown, with their headings.
        notes: sentences a reader must know.
    """

    table: pa.Table
    columns: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> pd.DataFrame:
        """All columns but those of crystals, one row per crystal, those that failed included."""
        return data_frame(self.table)

    @property
    def structures(self) -> dict[str, Structure]:
        """pymatgen Structures by id, as relaxed if they have been; rows that hold no crystal are left out."""
        return structures_of(self.table, self._prefix)

    @property
    def atoms(self) -> dict[str, Atoms]:
        """The same as ASE Atoms."""
        from pymatgen.io.ase import AseAtomsAdaptor

        return {name: AseAtomsAdaptor.get_atoms(one, msonable=False) for name, one in self.structures.items()}

    @property
    def _prefix(self) -> str:
        return "relaxed_" if "relaxed_lattice_ang" in self.table.column_names else ""

    def draw(self, name: str | None = None, size_px: int = 360) -> Drawing:
        """A picture of one crystal: the one of this id, or the first.

        Raises: ValueError: if there is none.
        """
        there = self.structures
        chosen = next(iter(there), "") if name is None else name
        if chosen not in there:
            raise ValueError(f"no crystal {chosen!r}: expected one of the {len(there)} ids in .structures")
        return draw(there[chosen], size_px)

    def save(self, path: str | Path) -> list[Path]:
        """Write a Parquet file if `path` ends in .parquet, which all functions and commands read; else CIFs and it.

        Returns: The files written.
        """
        from tasks.discover.own_files import write_crystals

        return write_crystals(self.table, Path(path), self._prefix)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def _head(self) -> pd.DataFrame:
        return shown_frame(self.table.slice(0, SHOWN).select(list(self._shown)).to_pylist(), self._shown)

    @property
    def _shown(self) -> dict[str, str]:
        return {key: heading for key, heading in self.columns.items() if key in self.table.column_names}

    @property
    def _said(self) -> list[str]:
        n = len(self)
        return [f"{n} crystals" + (f", the first {SHOWN}" if n > SHOWN else ""), *self.notes]

    def __repr__(self) -> str:
        return "\n".join([*self._said, text_of(self._head)])

    def _repr_html_(self) -> str:
        return html_of(self._head, self._said)


@dataclass(frozen=True, repr=False)
class OnHull(Crystals):
    """Crystals relaxed and set on the hull of known phases, lowest above it first.

    Attributes:
        competing: the phases they compete with, as `phases` gives them.
        elements: all elements of the crystals: the system of the drawing.
    """

    competing: pa.Table = field(kw_only=True)
    elements: tuple[str, ...] = field(kw_only=True)

    @property
    def phases(self) -> pd.DataFrame:
        """Competing phases in the crystals' elements, with their energies above the hull that they span."""
        return data_frame(self.competing)

    def draw_hull(self) -> Drawing:
        """The hull of all their elements with the crystals on it.

        Raises: ValueError: if they are of one element only.
        """
        from tasks.report.run.model import ReportCandidate
        from tasks.report.run.ranked_rows import hull_of_phases

        if len(self.elements) < 2:
            raise ValueError(f"all crystals are of {' '.join(self.elements)}: a drawing needs two elements")
        crystals, placed = self.structures, []
        for rank, row in enumerate(self.table.to_pylist(), start=1):
            if row["id"] in crystals:
                named = {key: row[key] for key in ("id", "formula", "e_above_hull_ev_per_atom")}
                named["formation_energy_ev_per_atom"] = row["formation_energy_ev_per_atom"]
                placed.append(ReportCandidate(rank=rank, structure=crystals[row["id"]], **named))
        methods = [method for method in self.table.column("energy_method").unique().to_pylist() if method]
        return draw_hull(hull_of_phases(self.competing, self.elements, methods[0] if methods else ""), placed)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How good crystals are by the protocols of the field.

    Attributes:
        figures: all that was found, as in evaluation.json.
        folder: holds evaluation.html, .json, .md and per_sample.parquet.
    """

    figures: EvaluationReport
    folder: Path

    def to_pandas(self) -> pd.DataFrame:
        """A row per figure: protocol, figure, value, unit, n (its denominator) and remark."""
        import pandas as pd

        found = [metric for evaluation in self.figures.evaluations for metric in evaluation.metrics]
        return pd.DataFrame(
            [
                {
                    "protocol": m.protocol,
                    "figure": m.name,
                    "value": m.value,
                    "unit": m.unit,
                    "n": m.n,
                    "remark": m.reason,
                }
                for m in found
            ],
            columns=["protocol", "figure", "value", "unit", "n", "remark"],
        )

    @property
    def samples(self) -> pd.DataFrame:
        """A row per sample: what each protocol says of it."""
        from storage.tables import read_table

        return data_frame(read_table(self.folder / "per_sample.parquet", "evaluate again"))

    @property
    def report(self) -> Path:
        """The page with tables beside those of papers."""
        return self.folder / "evaluation.html"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know: what was not computed, and why."""
        left_out = (f"{part} was not computed: {reason}" for part, reason in self.figures.left_out.items())
        return (*left_out, *self.figures.notes)

    def __repr__(self) -> str:
        return "\n".join([*self._said, text_of(self.to_pandas())])

    def _repr_html_(self) -> str:
        return html_of(self.to_pandas(), self._said)

    @property
    def _said(self) -> list[str]:
        from tasks.report.evaluation.markdown import lead

        return [lead(self.figures), *self.notes]
