"""How work says where it stands: lines with counts, rate and time left, also while the work itself says nothing."""

from __future__ import annotations

import threading

from storage.progress import Teller, in_words


def teller(lines: list[str], now_s: list[float], unit: str = "") -> Teller:
    return Teller("relaxing", lines.append, unit, lambda: now_s[0])


def test_a_line_tells_counts_rate_and_time_left() -> None:
    lines, now_s = list[str](), [0.0]
    told = teller(lines, now_s, "crystals")
    now_s[0] = 20.0
    assert told.line() == "relaxing: 20 s so far"
    told(40, 100)
    assert told.line() == "relaxing: 40 of 100 crystals, 2.0 per s, 30 s left"
    now_s[0] = 80.0
    assert told.line() == "relaxing: 40 of 100 crystals, 30.0 per min, 2 min left"
    told(100, 100, "step 5")
    assert told.line() == "relaxing: 100 of 100 crystals (step 5), 1.2 per s"


def test_a_rate_is_that_of_the_work_at_hand_alone() -> None:
    lines, now_s = list[str](), [0.0]
    told = teller(lines, now_s, "records")
    now_s[0] = 100.0
    told.labelled("aflow", 5, 50)
    now_s[0] = 110.0
    told.labelled("aflow", 25, 50)
    assert told.line() == "aflow: 25 of 50 records, 2.0 per s, 12 s left"
    told.labelled("aflow", 50, 50)
    told.labelled("aflow", 50, 50)
    told.labelled("files", 7, None)
    now_s[0] = 111.0
    told.labelled("files", 9, None)
    assert told.line() == "files: 9 records, 2.0 per s"
    assert lines == ["aflow: 50 of 50 records"]  # the end of a source is said at once, and once


def test_silent_work_is_told_of_until_it_ends() -> None:
    lines, said = list[str](), threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            said.set()

    with Teller("loading", say, every_s=0.001):
        assert said.wait(30)
    n = len(lines)
    assert set(lines) == {"loading: 1 s so far"}
    assert not said.wait(0) or len(lines) == n


def test_a_time_is_told_no_finer_than_anybody_needs_it() -> None:
    assert [in_words(s) for s in (0.2, 40, 420, 9000, 400000)] == ["1 s", "40 s", "7 min", "2.5 h", "4.6 days"]
