"""Files and folders that appear whole or not at all; what killed processes left of them; disks that are full.

What is being written has a temporary name beside its own and is locked (`flock`) until it is renamed. A dead process
holds no lock, whoever has its number now, so what is not locked is rubbish.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
CONTENT = ".d"
"""Behind the name of a temporary file: the folder that it stands for."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_SAID = re.compile(
    r"No space left|StorageFull|Disk quota|disk is full|\(os error (28|27|122)\)|code: (28|27|122)\b"
)
"""How libraries put it that keep the number of the error to themselves."""

LEAST_FREE = 1 << 20
"""With less room than this, in bytes, a file that could not be written was too large."""

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # Linux, renameat2(2)


class DiskFullError(RuntimeError):
    """A file that the disk has no room for, or may not grow as large; the message names it."""


@contextmanager
def writing(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Where to write a file that gets its name at the end, if all went well.

    Args:
        path: the name.
        new: leave a file alone that has it; of all processes and machines that try exactly one succeeds. The link call
            is atomic on network file systems too, where O_EXCL was not always.

    Raises:
        FileExistsError: if a file has the name that is to be a new one.
        DiskFullError: if there is no room; nothing is left then.
    """
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _claim(path) as temporary:
            yield temporary
            os.link(temporary, path) if new else os.replace(temporary, path)


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, for what is to be renamed to it or into it; gone at the end with what is still there.

    Raises: DiskFullError: if there is no room.
    """
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _claim(path) as claim:
            folder = claim.with_name(claim.name + CONTENT)
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, that appears whole or not at all.

    Raises: DiskFullError: if there is no room.
    """
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Whatever fails for want of room fails with a sentence that names this file or folder."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_full(error, path):
            raise
        said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno in FULL else "No space left"
        raise DiskFullError(
            f"{path} cannot be written ({said[0].lower()}{said[1:]}): make room there, then give the same command again"
        ) from error


def is_full(error: BaseException, path: Path) -> bool:
    """Whether this says that a disk, a quota or a limit on the size of files is used up.

    Args:
        error: torch and SQLite do not always say why a file could not be written; then the room on the disk does.
        path: that could not be written.
    """
    if (isinstance(error, OSError) and error.errno in FULL) or FULL_SAID.search(str(error)) is not None:
        return True
    if type(error) is not RuntimeError and not isinstance(error, sqlite3.OperationalError):
        return False
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    disk = os.statvfs(there)
    return disk.f_bavail * disk.f_frsize < LEAST_FREE


def replace_folder(new: Path, folder: Path) -> None:
    """Give a finished folder its name, in place of one that has it; at any moment the old one or the new one has it.

    On file systems that cannot exchange two names (some of the network) the old one has another name for a moment;
    `restore_folder`, called by all who look for it, then gives it its name back if the process died.

    Args:
        new: beside `folder`, on the same file system.
        folder: the name.
    """
    restore_folder(folder)
    if not folder.exists():
        os.rename(new, folder)
    elif exchanged(new, folder):
        shutil.rmtree(new, ignore_errors=True)
    else:
        aside = _aside(folder)
        shutil.rmtree(aside, ignore_errors=True)  # of a process that died here before, after the folder had its name
        os.rename(folder, aside)
        os.rename(new, folder)
        shutil.rmtree(aside, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Give a folder its name back that a process lost in replace_folder; see there."""
    if not folder.exists() and (aside := _aside(folder)).is_dir():
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(aside, folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def exchanged(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False, and nothing done, where system or file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    rename: Callable[..., int] = library.renameat2
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
        return False
    raise OSError(number, os.strerror(number), str(second))


def sweep(folder: Path, *, below: bool = True) -> list[Path]:
    """Remove what processes that are no more were writing in a folder; what a living one writes stays.

    Args:
        folder: may be missing.
        below: also in the folders below it.

    Returns: What was removed.
    """
    removed = []
    for inner, folders, names in os.walk(folder):
        for name in filter(TEMPORARY.fullmatch, names):
            if _swept(claim := Path(inner, name)):
                removed.append(claim)
        folders[:] = [name for name in folders if below and not name.endswith(".tmp" + CONTENT)]
    return removed


def _swept(claim: Path) -> bool:
    try:
        descriptor = os.open(claim, os.O_RDWR)
    except OSError:
        return False  # it has got its name meanwhile, or is not ours to remove
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(claim.with_name(claim.name + CONTENT), ignore_errors=True)
        claim.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _claim(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, locked; removed at the end if it still has its name."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: nothing is swept there either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():
            break
        os.close(descriptor)  # swept between its creation and its lock
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)
