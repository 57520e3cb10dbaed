"""A hostile record among those that a database sends: it is stored, and then a row of the quarantine or of the table.

From the bytes of a reply to the table; what is between (connections, pages) has tests of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from generative.datasets.databases.bodies import UnusableBodyError, as_utf8, parse_json
from generative.datasets.databases.database import Page, Record
from generative.datasets.databases.harvest import Harvest
from tests.benchmarks.test_ingest_rate import KINDS, body, database, synthetic
from tests.fuzzing import Fuzz
from tests.generative.datasets.hostile import changed, pick


class Replying:
    """A database that sends these bytes as its only page: a JSON list of records."""

    def __init__(self, kind: str, reply: bytes) -> None:
        self._real, self.access = database(kind)
        self._reply = reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def version(self) -> str | None:
        return None

    def page(self, cursor: str | None) -> Page:
        _, text = parse_json(as_utf8(self._reply), "application/json")
        bodies = json.loads(text)  # as the clients of the databases do, from the text
        return Page(tuple(Record(f"id-{i}", None, one) for i, one in enumerate(bodies)), None, len(bodies))


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_record_of_a_database_costs_no_neighbour(fuzz: Fuzz, tmp_path: Path, kind: str) -> None:
    good = [body(kind, synthetic(kind, number)) for number in range(12)]
    for case, rng in enumerate(fuzz.cases(30)):
        bad = changed(rng, good[3])
        text = json.dumps([good[0], bad, good[2]])
        if rng.random() < 0.3:
            depth = int(rng.integers(50, 5000))
            odd = pick(rng, ("[" * depth + "]" * depth, "9" * (4000 + depth), '"\\ud800"', "NaN", "1e400"))
            text = text.replace("[", f'[{{"odd": {odd}}}, ', 1)
        n_records = 4 if text.startswith('[{"odd"') else 3
        reply = Replying(kind, text.encode("utf-8", "surrogatepass"))
        what = f"case {case}: {text[-300:]}"
        try:
            harvest = Harvest(reply, reply.access, tmp_path / str(case))
            batches = list(harvest.batches(None))
        except UnusableBodyError as error:
            fuzz.failed(f"{what} -> the whole reply is refused: {error}")
            continue
        except Exception as error:
            fuzz.failed(f"{what} -> {type(error).__name__}: {str(error)[:200]}")
            continue
        kept = [name for batch in batches for name in batch.rows.column("source_id").to_pylist()]
        rejected = [row for batch in batches for row in batch.rejected.to_pylist()]
        wanted = {"id-1", "id-3"} if n_records == 4 else {"id-0", "id-2"}
        if not wanted <= set(kept) or len(kept) + len(rejected) != n_records:
            fuzz.failed(f"{what} -> kept {kept}, rejected {[row['reason'] for row in rejected]}")
        elif any(not 10 < len(row["reason"]) <= 500 for row in rejected):
            fuzz.failed(f"{what} -> no sentence")
        else:
            fuzz.ended("quarantined" if rejected else "read")
