"""Why a VASP run gave no result: custodian's exceptions and the run's own files, as one kind and one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

from custodian.custodian import CustodianError, ReturnCodeError, ValidationError
from custodian.vasp.validators import VasprunXMLValidator

from dft.engines.base import EngineError, FaultKind
from dft.engines.vasp_outputs import OutputError, corrections, has_converged_electrons

FULL_DISK = "No space left on device"
"""The C library's words for ENOSPC, which the Fortran run-time libraries repeat."""

_TAIL = 400


def fault_of(error: CustodianError | OutputError, place: Path) -> EngineError:
    """The failure of a run as an EngineError.

    Args:
        error: what custodian, or the reading of the outputs, ended with.
        place: folder of the run.
    """
    said = _said(place)
    if FULL_DISK in said:
        return EngineError(
            FaultKind.DISK_FULL,
            f"VASP could not write in {place} ({said}): make room, then run again",
            is_retryable=True,
        )
    is_cut_off = isinstance(error, ValidationError) and isinstance(error.validator, VasprunXMLValidator)
    if is_cut_off and not _last_words(place, "std_err.txt"):
        return EngineError(
            FaultKind.UNREADABLE_OUTPUT,
            f"vasprun.xml in {place} ends too early{_quoted(said)}: VASP was cut off while it wrote it; run the "
            "job again",
            is_retryable=True,
        )
    if isinstance(error, OutputError):
        return EngineError(FaultKind.UNREADABLE_OUTPUT, str(error), is_retryable=True)
    corrected = corrections(place)
    if isinstance(error, ValidationError | ReturnCodeError) and not corrected:
        return EngineError(FaultKind.CRASHED, f"VASP crashed in {place}{_quoted(said)} ({error})", is_retryable=True)
    tried = f"; custodian tried: {'; '.join(corrected)}" if corrected else ""
    if corrected and all("found Unconverged" in one for one in corrected) and not has_converged_electrons(place):
        return EngineError(
            FaultKind.ELECTRONIC_STEPS,
            f"the electronic steps in {place} did not converge ({error}){tried}",
            is_retryable=False,
        )
    return EngineError(FaultKind.CRASHED, f"{error}{_quoted(said)}{tried}", is_retryable=False)


def is_usable_though_unconverged(place: Path) -> bool:
    """Whether a run that custodian gave up has an energy all the same: only the forces are still above EDIFFG."""
    corrected = corrections(place)
    only_unconverged = bool(corrected) and all("found Unconverged" in one for one in corrected)
    return only_unconverged and has_converged_electrons(place)


def stopped_by_walltime(place: Path) -> bool:
    """Whether custodian's WalltimeHandler ended VASP before it was done."""
    return any(one.startswith("WalltimeHandler") for one in corrections(place))


def _said(place: Path) -> str:
    """The last words of VASP and its launcher."""
    return " | ".join(filter(None, (_last_words(place, name) for name in ("std_err.txt", "vasp.out"))))


def _last_words(place: Path, name: str) -> str:
    plain, zipped = place / name, place / f"{name}.gz"
    data = plain.read_bytes() if plain.is_file() else b""
    if zipped.is_file():
        data = gzip.decompress(zipped.read_bytes())
    return " ".join(data.decode("utf-8", errors="replace").split())[-_TAIL:]


def _quoted(said: str) -> str:
    return f"; its last words: {said!r}" if said else "; it said nothing"
