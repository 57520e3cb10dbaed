"""Machine-learned potentials behind one interface: found by name, checked at load, corrected or refused, aloud.

A potential is a torch-sim model (eV, eV/A, eV/A^3) with a label and a fingerprint that travel with every energy made by
it: energies of different potentials never share a convex hull.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pymatgen.core.periodic_table import Element

from dft.potentials.check import CheckResult, check_model
from dft.potentials.errors import PotentialError, PotentialNotFoundError
from dft.potentials.interface import Asked, CrystalModel, Reading
from dft.potentials.registry import fallback_of, hint, loader_of, registered
from dft.results import EnergyScheme

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedPotential:
    """A potential that has passed the check.

    Attributes:
        name: as asked for, or the fallback's.
        method: label that travels with every energy.
        fingerprint: SHA-256 over weights, correction and adapter version (dft.potentials.interface.fingerprint_of).
        model: torch-sim model on its device.
        notes: what was found, corrected or replaced, one sentence each.
        elements: symbols it knows, by atomic number.
        licence: of the weights, in a few words.
        scheme: what the energies are that it has learned.
    """

    name: str
    method: str
    fingerprint: str
    model: CrystalModel
    notes: tuple[str, ...]
    elements: tuple[str, ...]
    licence: str = ""
    scheme: EnergyScheme = EnergyScheme.UNSTATED


def load_potential(
    name: str, *, fallback: str | None, search: Sequence[Path], device: torch.device | str = "cpu"
) -> LoadedPotential:
    """Find, load and check a potential.

    Args:
        name: a registered name (dft.potentials.registry), a folder, or a name looked up in `search`, matgl's cache and
            matgl's hub; with '+D3' behind it dispersion is added (dft.potentials.dispersion).
        fallback: used, and said in the notes and the log, if `name` cannot be found; None makes that an error.
            Where `name` has dispersion the fallback has it too. A potential that is found but computes wrong energies
            is refused, never replaced.
        search: folders that hold potentials by name.
        device: 'cpu', 'cuda', ...

    Raises:
        PotentialNotFoundError: if neither `name` nor `fallback` can be found.
        PotentialError: if every reading of the potential deviates from the known crystals, or it cannot be read at all.
    """
    target = torch.device(device)
    fallback = fallback_of(name, fallback)
    try:
        return _load(name, search, target)
    except PotentialNotFoundError as error:
        if fallback is None or fallback == name:
            raise
        note = f"{error}; {fallback} is used instead"
        logger.warning("%s", note)
    loaded = _load(fallback, search, target)
    return replace(loaded, notes=(note, *loaded.notes))


def _load(name: str, search: Sequence[Path], device: torch.device) -> LoadedPotential:
    started = time.perf_counter()
    known = registered(name)
    label = known or Path(name).name
    wrong: list[tuple[Reading, CheckResult]] = []
    for reading in _readings(name, Asked(known or name, tuple(search), device)):
        result = _checked(label, reading)
        if result.is_right:
            if wrong:
                # One short line, once: what was wrong and how far stands in the notes, and so in manifest and report.
                logger.warning("%s corrected: %s", label, reading.correction)
            loaded = _finished(label, reading, _notes(label, reading, result, wrong))
            logger.info("%s loaded and checked in %.1f s", loaded.method, time.perf_counter() - started)
            return loaded
        wrong.append((reading, result))
    said = "; ".join(
        f"with {reading.way}: {', '.join(result.deviations)}" if reading.way else ", ".join(result.deviations)
        for reading, result in wrong
    )
    if not wrong:
        raise PotentialError(f"the loader of potential {label} gives nothing: expected a reading")
    raise PotentialError(
        f"potential {label} is refused, for it computes known crystals wrongly ({said}): choose another potential"
    )


def _readings(name: str, asked: Asked) -> Iterator[Reading]:
    """What the loader gives, one at a time; what it raises is a PotentialError, or is no fault of the potential's."""
    try:
        yield from loader_of(name)(asked)
    except PotentialNotFoundError as error:
        if (meant := hint(name)) and registered(name) is None:
            raise PotentialNotFoundError(f"{error}; {meant}") from error
        raise
    except PotentialError:
        raise
    except Exception as error:  # settings of a foreign folder that do not fit each other fail anywhere inside matgl
        raise _computes_nothing(asked.name, error) from error


def _checked(label: str, reading: Reading) -> CheckResult:
    """What a reading says of the known crystals."""
    if not re.fullmatch("[0-9a-f]{64}", reading.fingerprint):
        raise PotentialError(
            f"potential {label} has the fingerprint {reading.fingerprint!r}: expected a SHA-256 of all that decides "
            "its numbers, as dft.potentials.interface.fingerprint_of makes it"
        )
    try:
        return check_model(reading.model)
    except Exception as error:  # as above
        raise _computes_nothing(label, error) from error


def _computes_nothing(label: str, error: Exception) -> PotentialError:
    return PotentialError(
        f"potential {label} computes nothing ({type(error).__name__}: {' '.join(str(error).split())[:300]}): fetch or "
        "install it again, or choose another"
    )


def _notes(
    label: str, chosen: Reading, right: CheckResult, wrong: Sequence[tuple[Reading, CheckResult]]
) -> tuple[str, ...]:
    notes = [f"{label} computed with {r.way} is wrong ({'; '.join(result.deviations)})" for r, result in wrong]
    why = f", {chosen.reason}," if wrong else ""
    computed = f"{label} computed with {chosen.way}{why}" if chosen.way else chosen.method
    notes.append(f"{computed} agrees with the known crystals ({right.summary})")
    if chosen.model.cutoff_ang is None:
        notes.append(f"{label} states no cut-off, so atoms that have no neighbour within it are not looked for")
    for note in notes:
        logger.info("%s", note)
    return (*chosen.notes, *notes)


def _finished(label: str, reading: Reading, notes: tuple[str, ...]) -> LoadedPotential:
    elements = tuple(Element.from_Z(z).symbol for z in sorted(reading.model.atomic_numbers))
    return LoadedPotential(
        label, reading.method, reading.fingerprint, reading.model, notes, elements, reading.licence, reading.scheme
    )
