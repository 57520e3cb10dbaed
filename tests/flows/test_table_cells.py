"""Numbers of the tables, on the terminal and in reports."""

from __future__ import annotations

from typing import Any

import pytest

from flows.cli.console import cell
from tasks.report.run.model import PhononFigure
from tasks.report.run.phonons import phonon_markdown


@pytest.mark.parametrize(
    ("value", "said"),
    [(-1.1e-7, "0.000"), (1.1e-7, "0.000"), (-0.0, "0.000"), (-0.00051, "-0.001"), (-1.36, "-1.360"), (None, "")],
)  # fmt: skip
def test_a_zero_has_no_sign_and_what_is_not_there_no_text(value: float | None, said: str) -> None:
    assert cell(value) == said


@pytest.mark.parametrize(("lowest", "said"), [(-1e-4, "| 0.00 |"), (-0.0, "| 0.00 |"), (-1.75, "| -1.75 |")])
def test_a_lowest_phonon_of_zero_has_no_sign_in_reports(lowest: float, said: str) -> None:
    named: dict[str, Any] = {
        "rank": 1,
        "formula": "TiN",
        "spacegroup_symbol": "Fm-3m",
        "q_point": "",
        "supercell": "2 x 2 x 2",
    }
    figure = PhononFigure(**named, lowest_thz=lowest, n_imaginary=0, notes="", method="a potential")
    assert any(said in line for line in phonon_markdown([figure], "a potential"))
