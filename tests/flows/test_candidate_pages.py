"""Pages of single candidates of a run, by command and beside the report; what the report says to do next works."""

from __future__ import annotations

import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from configs.command_line import run_settings
from flows.cli.main import app
from tasks.discover.candidate_page import MOST_PAGES
from tasks.discover.run import identity_of
from tests.flows.conftest import ROOT, Run


def told(run: Run) -> list[list[str]]:
    """The commands under 'What to do next', as a shell would part them."""
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    section = re.search(r'<section id="next">(.*?)</section>', page, re.S)
    assert section is not None
    return [shlex.split(html.unescape(text)) for text in re.findall(r"<pre><code>(.*?)</code></pre>", section[1], re.S)]


def test_the_best_candidates_have_pages_that_the_report_links(finished: Run) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'href="(candidates/[^"]+\.html)"', page))
    ranked = [row for row in pq.read_table(finished.folder / "candidates.parquet").to_pylist() if row["rank"]]
    assert len(linked) == min(MOST_PAGES, len(ranked)) > 0
    assert linked == {str(f.relative_to(finished.folder)) for f in (finished.folder / "candidates").iterdir()}


def test_the_command_writes_the_page_of_the_candidate_that_it_is_given(finished: Run) -> None:
    rows = pq.read_table(finished.folder / "candidates.parquet").to_pylist()
    row = next(row for row in rows if row["rank"] is not None)
    asked = ["report", str(finished.folder), "--candidate", row["id"][:10], "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    page = Path(json.loads(done.stdout)["report"])
    text = page.read_text(encoding="utf-8")
    assert page.parent == finished.folder / "candidates"
    cif = html.unescape(re.search(r'<pre id="cif">(.*?)</pre>', text, re.S).group(1))  # type: ignore[union-attr]
    volume = abs(Structure.from_str(cif, fmt="cif").volume)
    lattice = [row["relaxed_lattice_ang"][i : i + 3] for i in (0, 3, 6)]
    assert volume == pytest.approx(Structure(lattice, ["H"], [[0, 0, 0]]).volume, rel=1e-6)
    assert row["id"] in text
    assert row["energy_method"] in text


def test_a_candidate_without_a_page_is_refused_with_the_reason(finished: Run) -> None:
    rows = pq.read_table(finished.folder / "candidates.parquet").to_pylist()
    refused = CliRunner().invoke(app, ["report", str(finished.folder), "--candidate", "nothing-like-it"])
    assert refused.exit_code == 1
    assert "has no candidate 'nothing-like-it'" in refused.output
    if turned := [row for row in rows if row["rank"] is None]:
        refused = CliRunner().invoke(app, ["report", str(finished.folder), "--candidate", turned[0]["id"]])
        assert refused.exit_code == 1
        assert f"was turned away ({turned[0]['rejected_by']}" in refused.output


def test_what_the_report_says_to_do_next_works(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = told(finished)
    assert [words[1] for words in commands if words[0] == "hullward"] == [
        "report",
        "discover",
        "discover",
        "dft",
        "export",
    ]
    monkeypatch.chdir(tmp_path)
    for words in commands:
        if words[0] == "python":
            done = subprocess.run(
                [sys.executable, *words[1:]], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "rank" in done.stdout
        elif words[1] == "discover":  # the same run, longer: its folder takes it
            settings, assignments = words[2], words[4::2]
            assert identity_of(run_settings(settings, {}, assignments)) == identity_of(finished.config)
        elif words[1] == "dft":
            assert Path(words[3]) == finished.folder
            assert CliRunner().invoke(app, [*words[1:3], "--help"]).exit_code == 0
        else:
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0, done.output
    assert (tmp_path / "tiny.jsonl").is_file()
