"""When VASP is asked to end: custodian's own handler, with clocks drawn at random."""

from __future__ import annotations

import random
import time
from pathlib import Path
from types import SimpleNamespace

import custodian.vasp.handlers
import pytest

from dft.engines.base import EngineError, FaultKind
from dft.engines.config import VaspEngineConfig
from dft.engines.vasp_walltime import time_limit

SLACK_S = 120  # a busy machine may stand still for as long between two lines here


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "CUSTODIAN_WALLTIME_START", "Thu Jan 01 00:00:00 UTC 1970"
    )  # of another job; put back afterwards
    for name in ("HULLWARD_BEGAN", "HULLWARD_WALLTIME_S"):
        monkeypatch.delenv(name, raising=False)
    outcar = SimpleNamespace(data={}, read_pattern=lambda *_, **__: None)
    monkeypatch.setattr(custodian.vasp.handlers, "load_outcar", lambda _: outcar)


def config(**fields: object) -> VaspEngineConfig:
    return VaspEngineConfig.model_validate(fields)


def test_custodian_stops_vasp_in_time_by_the_allocation_s_clock_whichever_job_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = random.Random(60)
    answers = set()
    for _ in range(200):
        walltime_s, own_s = rng.randrange(4000, 100_000), rng.choice([None, rng.randrange(4000, 100_000)])
        margin_s, poll_s, every = rng.randrange(60, 900), rng.uniform(0.5, 20), rng.randrange(1, 60)
        look_s = poll_s * every
        left_s = rng.uniform(-0.5, 3) * (margin_s + look_s)
        elapsed_s = max(min(walltime_s, own_s or walltime_s) - left_s, 0.0)
        left_s = min(walltime_s, own_s or walltime_s) - elapsed_s
        monkeypatch.setenv("HULLWARD_BEGAN", f"{time.time() - elapsed_s:.9f}")
        monkeypatch.setenv("HULLWARD_WALLTIME_S", str(walltime_s))
        if min(abs(left_s - margin_s), abs(left_s - margin_s - look_s)) < SLACK_S:
            continue
        settings = config(wall_time_s=own_s, wall_time_margin_s=margin_s, poll_s=poll_s, monitor_every=every)
        if left_s < margin_s:
            with pytest.raises(EngineError):
                time_limit(settings, time.time())
            answers.add("refused")
            continue
        limit = time_limit(settings, time.time())
        assert limit is not None
        # The next look would come when the margin is reached already: now or never.
        is_due = left_s < margin_s + look_s
        assert limit.handler(settings).check(str(tmp_path)) == is_due
        assert limit.left_s == pytest.approx(left_s, abs=SLACK_S)
        # Made anew from its arguments, as custodian's log has them, the handler counts from the same moment.
        again = custodian.vasp.handlers.WalltimeHandler(limit.seconds)
        assert abs((again.start_time - limit.handler(settings).start_time).total_seconds()) < 1
        answers.add(is_due)
    assert answers == {True, False, "refused"}


def test_outside_of_an_allocation_the_clock_is_the_job_s_own_and_without_a_limit_there_is_none() -> None:
    assert time_limit(config(), time.time()) is None
    limit = time_limit(config(wall_time_s=5000), time.time() - 1000)
    assert limit is not None
    assert limit.left_s == pytest.approx(4000, abs=SLACK_S)


@pytest.mark.parametrize("began", ["1700000000.N", "", "nan", "inf", "-5", "9e9"])  # the last lies in the far future
def test_a_clock_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch, began: str) -> None:
    monkeypatch.setenv("HULLWARD_BEGAN", began)
    monkeypatch.setenv("HULLWARD_WALLTIME_S", "9000")
    limit = time_limit(config(), time.time() - 1000)
    assert limit is not None
    assert limit.left_s == pytest.approx(8000, abs=SLACK_S)


def test_a_limit_shorter_than_the_margin_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HULLWARD_WALLTIME_S", "1000")
    limit = time_limit(config(wall_time_margin_s=1000), time.time())
    assert limit is not None
    assert limit.margin_s == 250


def test_too_little_time_is_told_apart_by_who_used_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HULLWARD_WALLTIME_S", "3600")
    monkeypatch.setenv("HULLWARD_BEGAN", str(time.time() - 3500))
    with pytest.raises(EngineError, match="its allocation has .* s of 3600 s left") as caught:
        time_limit(config(), time.time())
    assert (caught.value.kind, caught.value.is_retryable) == (FaultKind.NOT_STARTED, True)
    monkeypatch.setenv("HULLWARD_BEGAN", str(time.time() - 5))
    with pytest.raises(
        EngineError, match="wall_time_margin_s, 3599 s, leaves no time of the limit of 3600 s"
    ) as caught:
        time_limit(config(wall_time_margin_s=3599), time.time())
    assert (caught.value.kind, caught.value.is_retryable) == (FaultKind.SETTINGS_REFUSED, False)
