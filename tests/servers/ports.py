"""Ports for servers that take a number and open it later."""

from __future__ import annotations

import contextlib
import random
import socket

BELOW_THE_SYSTEMS_OWN = range(10_000, 30_000)
"""Linux hands out ports from 32768 on, so nobody is given one of these before the server listens at it."""


def free_ports(n: int = 1) -> int:
    """The first of `n` neighbouring ports that are free."""
    while True:
        first = random.choice(BELOW_THE_SYSTEMS_OWN)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for port in range(first, first + n):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
