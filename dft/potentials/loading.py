"""Machine-learned potentials behind one interface: found by name, checked at load, corrected or refused, aloud.

A potential is a torch-sim model (eV, eV/A, eV/A^3) with a label and a fingerprint that travel with every energy made by
it: energies of different potentials never share a convex hull.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pymatgen.core.periodic_table import Element

from dft.potentials.aggregation import Aggregation
from dft.potentials.check import CheckResult, check_model
from dft.potentials.graph_model import EnergyNetwork, GraphModel
from dft.stored_classes import ForeignClassError

logger = logging.getLogger(__name__)

ADAPTER_VERSION = 1
"""Part of the fingerprint: raise it whenever the same weights may give other numbers."""
CHGNET = "CHGNet"


class PotentialError(RuntimeError):
    """A potential cannot be found, or computes wrong energies."""


class PotentialNotFoundError(PotentialError):
    """No folder, cache or hub has this potential."""


@dataclass(frozen=True)
class LoadedPotential:
    """A potential that has passed the check.

    Attributes:
        name: as asked for, or the fallback's.
        method: label that travels with every energy.
        fingerprint: SHA-256 over weights, correction and adapter version.
        model: torch-sim model on its device.
        notes: what was found, corrected or replaced, one sentence each.
        elements: symbols it knows, by atomic number.
    """

    name: str
    method: str
    fingerprint: str
    model: GraphModel
    notes: tuple[str, ...]
    elements: tuple[str, ...]


def load_potential(
    name: str, *, fallback: str | None, search: Sequence[Path], device: torch.device | str = "cpu"
) -> LoadedPotential:
    """Find, load and check a potential.

    Args:
        name: a folder, a name looked up in `search`, matgl's cache and matgl's hub, or 'CHGNet'.
        fallback: used, and said in the notes and the log, if `name` cannot be found; None makes that an error.
            A potential that is found but computes wrong energies is refused, never replaced.
        search: folders that hold potentials by name.
        device: 'cpu', 'cuda', ...

    Raises:
        PotentialNotFoundError: if neither `name` nor `fallback` can be found.
        PotentialError: if the potential deviates from the known crystals with every aggregation.
    """
    target = torch.device(device)
    try:
        return _load(name, search, target)
    except PotentialNotFoundError as error:
        if fallback is None or fallback == name:
            raise
        note = f"{error}; {fallback} is used instead"
        logger.warning("%s", note)
    loaded = _load(fallback, search, target)
    return LoadedPotential(
        loaded.name, loaded.method, loaded.fingerprint, loaded.model, (note, *loaded.notes), loaded.elements
    )


def _load(name: str, search: Sequence[Path], device: torch.device) -> LoadedPotential:
    started = time.perf_counter()
    if name.lower() == CHGNET.lower():
        loaded = _load_chgnet(device)
    else:
        loaded = _load_matgl(name, search, device)
    logger.info("%s loaded and checked in %.1f s", loaded.method, time.perf_counter() - started)
    return loaded


def _load_chgnet(device: torch.device) -> LoadedPotential:
    from dft.potentials.chgnet import CHGNetEnergy, load_chgnet

    network = load_chgnet()
    version = network.version
    model = GraphModel(CHGNetEnergy(network), device)
    result = check_model(model)
    if not result.is_right:
        raise PotentialError(_refusal(CHGNET, {"as stored": result}))
    note = f"CHGNet {version} agrees with the known crystals ({result.summary})"
    return _finished(CHGNET, f"CHGNet {version}", model, "as stored", (note,))


def _load_matgl(name: str, search: Sequence[Path], device: torch.device) -> LoadedPotential:
    from dft.potentials.matgl import find_matgl_folder, load_matgl

    folder, where = find_matgl_folder(name, search)
    if folder is None:
        raise PotentialNotFoundError(f"potential {name} was not found: {where}")
    label = Path(name).name
    try:
        potential = load_matgl(folder)
    except ForeignClassError as error:
        raise PotentialError(f"potential {label} ({where}) is refused: {error}; choose another potential") from error
    except (ValueError, OSError) as error:
        raise PotentialError(
            f"potential {label} ({where}) cannot be read: {error}; fetch its three files again or choose another"
        ) from error
    results: dict[str, CheckResult] = {}
    for aggregation in Aggregation:
        if (checked := _checked(potential, aggregation, device, f"{label} ({where})")) is None:
            continue
        model, result = checked
        results[f"{aggregation} aggregation"] = result
        if result.is_right:
            if len(results) > 1:
                # One short line, once: what was wrong and how far stands in the notes, and so in manifest and report.
                logger.warning("%s corrected: edges summed at their %s", label, aggregation)
            return _finished(
                label, f"{label} ({aggregation} aggregation)", model, aggregation, _notes(label, where, results)
            )
    raise PotentialError(_refusal(label, results))


def _checked(
    potential: Any, aggregation: Aggregation, device: torch.device, label: str
) -> tuple[GraphModel, CheckResult] | None:
    """A matgl potential with this aggregation, and what it says of known crystals; None if it has none such."""
    from dft.potentials.matgl import build_network

    try:
        network: EnergyNetwork | None = build_network(potential, aggregation)
        if network is None:
            return None
        model = GraphModel(network, device)
        return model, check_model(model)
    except Exception as error:  # settings of a foreign folder that do not fit each other fail anywhere inside matgl
        raise PotentialError(
            f"potential {label} computes nothing ({type(error).__name__}: {' '.join(str(error).split())[:300]}): fetch "
            "its three files again or choose another"
        ) from error


def _notes(label: str, where: str, results: dict[str, CheckResult]) -> tuple[str, ...]:
    *wrong, (chosen, right) = results.items()
    notes = [f"{label} was read from {where}"]
    notes += [f"{label} computed with {how} is wrong ({'; '.join(r.deviations)})" for how, r in wrong]
    why = ", the end of each edge its weights were trained with," if wrong else ""
    notes.append(f"{label} computed with {chosen}{why} agrees with the known crystals ({right.summary})")
    for note in notes[1:]:
        logger.info("%s", note)
    return tuple(notes)


def _refusal(label: str, results: dict[str, CheckResult]) -> str:
    said = "; ".join(f"with {how}: {', '.join(result.deviations)}" for how, result in results.items())
    return f"potential {label} is refused, for it computes known crystals wrongly ({said}): choose another potential"


def _finished(name: str, method: str, model: GraphModel, correction: str, notes: tuple[str, ...]) -> LoadedPotential:
    numbers = sorted(model.network.atomic_numbers)
    elements = tuple(Element.from_Z(z).symbol for z in numbers)
    return LoadedPotential(name, method, _fingerprint(model.network, correction), model, notes, elements)


def _fingerprint(network: EnergyNetwork, correction: str) -> str:
    digest = hashlib.sha256(f"adapter {ADAPTER_VERSION}; {correction}; {network.atomic_numbers}".encode())
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
