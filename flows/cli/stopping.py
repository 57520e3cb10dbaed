"""How a command ends when it is told to: whatever it is busy with, in seconds.

Prefect's own handler raises an exception where the flow is; on its way out that waits for the threads of a task runner,
for minutes, and for replies of a server that may have got the same signal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_S = 1.0


def end_children() -> None:
    """Kill what this process has started, but for sessions of their own: servers, and jobs that are to go on."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(child.pid) == os.getsid(0):
                child.kill()


def _no_exception(number: int, frame: FrameType | None) -> None:
    """The handler of this process's own thread of control; the watcher does the work."""


def _forget_in_child() -> None:
    """A forked child writes into no pipe of its parent, and ends on a signal as any process does."""
    if signal.set_wakeup_fd(-1) != -1:
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def told_to_end(end: Callable[[int], None], look: Callable[[], None]) -> Iterator[None]:
    """Watch for SIGINT, SIGTERM and SIGHUP in a thread, which no handler that anyone sets meanwhile can keep from it.

    Args:
        end: gets the signal's number, and ends the process. A signal that was ignored before stays so.
        look: called every LOOK_S seconds in that thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            if select.select([reader], [], [], LOOK_S)[0]:
                for number in os.read(reader, 64):
                    if number in handlers:
                        end(number)
            elif not watching.is_set():
                look()

    wanted = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, _no_exception) for number in wanted}
    # A handler in Python is called only between two steps of Python; this descriptor hears of a signal at once.
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        watching.set()
        os.write(writer, b"\0")
        thread.join()  # for ever, if it is ending the process
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
