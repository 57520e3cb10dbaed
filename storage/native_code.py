"""The one door to numba: functions compiled without the interpreter's lock, or a plain no.

Compiling takes up to half a minute, so the code is kept on disk. numba forgets kept code when the file of a function
changes, but not when a function it calls in another file does; here the place's name carries a digest of all sources in
the folder of the function, so code of an older state is never run, and the same sources in another folder, such as a
second clone, are not compiled again. Modules that decorate with it are imported only where `is_installed()`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


@lru_cache(maxsize=1)
def is_installed() -> bool:
    """Whether there is numba."""
    return importlib.util.find_spec("numba") is not None


def compiled(function: F) -> F:
    """The function as native code that releases the interpreter's lock; compiled when first called.

    Division by zero gives an infinity or NaN, as in numpy.
    """
    return _compiled(function, "numpy")


def compiled_raising(function: F) -> F:
    """The same, but division by zero raises ZeroDivisionError, as in Python, and costs a test each."""
    return _compiled(function, "python")


def compiled_reordering(function: F) -> F:
    """The same as `compiled`, but sums may be in any order, so that they are several at a time."""
    return _compiled(function, "numpy", fastmath={"reassoc", "contract", "nsz"})


PURPOSES = {
    "dft.native": "the kernels of potentials",
    "generative.native": "the kernels that compare crystals and describe their neighbourhoods",
}
"""What native code is for, by the package it is of."""


@lru_cache(maxsize=2)
def say_compiling(package: str) -> None:
    """Say, once, that the native code of a package is being compiled, what for, and that it is kept."""
    folder = code_folder(Path(__file__).resolve().parent.parent.joinpath(*package.split(".")))
    kept = "not kept for want of a writable folder: set NUMBA_CACHE_DIR" if folder is None else f"kept in {folder}"
    logger.warning("compiling %s: a minute or more, once for this version; %s", PURPOSES[package], kept)


@lru_cache(maxsize=1)
def _announce() -> None:
    """Have numba tell when it compiles; code that comes from the disk is not compiled."""
    from numba.core import event

    class Compiling(event.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            package = event.data["dispatcher"].py_func.__module__.rpartition(".")[0]
            if package in PURPOSES:
                say_compiling(package)

        def on_end(self, event: Any) -> None:
            pass

    register: Any = event.register  # numba has no types
    register("numba:compile", Compiling())


class CodeFolder:
    """Tells numba to keep a function's code in the folder that is named by its sources, wherever these lie.

    In the place of numba's own classes, which name places by the path of the sources, too.
    """

    def __init__(self, folder: Path, line: int) -> None:
        """Args: as code_folder gives it; of the function in its file."""
        self._folder, self._line = folder, line

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> CodeFolder | None:
        """Of a function in a file; None where no folder can be written."""
        folder = code_folder(Path(file).parent)
        return None if folder is None else cls(folder, function.__code__.co_firstlineno)

    def ensure_cache_path(self) -> None:
        """Make the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """What the code is of: the digest in the folder's name."""
        return self._folder.name

    def get_disambiguator(self) -> str:
        """Tells functions of one name in one file apart."""
        return str(self._line)


def _compiled(function: F, error_model: Literal["python", "numpy"], **options: Any) -> F:
    import numba
    from numba.core import config

    _announce()
    options |= {"nogil": True, "error_model": error_model}
    folder = code_folder(Path(function.__code__.co_filename).parent)
    if folder is None:
        return cast(F, numba.njit(**options)(function))
    settings: Any = config
    name, value = "CACHE_LOCATOR_CLASSES", f"{__name__}.{CodeFolder.__name__}"
    if not hasattr(settings, name):  # an older numba: below the folder, by the path of the sources
        name, value = "CACHE_DIR", str(folder)
    before = getattr(settings, name)
    setattr(settings, name, value)  # read once, when the decorator runs
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    finally:
        setattr(settings, name, before)


@lru_cache(maxsize=8)
def code_folder(sources: Path) -> Path | None:
    """A writable folder for the code of exactly these sources: under NUMBA_CACHE_DIR, or the user's cache; or None."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sorted(sources.glob("*.py")):
        digest.update(source.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME", "") or str(Path("~/.cache").expanduser())
    for base in (os.environ.get("NUMBA_CACHE_DIR", ""), f"{home}/hullward"):
        folder = Path(base) / f"kernels-{digest.hexdigest()[:16]}"
        if not base:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None
