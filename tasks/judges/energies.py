"""What a potential says of many crystals, kept on disk by what was computed: a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from configs.judges import JudgesConfig
from generative.crystal.crystals import field_of
from storage.digests import json_digest
from storage.progress import Progress
from tasks.files import key_of, keyed
from tasks.judges.truth import Known
from tasks.source_code import Entry

if TYPE_CHECKING:
    from dft.config import RelaxConfig
    from dft.potentials.loading import LoadedPotential

ENERGIES = pa.schema(
    [
        field_of("id", pa.string(), "id of the crystal"),
        field_of("ev_per_atom", pa.float64(), "eV/atom; or null"),
    ]
)

Compute = Callable[[Sequence[Known]], list[float | None]]


def energies_of(
    crystals: Sequence[Known], potential: LoadedPotential, config: JudgesConfig, progress: Progress
) -> dict[str, float | None]:
    """Potential energy of each crystal as it is, eV/atom; None where it has none.

    Args:
        crystals: all with a crystal; chunks of the same crystals in the same order are not computed again.
        potential: whose energies.
        config: chunk size, folder.
        progress: told of every chunk.
    """
    from dft.potentials.relaxation import points_or_reasons
    from dft.results import SinglePoint

    def compute(chunk: Sequence[Known]) -> list[float | None]:
        points = points_or_reasons([k.crystal.to_structure() for k in chunk if k.crystal], potential)
        return [point.energy_ev_per_atom if isinstance(point, SinglePoint) else None for point in points]

    # A fingerprint stands for all that decides these numbers; no change of other code costs hours of them.
    return _kept(crystals, compute, ("points", (), potential.fingerprint), config, progress)


def relaxed_energies_of(
    crystals: Sequence[Known], potential: LoadedPotential, config: JudgesConfig, progress: Progress
) -> dict[str, float | None]:
    """The same after relaxation with the potential."""
    from dft.potentials.relaxation import relax

    criteria: RelaxConfig = config.relax

    def compute(chunk: Sequence[Known]) -> list[float | None]:
        done = relax([k.crystal.to_structure() for k in chunk if k.crystal], potential, criteria)
        return [end.energy_ev_per_atom for end in done]

    said = (potential.fingerprint, json_digest(criteria.criteria()))
    return _kept(crystals, compute, ("relaxed", (relax,), said), config, progress)


def corrections_of(crystals: Sequence[Known], config: JudgesConfig, progress: Progress) -> dict[str, float | None]:
    """What a raw energy of each crystal lacks of the Materials Project's scheme, eV/atom; None if it is not found."""
    from dft.hull.dialects import corrected_energy
    from dft.results import EnergyScheme

    def compute(chunk: Sequence[Known]) -> list[float | None]:
        structures = [k.crystal.to_structure() for k in chunk if k.crystal]
        return [corrected_energy(s, 0.0, EnergyScheme.RAW).correction_ev_per_atom for s in structures]

    return _kept(crystals, compute, ("corrections", (corrected_energy,), ""), config, progress)


def _kept(
    crystals: Sequence[Known],
    compute: Compute,
    by: tuple[str, tuple[Entry, ...], object],
    config: JudgesConfig,
    progress: Progress,
) -> dict[str, float | None]:
    what, computed_by, said = by
    found: dict[str, float | None] = {}
    folder = config.shared_folder / ".energies" / what
    for chunk in _chunks(crystals, config.chunk_size):
        key = key_of(what, *computed_by, by=said, crystals=[k.crystal.digest for k in chunk if k.crystal])
        ref = keyed(_place(folder, key), key, lambda chunk=chunk: _table(chunk, compute(chunk)))  # type: ignore[misc]
        values = ref.read().column("ev_per_atom").to_pylist()
        found |= zip((k.id for k in chunk), values, strict=True)
        progress(len(found), len(crystals))
    return found


def _place(folder: Path, key: str) -> Path:
    return folder / f"{key[:32]}.parquet"


def _chunks(crystals: Sequence[Known], size: int) -> Iterator[Sequence[Known]]:
    return (crystals[start : start + size] for start in range(0, len(crystals), size))


def _table(chunk: Sequence[Known], values: list[float | None]) -> pa.Table:
    return pa.table({"id": [k.id for k in chunk], "ev_per_atom": pa.array(values, pa.float64())}, schema=ENERGIES)
