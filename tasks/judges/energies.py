"""What a potential says of many crystals, kept on disk by what was computed: a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from configs.judges import JudgesConfig
from generative.crystal.crystals import field_of
from storage.digests import json_digest
from storage.progress import Progress
from storage.tables import read_table
from tasks.files import AGAIN, key_of, write_table
from tasks.judges.truth import Known
from tasks.source_code import Entry

if TYPE_CHECKING:
    from dft.config import RelaxConfig
    from dft.potentials.loading import LoadedPotential

ENERGIES = pa.schema(
    [
        field_of("digest", pa.string(), "of the crystal's numbers"),
        field_of("ev_per_atom", pa.float64(), "eV/atom; or null"),
    ]
)

Compute = Callable[[Sequence[Known]], list[float | None]]


def energies_of(
    crystals: Sequence[Known], potential: LoadedPotential, config: JudgesConfig, progress: Progress
) -> dict[str, float | None]:
    """Potential energy of each crystal as it is, eV/atom; None where it has none.

    Args:
        crystals: all with a crystal; one that is known already, whoever asked, is not computed again.
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


def legacy_shifts_of(crystals: Sequence[Known], config: JudgesConfig, progress: Progress) -> dict[str, float | None]:
    """What brings formation energies of the Materials Project's old scheme to that of 2020, eV/atom, or None."""
    from dft.hull.legacy_scheme import to_mp2020

    def compute(chunk: Sequence[Known]) -> list[float | None]:
        return [to_mp2020(k.crystal.to_structure()) for k in chunk if k.crystal]

    return _kept(crystals, compute, ("legacy", (to_mp2020,), ""), config, progress)


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
    """Values by id. A file of a folder, one of which there is for each way of computing, holds those of a chunk."""
    what, computed_by, said = by
    folder = config.shared_folder / ".energies" / f"{what}-{key_of(what, *computed_by, by=said)[:32]}"
    known: dict[str, float | None] = {}
    for file in sorted(folder.glob("*.parquet")):
        known |= _values(read_table(file, AGAIN))
    digests = [k.crystal.digest for k in crystals if k.crystal]
    missing = {digest: k for digest, k in zip(digests, crystals, strict=True) if digest not in known}
    for names in _chunks(list(missing), config.chunk_size):
        values = compute([missing[name] for name in names])
        table = pa.table({"digest": names, "ev_per_atom": pa.array(values, pa.float64())}, schema=ENERGIES)
        write_table(table, folder / f"{json_digest(names)[:32]}.parquet")
        known |= _values(table)
        progress(len(known), len(digests))
    return {k.id: known[digest] for k, digest in zip(crystals, digests, strict=True)}


def _values(table: pa.Table) -> dict[str, float | None]:
    return dict(zip(table.column("digest").to_pylist(), table.column("ev_per_atom").to_pylist(), strict=True))


def _chunks(names: list[str], size: int) -> Iterator[list[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))
