"""A process that is killed at a given step of its work, as `kill -9` kills it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection
from types import FrameType, ModuleType


def steps_of(call: Callable[[], object], modules: Collection[ModuleType]) -> int:
    """In how many steps a call runs, in a process of its own: lines of these modules."""
    return _done(call, modules, None)


def killed_at(step: int, call: Callable[[], object], modules: Collection[ModuleType]) -> None:
    """Run a call in a process of its own that is killed before this step, from 0."""
    assert _done(call, modules, step) == -signal.SIGKILL


def _done(call: Callable[[], object], modules: Collection[ModuleType], step: int | None) -> int:
    """The number of steps done; of a process that was killed the signal, negative."""
    files = {module.__file__ for module in modules}
    reader, end = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        done = 0

        def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
            nonlocal done
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                if done == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                done += 1
            return trace

        try:
            sys.settrace(trace)
            call()
            sys.settrace(None)
            os.write(end, str(done).encode())
        finally:
            os._exit(1)
    os.close(end)
    with os.fdopen(reader) as said:
        number = said.read()
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else int(number)
