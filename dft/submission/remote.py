"""The host behind ssh: a copy of what jobs need below a folder there, and what they leave brought home.

    <remote_folder>/.code/<digest>/            the rooms `dft` and `storage`, as they were when a job was sent
    <remote_folder>/<tag of the root>/         laid out as the root at home (dft/submission/allocation.py)
        .allocations/<name>/sent               made last: members and script are there whole
        .allocations/<name>/submitting         somebody hands the script over; `submitted` is what the queue answered

What a script of bash does there is one step that may be cut off anywhere and be done again. It takes a list of paths
and an archive of tar on its standard input, and gives one back; nothing but bash, tar and coreutils has to be there.
Names at home never travel: of names below the remote folder only keys and tags are made, so that folder, a setting, is
the one word that is quoted.

Both sides write into a job's folder. Members' claims, record and error are the worker's until they are settled at home;
`cancelled.json` and what lies below `attempts/` are the controller's. An error that was archived at home, or of a time
before `sent`, is not brought home again. The age of a claim is taken by the remote file system's own clock.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

from dft.submission.allocation import (
    ALLOCATIONS,
    STOPPED_KIND,
    Allocation,
    Member,
    claim_file,
    pending_members,
    root_tag,
)
from dft.submission.files import now, read_json
from dft.submission.hosts import CODE, HostError
from dft.submission.ssh import SSH
from storage.atomic import naming_full_disk, writing
from storage.digests import file_digest, text_digest

TRANSFER_S = 3600.0
"""How long the outputs of one allocation may take to come home."""
UNANSWERED_MIN = 5
"""A queue that has not answered to a script for so many minutes will not: they give up after two."""
IN_PROGRESS = 75
"""Exit status of a script that finds another one handing over (EX_TEMPFAIL of sysexits.h)."""
ROOMS = ("dft", "storage")
FRESH_S = 1.0
"""tar writes times in whole seconds: a claim counts as this much younger, since a living job must not count as lost."""

_OURS = frozenset(
    {"job.json", "flow.json", "cancelled.json", "allocation.json", "job.sh", "queue_id.json", "gone.json"}
)
_OURS_TOO = frozenset({"settled.json", "sent", "submitting", "submitted", "submitted.new", "submitted.err", "attempts"})
"""Names that are the controller's, or of use there alone: not brought home with the outputs."""

_LIST = 'names=$(while read -r name && [ "$name" != . ]; do printf "%s\\n" "$name"; done)'
"""The list of paths at the head of standard input, up to a dot; bash reads it byte by byte and leaves the archive."""
_WITH_NOW = (
    '{ echo .now; printf "%s\\n" "$names" | while read -r name; do [ -e "$name" ] && printf "%s\\n" "$name"; done; }'
)
"""Those of the list that are there, and first a file that says what time it is for the file system."""


