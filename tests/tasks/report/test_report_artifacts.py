"""Artifacts: keys, sizes, and silence outside a Prefect run; the server itself is met by the flow's tests."""

from __future__ import annotations

import json
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
        self.broken = False

    def create(self, *content: Any, **options: Any) -> UUID:
        if self.broken:
            raise ConnectionError("no server")
        self.created.append({"content": content, **options})
        if "description" in options and isinstance(content[0], float):
            self.sent.append((content[0], options["description"]))
        return uuid4()

    def update(self, _: UUID, progress: float, description: str) -> None:
        self.sent.append((progress, description))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    for name in ("create_progress_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(artifacts, name, recorder.create)
    monkeypatch.setattr(artifacts, "create_table_artifact", recorder.create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", recorder.update)
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


def test_progress_is_sent_at_most_every_two_seconds_and_always_at_the_end(recorder: Recorder) -> None:
    now = [0.0]
    with Progress("relaxing", "relaxing crystals", clock=lambda: now[0]) as progress:
        for step in range(1, 101):
            now[0] += 0.1
            progress.update(step, 100, f"{step} of 100")
    values = [value for value, _ in recorder.sent]
    assert values == sorted(values)
    assert len(values) <= 7  # ten seconds, one every two, and the ends
    assert values[-1] == 100.0
    assert recorder.sent[0][1] == "relaxing crystals: 1 of 100"


def test_a_failing_server_never_disturbs_the_work(recorder: Recorder) -> None:
    recorder.broken = True
    with Progress("relaxing") as progress:
        progress.update(1, 2)
        progress.update(2, 2)
    assert recorder.sent == []
