"""The stages on crystals of one's own: what the commands `sample`, `relax`, `screen`, `hull` and `evaluate` do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from hullward.results import Crystals, Evaluation, OnHull
from hullward.run import Run

if TYPE_CHECKING:
    import pyarrow as pa
    from ase import Atoms
    from pymatgen.core.structure import Structure

    from configs.schema import DiscoverConfig
    from tasks.discover.own_files import ReadFiles

    Given: TypeAlias = (
        str | Path | Structure | Atoms | Crystals | Run | pa.Table | Mapping[str, Structure | Atoms]
        | Iterable[Structure | Atoms] | Iterable[str | Path]
    )  # fmt: skip
    """Crystals: files or folders that `hullward ingest` reads, pymatgen Structures or ASE Atoms (one, several, or by
    ids), what another function gave back, or a table of Hullward's own."""

ORIGIN = "hullward"
"""Where settings come from, in errors."""


def sample(
    elements: str | Sequence[str] | None = None,
    *,
    formulas: str | Sequence[str] = (),
    sites: str | Sequence[str] = (),
    n: int = 16,
    seed: int = 0,
    checkpoint: str | Path | Sequence[str | Path] = (),
    spacegroup: int | None = None,
    formation_energy_ev_per_atom: float | None = None,
    targets: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> Crystals:
    """Draw crystals from a generator, for a chemical system, for formulas, or for sites of a space group.

    Args:
        elements: chemical system, such as "Ta-W-B" or ["Ta", "W", "B"].
        formulas: reduced formulas, such as "TaBW".
        sites: inequivalent sites of each element in `spacegroup`, such as "TaWB2".
        n: crystals to draw.
        seed: of every draw; the same gives the same crystals.
        checkpoint: folder of a generator; without, the one shipped. Of several each draws an equal share.
        spacegroup: international number to ask for.
        formation_energy_ev_per_atom: to ask for.
        targets: further numbers to ask for, of columns that the generator was trained on: {"band_gap_ev": 1.5}.
        settings: further settings as in a settings file, such as {"sample": {"sampler": {"n_steps": 20}}}.
        changes: the same as --set takes them, made last: ["sample.sampler.n_steps=20"].

    Raises: ConfigError: if a setting is wrong; PlanError: if nothing can be drawn so; CheckpointError: without one.
    """
    from configs.command_line import draw_settings, sample_changes
    from tasks.discover.own_files import sample_crystals

    wished = [f"{name}={value}" for name, value in (targets or {}).items()]
    asked = sample_changes(
        _listed(formulas), _elements(elements) or [], spacegroup, formation_energy_ev_per_atom, _listed(sites), wished
    )
    config = draw_settings(asked, n, seed, _listed(checkpoint), changes, settings, ORIGIN)
    return Crystals(sample_crystals(config), {"id": "id", "formula": "formula", "n_atoms": "atoms"})


def relax(
    crystals: Given,
    *,
    potential: str | None = None,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> Crystals:
    """Relax cell and positions of crystals with a machine-learned potential.

    Args:
        crystals: see `Given`; those that `screen` turned away are left alone. Cells stay as they are given; of files
            they are read as `hullward relax` reads them, into primitive cells.
        potential: a name, or a folder; without, the default or its fallback.
        settings: further settings as in a settings file, such as {"relax": {"fmax_ev_per_ang": 0.01}}.
        changes: the same as --set takes them, made last.

    Returns: Every crystal, its energy in eV/atom and how its relaxation ended; what could not be read is a failed row.

    Raises: ConfigError: if a setting is wrong; OwnFileError: if not a single crystal could be read.
    """
    from tasks.discover.own_files import energies_by, plain_rows, relax_crystals

    config = _config(potential, changes, settings)
    read = _read(crystals)
    from flows.cli.console import RELAXED, with_reasons

    table = relax_crystals(read.table, config, refused=read.refused)
    return Crystals(table, with_reasons(plain_rows(table), RELAXED), (energies_by(config), *_not_read(read)))


def screen(
    crystals: Given,
    known: Given,
    *,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> Crystals:
    """Which crystals are valid, not among the known ones, and not repeats of each other.

    Args:
        crystals: see `Given`.
        known: crystals that are not new.
        settings: further settings as in a settings file, such as {"screen": {"smact_filter": True}}.
        changes: the same as --set takes them, made last.

    Returns: Every crystal; `rejected_by` and `reason` say which were turned away, and why.

    Raises: ConfigError: if a setting is wrong; OwnFileError: if not a single crystal could be read.
    """
    from flows.cli.console import SCREENED
    from tasks.discover.own_files import screen_crystals

    config = _config(None, changes, settings)
    read, reference = _read(crystals), _read(known)
    table = screen_crystals(read.table, reference.table, config, read.refused)
    alive = table.column("rejected_by").null_count
    return Crystals(table, SCREENED, (f"{alive} of them are valid, novel and unique", *_not_read(read, reference)))


def hull(
    crystals: Given,
    known: Given,
    *,
    potential: str | None = None,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> OnHull:
    """Energy of crystals above the hull of known phases, all relaxed with one potential.

    Args:
        crystals: see `Given`; relaxed first unless the same potential has done so already.
        known: competing phases; without an elemental phase of each element there is no hull.
        potential: a name, or a folder; without, the default or its fallback.
        settings: further settings as in a settings file.
        changes: the same as --set takes them, made last.

    Returns: Every crystal, lowest above the hull first; `hull_note` says why one has no place on it.

    Raises: ConfigError: if a setting is wrong; OwnFileError: if not a single crystal could be read.
    """
    from flows.cli.console import PLACED
    from generative.datasets.origins import origin_counts
    from tasks.discover.known import cut_of
    from tasks.discover.own_files import energies_by, set_on_hull, systems_of
    from tasks.discover.phases import phases_table

    config = _config(potential, changes, settings)
    read, phases = _read(crystals), _read(known)
    found = set_on_hull(read.table, phases.table, config, refused=read.refused)
    elements = tuple(sorted({symbol for system in systems_of(found.relaxed, "relaxed_") for symbol in system}))
    cut = cut_of(found.placed)
    return OnHull(
        _with_crystals(found.placed, found.relaxed),
        PLACED,
        (
            energies_by(config),
            f"phases to compete with: {origin_counts(phases.table)}",
            *([cut.note] if cut is not None and cut.note else []),
            *_not_read(read, phases),
        ),
        competing=phases_table(phases.table, found.competing, config.model_copy(update={"elements": elements})),
        elements=elements,
    )


def evaluate(
    samples: Given,
    reference: str | Path | None = None,
    *,
    train: str | Path | None = None,
    phases: Sequence[str | Path] = (),
    protocols: str | Sequence[str] = (),
    dataset: str | None = None,
    out: str | Path | None = None,
    potential: str | None = None,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> Evaluation:
    """How good generated crystals are, by the protocols of the field, beside what papers report.

    Args:
        samples: see `Given`; generated crystals, as generated.
        reference: file of true crystals, the test set.
        train: file of crystals that are not new, and competing phases.
        phases: files of further competing phases.
        protocols: cdvae, airi, adaptive-cell, condition-cdvae, sun or all; without, cdvae.
        dataset: mp-20, perov-5, carbon-24, ...: papers' rows beside, and its cut-offs.
        out: folder of the results; without, runs/evaluations/NAME, 'samples' for crystals that come from no file.
        potential: a name, or a folder; without, the default or its fallback.
        settings: further settings, as docs/settings.md lists them for evaluations, such as {"n_drawn": None}.
        changes: the same as --set takes them, made last.

    Raises: ConfigError: if a setting is wrong; EvaluationError: if a protocol needs what was not given.
    """
    from configs.command_line import evaluation_settings
    from tasks.evaluate.stages import evaluate as run

    with TemporaryDirectory(prefix="hullward-") as folder:
        stated = {
            "samples": _samples_file(samples, Path(folder)),
            "reference": None if reference is None else str(reference),
            "train": None if train is None else str(train),
            "phases": _listed(phases) or None,
            "protocols": _listed(protocols) or None,
            "dataset": dataset,
            "out": None if out is None else str(out),
        }
        config = evaluation_settings(stated, potential, changes, settings, ORIGIN)
        return Evaluation(run(config), config.folder)


def _config(potential: str | None, changes: Sequence[str], settings: Mapping[str, Any] | None) -> DiscoverConfig:
    from configs.command_line import potential_changes, settings_of

    return settings_of(potential_changes(potential), list(changes), settings, ORIGIN)


def _elements(given: str | Sequence[str] | None) -> list[str] | None:
    from configs.command_line import elements_of

    return elements_of(given) if isinstance(given, str) or given is None else list(given)


def _listed(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]


def _read(given: Given) -> ReadFiles:
    """The crystals that are given, in whatever form. Raises: OwnFileError: if there is none."""
    import pyarrow as pa
    from ase import Atoms
    from pymatgen.core.structure import Structure

    from tasks.discover.given_crystals import given_table, table_of_crystals
    from tasks.discover.own_files import read_files

    if isinstance(given, Crystals | Run):
        return given_table(given.table)
    if isinstance(given, pa.Table):
        return given_table(given)
    if isinstance(given, str | Path):
        return read_files([str(given)])
    if isinstance(given, Structure | Atoms):
        return table_of_crystals({"crystal-0": given})
    if isinstance(given, Mapping):
        return table_of_crystals({str(name): one for name, one in given.items()})
    listed = list(given)
    if listed and all(isinstance(one, str | Path) for one in listed):
        return read_files([str(one) for one in listed])
    return table_of_crystals({f"crystal-{number}": one for number, one in enumerate(listed)})


def _not_read(read: ReadFiles, known: ReadFiles | None = None) -> list[str]:
    """What was read of no file; of known crystals the records too, which have no row in the result."""
    notes = [
        f"{len(one.not_read)} files of a folder were not read, the first: {one.not_read[0]}"
        for one in (read, known)
        if one is not None and one.not_read
    ]
    if known is not None and known.refused:
        name, reason = known.refused[0]
        first = f"{name.rpartition(':')[2]}: {reason}"
        notes.append(f"{len(known.refused)} records of the known crystals could not be read, the first: {first}")
    return notes


def _with_crystals(placed: pa.Table, relaxed: pa.Table) -> pa.Table:
    """The placed rows with their relaxed crystals."""
    import pyarrow as pa

    from generative.crystal.crystals import STRUCTURE_FIELDS

    places = {name: place for place, name in enumerate(relaxed.column("id").to_pylist())}
    taken = pa.array([places.get(name) for name in placed.column("id").to_pylist()], type=pa.int64())
    for field in STRUCTURE_FIELDS:
        name = f"relaxed_{field.name}"
        placed = placed.append_column(relaxed.schema.field(name), relaxed.column(name).take(taken))
    return placed


def _samples_file(given: Given, folder: Path) -> str:
    """Where the samples lie: their own file, or one made in `folder`, a row without a crystal for each refused."""
    if isinstance(given, str | Path):
        return str(given)
    import pyarrow as pa

    from generative.crystal.crystals import STRUCTURE_FIELDS
    from tasks.files import write_table

    read = _read(given)
    fields = [pa.field("id", pa.string()), *STRUCTURE_FIELDS]
    table = read.table.select([field.name for field in fields]).cast(pa.schema(fields))
    table = pa.concat_tables(
        [table, pa.Table.from_pylist([{"id": name} for name, _ in read.refused], pa.schema(fields))]
    )
    write_table(table, folder / "samples.parquet")
    return str(folder / "samples.parquet")