class RemoteHost:
    """A machine behind ssh for the job folders of one root."""

    def __init__(self, host: str, remote_folder: str, root: Path, remote_only: Sequence[str]) -> None:
        """Name machine and folders; nothing is asked yet.

        Args:
            host: as ssh knows it.
            remote_folder: absolute, there; made if it is missing.
            root: of the job folders at home.
            remote_only: patterns of names that are not brought home.
        """
        self.place: str | None = f"{host}:{remote_folder}"
        self._ssh = SSH(host)
        self._folder = PurePosixPath(remote_folder)
        self._root = root
        self._remote_only = tuple(remote_only)

    @property
    def user(self) -> str:
        """The name by which we log in there."""
        return self._ssh.user

    @cached_property
    def code(self) -> Path:
        """The rooms there, by their content."""
        lines = [f"{file.relative_to(CODE)} {file_digest(file)}" for file in _code_files()]
        return Path(self._folder / ".code" / text_digest("\n".join(lines))[:16])

    @cached_property
    def _there(self) -> PurePosixPath:
        """The root there."""
        return self._folder / root_tag(self._root)

    def seen(self, path: Path) -> Path:
        """See Host."""
        return Path(self._there / path.relative_to(self._root))

    def run(self, words: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """See Host."""
        return self._asked(_command(words, variables), words)

    def hand_over(
        self, words: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """Hand a script over once: what the queue answers is kept there, and given again to whoever asks again.

        Raises: HostError: also while another, whose connection was lost, still waits for the queue's answer.
        """
        script = (
            f"cd {shlex.quote(str(self.seen(folder)))} || exit 1; trap '' HUP PIPE; "
            "[ -s submitted ] && { cat submitted; exit 0; }; "
            f'[ -e submitting ] && [ -z "$(find submitting -mmin +{UNANSWERED_MIN})" ] && exit {IN_PROGRESS}; '
            f": > submitting; {_command(words, variables)} > submitted.new 2> submitted.err; status=$?; "
            "cat submitted.err >&2; [ $status = 0 ] || { cat submitted.new; rm -f submitting; exit $status; }; "
            "mv submitted.new submitted; cat submitted"
        )
        done = self._asked(script, words)
        if done.returncode == IN_PROGRESS:
            raise HostError(
                f"a {words[0]} on {self._ssh.host} whose connection was lost may still be at it: it is given "
                f"{UNANSWERED_MIN} minutes"
            )
        return done

    def prepare(self) -> None:
        """The folder there, and the rooms in it. Raises: HostError: if they cannot be made."""
        code, root = shlex.quote(str(self.code)), shlex.quote(str(self._there))
        above = shlex.quote(str(self.code.parent))
        done = self._ssh.run(f"mkdir -p {root} {above} && {{ [ -d {code} ] || exit {IN_PROGRESS}; }}", "mkdir")
        if done.returncode == 0:
            return
        if done.returncode != IN_PROGRESS:
            raise self._failed("mkdir", done, f"{self._folder} (dft.submission.remote_folder) to be a folder of yours")
        aside = shlex.quote(f"{self.code}.{secrets.token_hex(4)}.part")
        # Of two that send it at once one is first, and what it sent is the same.
        script = f"mkdir {aside} && tar -xzf - -C {aside} && {{ mv -T {aside} {code} 2>/dev/null || [ -d {code} ]; }}"
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                for file in _code_files():
                    tar.add(file, str(file.relative_to(CODE)), recursive=False)
            archive.seek(0)
            self._must("tar", script, archive)

    def send(self, allocation: Allocation) -> None:
        """See Host. What is left of earlier attempts, and would end this one, goes; restart files stay."""
        name = f"{ALLOCATIONS}/{allocation.name}"
        gone = [f"{name}/sent"]
        files = [allocation.folder / "allocation.json", allocation.script]
        for member in allocation.members:
            folder = self._root / member.key
            files += [folder / "job.json", folder / "flow.json", folder / "cancelled.json"]
            files += sorted(file for file in folder.glob("attempts/*.json") if ".unreadable." not in file.name)
            gone += [f"{member.key}/{one}" for one in ("error.json", "cancelled.json") if not (folder / one).exists()]
        script = (
            f'{self._within} && {_LIST} && printf "%s\\n" "$names" | while read -r name; do rm -f "$name"; done && '
            f"tar -xf - && : > {name}/sent"
        )
        with self._archive(gone, files) as archive:
            self._must("tar", script, archive)

    def exchange(self, allocations: Collection[Allocation]) -> None:
        """See Host; one command, whatever the number of allocations."""
        if not allocations:
            return
        wanted, files = list[str](), list[Path]()
        for allocation in allocations:
            wanted += [f"{ALLOCATIONS}/{allocation.name}/{name}" for name in ("sent", "ended.json")]
            for member in allocation.members:
                folder = self._root / member.key
                wanted += [f"{member.key}/{name}" for name in _state(folder, member)]
                files += [folder / "cancelled.json", *_archived(folder, member)]
        script = f"{self._within} && {_LIST} && tar -xf - && touch .now && {_WITH_NOW} | tar -cf - -T -"
        with self._archive(wanted, files) as archive, tempfile.TemporaryFile() as answer:
            self._must("tar", script, archive, answer)
            with _reading(answer, self._ssh.host) as tar:
                self._take_state(tar, allocations)

    def close(self, allocation: Allocation) -> None:
        """See Host. What matches `remote_only`, and links, stay there."""
        claims = [f"{m.key}/{claim_file(Path(), m.attempt).name}" for m in pending_members(allocation)]
        settled = json.dumps({"settled": True, "allocation": allocation.name, "at": now()})
        places = [f"{ALLOCATIONS}/{allocation.name}", *dict.fromkeys(member.key for member in allocation.members)]
        left = " ".join(shlex.quote(f"--exclude={pattern}") for pattern in self._remote_only)
        mark = f".claim.{secrets.token_hex(4)}"
        # A link is made or refused in one step, on network file systems too: exactly one of this and a worker claims.
        script = (
            f"{self._within} && {_LIST} && printf %s {shlex.quote(settled)} > {mark} && "
            f'{{ printf "%s\\n" "$names" | while read -r name; do ln {mark} "$name" 2>/dev/null; done; rm -f {mark}; '
            # tar ends with 1 if a file grew meanwhile.
            f"{_LIST}; touch .now; {_WITH_NOW} | tar -cf - {left} -T -; [ $? -le 1 ]; }}"
        )
        with self._archive([*claims, ".", *places], []) as archive, tempfile.TemporaryFile(dir=self._root) as answer:
            with naming_full_disk(self._root):
                self._must("tar", script, archive, answer, TRANSFER_S)
            with _reading(answer, self._ssh.host) as tar:
                self._take_outputs(tar, places)
                self._take_state(tar, [allocation])

    def set_aside_record(self, key: str) -> None:
        """See Host."""
        self._must(
            "mv",
            f"{self._within} && {{ [ ! -e {key}/record.json ] || mv -f {key}/record.json {key}/record.json.aside; }}",
        )

    @property
    def _within(self) -> str:
        root = shlex.quote(str(self._there))
        return f"mkdir -p {root} && cd {root}"

    def _asked(self, script: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        done = self._ssh.run(script, words[0], login=True)
        out, err = (said.decode("utf-8", errors="replace") for said in (done.stdout, done.stderr))
        if done.returncode == 127:
            err = (
                f"{words[0]} cannot be started on {self._ssh.host} ({' '.join(err.split())}): expected it on the path "
                "of `bash -l` there"
            )
        return subprocess.CompletedProcess(list(words), done.returncode, out, err)

    def _must(
        self,
        purpose: str,
        script: str,
        send: IO[bytes] | None = None,
        into: IO[bytes] | None = None,
        timeout_s: float = TRANSFER_S,
    ) -> None:
        done = self._ssh.run(script, purpose, send=send, into=into, timeout_s=timeout_s)
        if done.returncode != 0:
            raise self._failed(purpose, done, f"room and permission to write in {self._folder}, and tar")

    def _failed(self, purpose: str, done: subprocess.CompletedProcess[bytes], expected: str) -> HostError:
        said = " ".join((done.stderr or b"no message").decode("utf-8", errors="replace").split())[-300:]
        return HostError(
            f"{purpose} on {self._ssh.host} ended with status {done.returncode} and {said!r}: expected {expected}"
        )

    @contextmanager
    def _archive(self, names: Iterable[str], files: Iterable[Path]) -> Iterator[IO[bytes]]:
        """Standard input of a script: a list, and those of the files that are there."""
        with tempfile.TemporaryFile() as file:
            file.write("".join(f"{name}\n" for name in [*names, "."]).encode())
            with tarfile.open(fileobj=file, mode="w") as tar:
                for one in files:
                    try:
                        content = one.read_bytes()
                    except FileNotFoundError:
                        continue
                    entry = tarfile.TarInfo(one.relative_to(self._root).as_posix())
                    entry.size, entry.mode, entry.mtime = len(content), 0o644, time.time()
                    tar.addfile(entry, io.BytesIO(content))
            file.seek(0)
            yield file

    def _take_state(self, tar: tarfile.TarFile, allocations: Collection[Allocation]) -> None:
        """Put claims, records, errors and ends in place; a claim gets the time at which it last lived, by our clock."""
        entries = {entry.name: entry for entry in tar.getmembers() if entry.isreg()}
        remote_now, here_now = entries[".now"].mtime, time.time()
        for allocation in allocations:
            name = f"{ALLOCATIONS}/{allocation.name}"
            if f"{name}/sent" not in entries:
                continue
            wanted = [f"{name}/ended.json"]
            for member in allocation.members:
                wanted += [f"{member.key}/{one}" for one in _state(self._root / member.key, member)]
            for path in wanted:
                if (entry := entries.get(path)) is not None:
                    age_s = max(0.0, remote_now - entry.mtime - FRESH_S)
                    _put(tar, entry, self._root / path, here_now - age_s)
                elif path.endswith("/error.json"):
                    _forget_stopped(self._root / path)

    def _take_outputs(self, tar: tarfile.TarFile, places: Collection[str]) -> None:
        """Put in place what jobs have left, below the given folders alone; links and our own files are left out."""
        allowed = [PurePosixPath(place).parts for place in places]
        state = {"record.json", "error.json", "ended.json"}
        for entry in tar.getmembers():
            parts = PurePosixPath(entry.name).parts
            below = next((parts[len(place) :] for place in allowed if parts[: len(place)] == place), ())
            if not entry.isreg() or not below or ".." in parts:
                continue
            is_ours = below[0] in _OURS | _OURS_TOO | state or below[0].startswith("claim-")
            if not is_ours and not below[-1].startswith((".lock", ".reserve")):
                _put(tar, entry, self._root.joinpath(*parts), entry.mtime)


def _state(folder: Path, member: Member) -> list[str]:
    """Names of files by which a member's worker says how it stands; without those that are home for good."""
    names = [claim_file(folder, member.attempt).name]
    names += [] if (folder / "record.json").exists() else ["record.json"]
    return names + ([] if any(file.exists() for file in _archived(folder, member)) else ["error.json"])


def _archived(folder: Path, member: Member) -> list[Path]:
    """Where it stands that an attempt is over and another was allowed."""
    return [folder / "attempts" / f"{member.attempt}.{kind}.json" for kind in ("error", "cancelled")]


def _forget_stopped(error: Path) -> None:
    """A job that was told to end, and was begun again by the queue, has taken its error back."""
    if (read_json(error) or {}).get("kind") == STOPPED_KIND:
        error.unlink(missing_ok=True)


def _put(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path, mtime: float) -> None:
    content = tar.extractfile(entry)
    assert content is not None  # a regular file
    with writing(path) as temporary:
        with temporary.open("wb") as file:
            shutil.copyfileobj(content, file)
        os.utime(temporary, (mtime, mtime))


@contextmanager
def _reading(file: IO[bytes], host: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, KeyError) as error:
        raise HostError(
            f"what tar on {host} gave cannot be read ({error}): expected an archive; it is asked again"
        ) from error


def _command(words: Sequence[str], variables: Mapping[str, str]) -> str:
    return shlex.join(
        [*(("env", *(f"{name}={value}" for name, value in variables.items())) if variables else ()), *words]
    )


def _code_files() -> list[Path]:
    """Files of the rooms that workers import."""
    found = (file for room in ROOMS for file in (CODE / room).rglob("*") if file.is_file())
    return sorted(file for file in found if "__pycache__" not in file.parts and not file.name.startswith("."))
