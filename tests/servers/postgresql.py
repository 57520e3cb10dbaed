"""A PostgreSQL for tests: Debian's, on a Unix socket in a folder of its own, with a password and no port."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

UP_S = 60.0
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
USER = "hullward"


def programs() -> Path | None:
    """Folder of the newest server's programs, which Debian keeps off the PATH; None if there is none."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    folders = sorted(folder for place in PLACES for folder in Path("/").glob(place[1:]))
    return folders[-1] if folders else None


def reason_to_skip() -> str:
    """Why there can be no PostgreSQL here; empty if there can."""
    if programs() is None:
        return "no PostgreSQL: apt-get install postgresql"
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


class PostgreSQL:
    """The server. `url` is how Prefect is told of it; `password` is in it."""

    def __init__(self) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        # Not below pytest's folder, which no other user may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="hullward-postgresql-"))
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.password = secrets.token_hex(12)
        self.url = f"postgresql+asyncpg://{USER}:{self.password}@/postgres?host={quote(str(self.folder))}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        word = self.folder / "password"
        word.write_text(self.password)
        if self._user is not None:
            shutil.chown(word, self._user)
        data = self.folder / "data"
        made = [self._programs / "initdb", "-D", data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={word}", "-N"]
        done = subprocess.run(made, user=self._user, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        word.unlink()
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                # No durability: the machine does not fail during a test.
                [self._programs / "postgres", "-D", data, "-k", self.folder, "-h", "", "-c", "fsync=off"],
                user=self._user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + UP_S
        while "ready to accept connections" not in self.log():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"not ready after {UP_S:g} s: {self.log()}"
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        """Of the process that starts all others of the server."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast: connections are ended
            self._process.wait(UP_S)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """One until the end of the block."""
    kept = PostgreSQL()
    try:
        kept.start()
        yield kept
    finally:
        kept.stop()
