"""The password of a home's Prefect server: whoever may tell the server what to run can run anything as this user."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

PASSWORD = "auth"
ENVIRONMENT = "env"
"""Files in .prefect: the password alone, and what a shell reads to be a client of `make ui`."""


def new_password() -> str:
    """A random one in Prefect's form, user:password."""
    return f"hullward:{secrets.token_urlsafe(24)}"


def password_of(home: Path) -> str:
    """The home's password, made when there is none yet that this user alone can read.

    Raises: OSError: if the home cannot be written.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = home / PASSWORD
    with _alone(home):  # of those that begin at once, the first one makes it, and nobody removes what another made
        known = _read_private(file)
        if known is None:
            file.unlink(missing_ok=True)
            _write_private(home / f".{PASSWORD}-new", new_password() + "\n").replace(file)
            known = _read_private(file)
    if known is None:
        raise OSError(f"{file} is changed by another process: expected it to stay as it was made; start again")
    return known


def write_environment(home: Path, api: str) -> Path:
    """A file for `.` in a shell, which names the server and reads the password where it lies; returns its path."""
    password = shlex.quote(str(home.resolve() / PASSWORD))
    # Without it the links that Prefect prints open its older pages, not those that the server opens with.
    page = f"{api.removesuffix('/api')}/v2"
    named = f"export PREFECT_API_URL={api}\nexport PREFECT_UI_URL={page}\n"
    text = f'{named}export PREFECT_API_AUTH_STRING="$(cat {password})"\n'
    file = home / ENVIRONMENT
    _write_private(home / f".{ENVIRONMENT}-{os.getpid()}", text).replace(file)
    return file


def announced_server(home: Path) -> dict[str, str]:
    """What the environment of a client of this home's `make ui` has to say; empty where none runs."""
    with contextlib.suppress(OSError):
        stated = re.search(
            r"^export PREFECT_API_URL=(\S+)$", (home / ENVIRONMENT).read_text("utf-8", "replace"), re.MULTILINE
        )
        password = _read_private(home / PASSWORD)
        if stated and password:
            return {"PREFECT_API_URL": stated[1], "PREFECT_API_AUTH_STRING": password}
    return {}


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One process and thread at a time; the system drops the lock of a killed one."""
    descriptor = os.open(home / f".{PASSWORD}-lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_private(file: Path) -> str | None:
    """The first line of a regular file that this user alone can read and change; None for any other."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as opened:
        found = os.fstat(descriptor)
        private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
        line = opened.read().strip()
    return line if private and re.fullmatch(r"[!-~]+:[!-~]{16,}", line) else None


def _write_private(file: Path, text: str) -> Path:
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as opened:
        opened.write(text)
    return file
