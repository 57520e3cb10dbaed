"""Artifacts: keys, sizes, and silence outside a Prefect run; the server itself is met by the flow's tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from tasks.report.run import artifacts
from tasks.report.run.artifacts import Progress, artifact_key, fitting_rows, publish
from tasks.report.run.model import ReportInputs
from tasks.report.run.tables import candidate_rows


class Recorder:
    """Stands in for the server: keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, str]] = []
        self.created: list[dict[str, Any]] = []
        self.ids: list[UUID] = []
        self.deleted: list[UUID] = []
        self.broken = False

    def create(self, *content: Any, **options: Any) -> UUID:
        if self.broken:
            raise ConnectionError("no server")
        self.created.append({"content": content, **options})
        if "description" in options and isinstance(content[0], float):
            self.sent.append((content[0], options["description"]))
        self.ids.append(uuid4())
        return self.ids[-1]

    def update(self, _: UUID, progress: float, description: str) -> None:
        self.sent.append((progress, description))

    @contextmanager
    def client(self, *, sync_client: bool) -> Iterator[SimpleNamespace]:
        assert sync_client
        if self.broken:
            raise ConnectionError("no server")
        yield SimpleNamespace(delete_artifact=self.deleted.append)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    for name in ("create_progress_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(artifacts, name, recorder.create)
    monkeypatch.setattr(artifacts, "create_table_artifact", recorder.create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", recorder.update)
    monkeypatch.setattr(artifacts, "get_client", recorder.client)
    monkeypatch.setattr(artifacts, "in_prefect_run", lambda: True)
    return recorder


def test_keys_are_lowercase_with_dashes() -> None:
    assert artifact_key("Report", "Ta-W_B 2") == "report-ta-w-b-2"
    with pytest.raises(ValueError, match="give the run a name"):
        artifact_key("***")


def test_outside_a_run_nothing_is_published_and_progress_is_silent(inputs: ReportInputs) -> None:
    assert publish(inputs) == {}
    with Progress("sampling") as progress:
        progress.update(1, 2)


def test_a_run_publishes_two_artifacts_below_300_kb(inputs: ReportInputs, recorder: Recorder) -> None:
    ids = publish(inputs)
    assert sorted(ids) == ["candidates-quickstart", "report-quickstart"]
    for artifact in recorder.created:
        size = len(json.dumps([artifact["content"], artifact["description"]], default=str).encode())
        assert size < 300_000
    table = recorder.created[1]["content"][0]
    assert [row["rank"] for row in table] == list(range(1, len(inputs.candidates) + 1))


def test_a_table_too_long_keeps_the_best_and_counts_the_rest(inputs: ReportInputs) -> None:
    rows = candidate_rows(inputs.candidates) * 100
    kept, left_out = fitting_rows(rows)
    assert kept == rows[: len(kept)]
    assert len(kept) + left_out == len(rows)
    assert len(json.dumps(kept).encode()) < 300_000


def told(recorder: Recorder, n_steps: int, **options: bool) -> None:
    """Work of n_steps steps of a tenth of a second each."""
    now = [0.0]
    with Progress("relaxing", "relaxing crystals", clock=lambda: now[0], **options) as progress:
        for step in range(1, n_steps + 1):
            now[0] += 0.1
            progress.update(step, n_steps, f"{step} of {n_steps}")


def test_progress_is_sent_every_two_seconds_and_goes_when_the_work_is_done(recorder: Recorder) -> None:
    told(recorder, 100)
    values = [value for value, _ in recorder.sent]
    assert values == sorted(values)
    assert 4 <= len(values) <= 5  # ten seconds, one every two
    assert recorder.sent[0][1] == "relaxing crystals: 20 of 100"
    assert recorder.deleted == recorder.ids


def test_progress_whose_last_word_is_a_result_stays_with_it(recorder: Recorder) -> None:
    told(recorder, 5, stays=True)
    assert recorder.sent == [(100.0, "relaxing crystals: 5 of 5")]
    assert recorder.deleted == []


def test_work_of_a_moment_makes_no_bar(recorder: Recorder) -> None:
    told(recorder, 5)
    assert (recorder.created, recorder.deleted) == ([], [])


def half_of_it(work: Progress, now: list[float]) -> None:
    with work:
        now[0] += 3
        work.update(2, 4)
        raise ArithmeticError


def test_the_bar_of_work_that_failed_stays_where_it_stood(recorder: Recorder) -> None:
    now = [0.0]
    progress = Progress("relaxing", clock=lambda: now[0])
    with pytest.raises(ArithmeticError):
        half_of_it(progress, now)
    assert [value for value, _ in recorder.sent] == [50.0]
    assert recorder.deleted == []


@pytest.mark.parametrize("stays", [True, False])
def test_a_failing_server_never_disturbs_the_work(recorder: Recorder, stays: bool) -> None:
    now = [0.0]
    recorder.broken = True
    with Progress("relaxing", clock=lambda: now[0], stays=stays) as progress:
        for done in (1, 2):
            now[0] += 3
            progress.update(done, 2)
    assert recorder.sent == []


def test_a_server_that_fails_at_the_end_never_disturbs_the_work(recorder: Recorder) -> None:
    now = [0.0]
    with Progress("relaxing", clock=lambda: now[0]) as progress:
        now[0] += 3
        progress.update(1, 2)
        recorder.broken = True
    assert (len(recorder.sent), recorder.deleted) == (1, [])
