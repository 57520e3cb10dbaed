"""Numbers of the tables on the terminal."""

from __future__ import annotations

import pytest

from flows.cli.console import cell


@pytest.mark.parametrize(
    ("value", "said"),
    [(-1.1e-7, "0.000"), (1.1e-7, "0.000"), (-0.0, "0.000"), (-0.00051, "-0.001"), (-1.36, "-1.360"), (None, "")],
)  # fmt: skip
def test_a_zero_has_no_sign_and_what_is_not_there_no_text(value: float | None, said: str) -> None:
    assert cell(value) == said
