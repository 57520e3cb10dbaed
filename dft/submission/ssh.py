"""Commands on another machine through OpenSSH's `ssh`: never a question, never a half answer.

A command runs between two marks on its output: what a profile or a banner says stands before the first, and without the
second, which carries the exit status, the command has not been heard to end. So status 255, which ssh and the command
may both give, is never guessed at.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path
from typing import IO

from dft.submission.hosts import COMMAND_S, HostError

CONFIG_VARIABLE = "HULLWARD_SSH_CONFIG"
"""Names a file in place of ~/.ssh/config, for `ssh -F`."""

CONNECT_S = 20
ALIVE_S, ALIVE_COUNT = 15, 3
"""A connection on which nothing comes for this long, so many times, is lost."""
PERSIST_S = 120
"""How long a shared connection of ours outlives its last command: longer than most pauses of `collect --wait`."""

BEGINS, ENDS = b"<hullward begins>\n", b"\n<hullward ends "
LONGEST_FOLDER = 45
"""Characters of the folder of shared connections: systems allow 104 for a socket, of which ssh takes 58."""
TAIL_BYTES, HEAD_BYTES = 1 << 12, 1 << 16
"""Of an answer, within which its marks are looked for: a shell may say something before and after."""

_REMEDIES = {
    "could not resolve hostname": "name a Host of ~/.ssh/config, or user@host, in dft.submission.host",
    "host key verification failed": "connect once by hand and compare the key",
    "remote host identification has changed": "ask its administrators whether its key has changed",
    "permission denied": "load a key that it accepts into your agent or, where it asks for a password or a second "
    "factor, open a shared connection first (ControlMaster and ControlPath in ~/.ssh/config)",
}


class SSH:
    """One machine, by the name under which `ssh` knows it."""

    def __init__(self, host: str) -> None:
        self.host = host

    def run(
        self,
        script: str,
        purpose: str,
        *,
        login: bool = False,
        send: IO[bytes] | None = None,
        into: IO[bytes] | None = None,
        timeout_s: float = COMMAND_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a script of one line there.

        Args:
            script: for bash; its words quoted by the caller.
            purpose: what it is for, for the error: 'squeue'.
            login: in a login shell, where clusters put their queue on the path; it may take a second to come up.
            send: its standard input, from where the file stands; none without.
            into: takes its standard output, and stands at its beginning afterwards; else it is in the answer.
            timeout_s: how long it may take.

        Returns: Exit status and what it said.

        Raises: HostError: if it was not heard to end; one sentence with ssh's own words and a remedy.
        """
        begins = "printf '<hullward begins>\\n'"
        marked = f"{begins}; {begins} >&2; ( {script} ); printf '\\n<hullward ends %s>\\n' \"$?\""
        command = [*self._command, f"bash {'-l ' if login else ''}-c {shlex.quote(marked)}"]
        with tempfile.TemporaryFile() as own, tempfile.TemporaryFile() as said:
            # Files, not pipes: the shared connection that stays behind would hold a pipe open.
            out = own if into is None else into
            try:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL if send is None else send,
                    stdout=out,
                    stderr=said,
                    check=False,
                    timeout=timeout_s,
                )
            except subprocess.TimeoutExpired:
                raise HostError(f"{self.host} has not done {purpose} within {timeout_s:g} s by ssh") from None
            except OSError as error:
                raise HostError(
                    f"ssh, to reach {self.host} by, cannot be started ({error.strerror}): install OpenSSH's client"
                ) from None
            said.seek(0)
            words = said.read().rpartition(BEGINS)[2]
            status = _status(out)
            if status is None:
                raise self._unheard(purpose, words)
            return subprocess.CompletedProcess(command, status, b"" if into is not None else _between(out), words)

    def _unheard(self, purpose: str, words: bytes) -> HostError:
        """The error of a command that was not heard to end."""
        lines = [line.strip() for line in words.decode("utf-8", errors="replace").splitlines() if line.strip()]
        said = " / ".join(lines[-2:])[-300:] or "nothing"
        trial = shlex.join([*self._base, self.host, "true"])
        remedy = next((one for phrase, one in _REMEDIES.items() if phrase in said.lower()), "try that by hand")
        return HostError(
            f"{self.host} did not answer to {purpose} by ssh, which says {said!r}: expected `{trial}` to end without a "
            f"question; {remedy}"
        )

    @property
    def user(self) -> str:
        """The name by which ssh logs in there."""
        return self._stated.get("user") or getpass.getuser()

    @cached_property
    def _stated(self) -> dict[str, str]:
        """What the user's settings come to for this host, by ssh's own reading; empty if they cannot be read."""
        try:
            asked = subprocess.run(
                [*self._base, "-G", "--", self.host], capture_output=True, text=True, check=False, timeout=COMMAND_S
            )
        except (OSError, subprocess.TimeoutExpired):
            return {}  # the command itself will say what is wrong
        return dict(line.split(" ", 1) for line in asked.stdout.splitlines() if " " in line)

    @property
    def _base(self) -> list[str]:
        config = os.environ.get(CONFIG_VARIABLE)
        return ["ssh", *(("-F", config) if config else ())]

    @cached_property
    def _command(self) -> list[str]:
        """`ssh` with its options, up to the host."""
        options = {
            "BatchMode": "yes",  # a password that is asked for would be waited for without end
            "ConnectTimeout": CONNECT_S,
            "ServerAliveInterval": ALIVE_S,
            "ServerAliveCountMax": ALIVE_COUNT,
            "LogLevel": "ERROR",
            **self._sharing(),
        }
        return [
            *self._base,
            "-T",
            *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
            "--",
            self.host,
        ]

    def _sharing(self) -> dict[str, str]:
        """Options of a connection that commands share; none where the user's own settings name one, which counts."""
        if self._stated.get("controlpath", "none") != "none" or (folder := _own_folder()) is None:
            return {}
        return {"ControlMaster": "auto", "ControlPath": f"{folder}/%C", "ControlPersist": str(PERSIST_S)}


def _own_folder() -> Path | None:
    """Where sockets of shared connections lie, for this user alone; None if there can be no such place."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"hullward-ssh-{os.getuid()}"
    if len(str(folder)) > LONGEST_FOLDER or not re.fullmatch(r"[\w/.-]+", str(folder)):
        return None
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    # Who else could write there could listen at the other end.
    return folder if folder.is_dir() and not folder.is_symlink() and _is_private(found) else None


def _is_private(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid() and found.st_mode & 0o077 == 0


def _status(out: IO[bytes]) -> int | None:
    """Exit status of a command by the mark at its end, None without one; leaves the file where its answer begins."""
    out.seek(0, os.SEEK_END)
    out.seek(max(0, out.tell() - TAIL_BYTES))
    _, ends, tail = out.read().rpartition(ENDS)
    out.seek(0)
    head = out.read(HEAD_BYTES)
    if not ends or BEGINS not in head:
        return None
    out.seek(head.index(BEGINS) + len(BEGINS))
    return int(tail.partition(b">")[0])


def _between(out: IO[bytes]) -> bytes:
    """What a command has said, from where the file stands to the mark at its end."""
    return out.read().rpartition(ENDS)[0]
