"""How long a VASP job may run: until the end of its allocation, whichever of the allocation's jobs it is.

The job script says when the allocation began and how long it lasts (dft/submission/script.py); `wall_time_s` of the
settings can only shorten that. Custodian then writes STOPCAR in time, and VASP ends after an ionic step.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from datetime import datetime

from custodian.vasp.handlers import WalltimeHandler

from dft.engines.base import EngineError, FaultKind
from dft.engines.config import VaspEngineConfig
from dft.submission.run_allocation import BEGAN_VARIABLE, WALLTIME_VARIABLE, began_s, stated_s

CUSTODIAN_START_VARIABLE = "CUSTODIAN_WALLTIME_START"
"""Custodian's own: a start that counts for every job of its environment. Local time, though it writes UTC behind it."""

CUSTODIAN_TIME = "%a %b %d %H:%M:%S UTC %Y"


@dataclass(frozen=True)
class TimeLimit:
    """When a job must be over.

    Attributes:
        seconds: from the start, s.
        began_at: the start, seconds since 1970.
        margin_s: how long before the end VASP is to have ended, s.
    """

    seconds: float
    began_at: float
    margin_s: float

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return self.began_at + self.seconds - time.time()

    def handler(self, config: VaspEngineConfig) -> WalltimeHandler:
        """Custodian's handler; it looks every `poll_s` times `monitor_every`, so its margin is larger by that."""
        # In the environment too, for where custodian makes the handler anew from its arguments.
        began = datetime.fromtimestamp(self.began_at)  # noqa: DTZ006 - custodian subtracts it from a naive now()
        os.environ[CUSTODIAN_START_VARIABLE] = began.strftime(CUSTODIAN_TIME)
        look_s = math.ceil(config.poll_s * config.monitor_every)
        handler = WalltimeHandler(wall_time=self.seconds, buffer_time=self.margin_s + look_s)
        handler.start_time = began
        return handler


def time_limit(config: VaspEngineConfig, job_began_at: float) -> TimeLimit | None:
    """The limit of a run of VASP that is about to begin; None if there is none.

    Args:
        config: may shorten what the allocation has.
        job_began_at: what the limit counts from outside of an allocation, seconds since 1970.

    Raises: EngineError: if too little of it is left to begin.
    """
    stated = [float(limit) for limit in (config.wall_time_s, stated_s(WALLTIME_VARIABLE)) if limit is not None]
    if not stated:
        return None
    # A margin that leaves nothing of a short limit is a quarter of it.
    margin_s = config.wall_time_margin_s if config.wall_time_margin_s < min(stated) else min(stated) / 4
    limit = TimeLimit(min(stated), began_s() or job_began_at, margin_s)
    if limit.left_s > margin_s:
        return limit
    used_s = limit.seconds - limit.left_s
    if used_s < limit.seconds / 2:
        raise EngineError(
            FaultKind.SETTINGS_REFUSED,
            f"wall_time_margin_s, {margin_s:g} s, leaves no time of the limit of {limit.seconds:g} s to "
            f"compute in ({used_s:.0f} s are over): raise submission.walltime_s or lower the margin",
            is_retryable=False,
        )
    raise EngineError(
        FaultKind.NOT_STARTED,
        f"its allocation has {max(limit.left_s, 0):.0f} s of {limit.seconds:g} s left, counted from {BEGAN_VARIABLE}, "
        f"and wall_time_margin_s is {margin_s:g} s: nothing was begun",
        is_retryable=True,
    )
