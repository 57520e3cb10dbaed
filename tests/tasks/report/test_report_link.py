"""The link from a run's page to its interactive report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.report.run.artifacts import report_link


def test_the_link_appears_only_where_this_folders_runs_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HULLWARD_REPORTS_URL", raising=False)
    assert report_link("runs/mine") == ""
    monkeypatch.setenv("HULLWARD_REPORTS_URL", "http://127.0.0.1:4201")
    assert "(http://127.0.0.1:4201/mine/report.html)" in report_link("runs/mine")
    assert report_link(str(tmp_path / "elsewhere" / "mine")) == ""
    assert report_link("") == ""
