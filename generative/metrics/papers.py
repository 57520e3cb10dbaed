"""Results that papers state, as data: every value with its source, place, protocol, data set and metric.

The values are in papers.yaml beside this file; its head says how a table is written. A protocol that has the name of
one of ours ("cdvae generation", "airi accuracy", ...) follows the same rules, so its rows may stand beside our metrics
of that protocol and of the same data set, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FILE = Path(__file__).with_name("papers.yaml")


class PapersError(ValueError):
    """A file of results that does not hold together; the message names the table."""


class _Table(BaseModel):
    """One table as written in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    source: str
    where: str = Field(min_length=1)
    protocol: str = Field(min_length=1)
    dataset: str = Field(pattern=r"^[a-z0-9-]+$")
    conditions: str = ""
    checked: bool = True
    columns: tuple[str, ...] = Field(min_length=1)
    rows: dict[str, tuple[float | None, ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _rectangular(self) -> _Table:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns {list(self.columns)} name a metric twice")
        for system, values in self.rows.items():
            if len(values) != len(self.columns):
                raise ValueError(f"{system} has {len(values)} values: expected {len(self.columns)}, one per column")
            if any(value is not None and not math.isfinite(value) for value in values):
                raise ValueError(f"{system} has a value that is not finite: expected numbers or null")
        return self


class _File(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(ge=1, le=1)
    metrics: dict[str, str]
    sources: dict[str, str]
    tables: tuple[_Table, ...]

    @model_validator(mode="after")
    def _consistent(self) -> _File:
        seen: set[str] = set()
        for table in self.tables:
            if table.id in seen:
                raise ValueError(f"two tables are called {table.id}: expected ids that differ")
            seen.add(table.id)
            if table.source not in self.sources:
                raise ValueError(f"{table.id}: source {table.source!r} is not among the sources")
            if unknown := [name for name in table.columns if name not in self.metrics]:
                raise ValueError(f"{table.id}: {unknown} are not among the metrics, which state the units")
        return self


@dataclass(frozen=True)
class PaperRow:
    """What one source states of one system under one protocol.

    Attributes:
        table: id of the table in the file.
        source: citation.
        where: table or file within the source.
        protocol: name of the protocol; one of ours, or another.
        dataset: what was trained on and compared with, such as 'mp-20'.
        system: name of the generator.
        values: metric -> value, in the units of `units`; only what is stated.
        units: metric -> unit.
        conditions: what else the values depend on, or empty.
        checked: False where the values were not compared with the source itself.
    """

    table: str
    source: str
    where: str
    protocol: str
    dataset: str
    system: str
    values: dict[str, float]
    units: dict[str, str]
    conditions: str
    checked: bool

    @property
    def cited(self) -> str:
        """Source and place, such as 'DP-CDVAE: ..., Table 2'."""
        return f"{self.source}, {self.where}" + ("" if self.checked else " (not checked)")


def load_papers(file: Path = FILE) -> tuple[PaperRow, ...]:
    """All rows of the file, in its order.

    Raises: PapersError: if the file is not readable, or a table names an unknown source or metric, repeats an id, or
        has a row of the wrong length.
    """
    try:
        read: Any = yaml.load(file.read_text(encoding="utf-8"), _NoRepeats)
    except (OSError, yaml.YAMLError) as error:
        raise PapersError(f"{file.name} is not readable: {' '.join(str(error).split())}") from None
    try:
        stated = _File.model_validate(read)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
        raise PapersError(f"{file.name}: {faults}") from None
    return tuple(_rows(stated))


@lru_cache(maxsize=1)
def papers() -> tuple[PaperRow, ...]:
    """The rows that are shipped, read once."""
    return load_papers()


def rows_for(protocol: str, dataset: str) -> tuple[PaperRow, ...]:
    """What papers state under this protocol for this data set; a row that another source repeats is given once.

    Later papers copy earlier tables; of rows of one system with the same conditions whose values all stand in another
    row, only the fuller one is kept.
    """
    found = [row for row in papers() if row.protocol == protocol and row.dataset == dataset]
    return tuple(
        row for i, row in enumerate(found) if not any(_repeats(row, i, other, j) for j, other in enumerate(found))
    )


def _repeats(row: PaperRow, place: int, other: PaperRow, other_place: int) -> bool:
    """Whether `other`, another row, states all that `row` states; of equal ones the first stays."""
    if place == other_place or row.system != other.system:
        return False
    if not row.values.items() <= other.values.items():
        return False
    return row.values != other.values or other_place < place


def _rows(stated: _File) -> Iterator[PaperRow]:
    for table in stated.tables:
        units = {name: stated.metrics[name] for name in table.columns}
        for system, values in table.rows.items():
            yield PaperRow(
                table=table.id,
                source=stated.sources[table.source],
                where=table.where,
                protocol=table.protocol,
                dataset=table.dataset,
                system=system,
                values={n: v for n, v in zip(table.columns, values, strict=True) if v is not None},
                units=units,
                conditions=table.conditions,
                checked=table.checked,
            )


class _NoRepeats(yaml.SafeLoader):
    """A loader that refuses a key given twice, of which YAML would keep the last in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{sorted(twice)} stand twice", node.start_mark)
        return super().construct_mapping(node, deep)
