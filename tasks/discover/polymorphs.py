"""Polymorphs beside the crystal that each was proposed for: which are lower, their ranks, and what a reader gets."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.modification import ModifyConfig
from configs.paths import project_version
from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.origins import origins_of
from storage.atomic import write_text
from tasks.discover.candidates import RANKED_POLYMORPHS, RELAXED, Stage, joined, plain
from tasks.discover.rank import ranked_rows, rejected_rows, relaxed_candidates, turn_away_repeats, with_crystals
from tasks.discover.run import RunFolder
from tasks.files import ROWS_PER_GROUP, FileRef, key_of, keyed
from tasks.loading import PotentialIdentity

if TYPE_CHECKING:
    from generative.screening.matching import Tolerances

BEST = ("id", "spacegroup_symbol", "energy_change_ev_per_atom", "known_match", "dynamically_stable")
"""What modification.json says of the lowest polymorph of a crystal."""


def rank_polymorphs(
    sources: pa.Table, screened: pa.Table, relaxed: pa.Table, known: pa.Table | None, config: ModifyConfig
) -> pa.Table:
    """Every polymorph compared with the crystal it was proposed for, the lower ones of each crystal ranked.

    Args:
        sources: the given crystals, relaxed; columns RELAXED.
        screened: all polymorphs, columns SCREENED and MODIFIED.
        relaxed: the surviving ones, columns RELAXED.
        known: crystals that databases hold, to name those that a polymorph relaxed into.
        config: tolerances, and how much lower counts.

    Returns: Columns RANKED_POLYMORPHS: ranked ones first, crystal by crystal, then the others in order of the plan.
    """
    from generative.screening.matching import Tolerances

    tolerances = Tolerances.from_config(config.screen)
    rows: list[dict[str, Any]] = []
    crystals: list[Crystal | None] = []
    for row, _, crystal in relaxed_candidates(screened, relaxed, tolerances):
        rows.append(row)
        crystals.append(crystal)
    if known is not None:
        _name_known(rows, crystals, known, tolerances)
    own: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        own[row["source_id"]].append(i)
    kept: list[dict[str, Any]] = []
    for source, crystal in zip(plain(sources).to_pylist(), crystals_of(sources, "relaxed_"), strict=True):
        indices = own[source["id"]]
        for i in indices:
            _compare_with_source(rows[i], crystals[i], source, crystal, config.lower_by_ev_per_atom, tolerances)
        turn_away_repeats([rows[i] for i in indices], [crystals[i] for i in indices], tolerances)
        kept += ranked_rows([rows[i] for i in indices], "energy_change_ev_per_atom")
    return with_crystals([*kept, *rejected_rows(rows)], screened, relaxed, RANKED_POLYMORPHS)


def _name_known(
    rows: Sequence[dict[str, Any]], crystals: Sequence[Crystal | None], known: pa.Table, tolerances: Tolerances
) -> None:
    from generative.screening.matching import ReferenceSet, find_known

    origins = dict(zip(known.column("id").to_pylist(), origins_of(known), strict=True))
    pairs = [(row, crystal) for row, crystal in zip(rows, crystals, strict=True) if crystal is not None]
    matches = find_known([crystal for _, crystal in pairs], ReferenceSet.from_table(known), tolerances).matches
    for (row, _), match in zip(pairs, matches, strict=True):
        if match is not None:
            row |= {"known_match": match.reference_id, "known_origin": origins[match.reference_id]}


def _compare_with_source(
    row: dict[str, Any],
    crystal: Crystal | None,
    source: dict[str, Any],
    source_crystal: Crystal | None,
    lower_by_ev_per_atom: float,
    tolerances: Tolerances,
) -> None:
    """Add the change of energy of a relaxed polymorph; turn away one that is the given crystal itself, or not lower."""
    from generative.screening.matching import group

    if crystal is None:
        return
    row["source_energy_ev_per_atom"] = source["energy_ev_per_atom"]
    name = source["id"]
    if source_crystal is None:
        reason = f"{name} itself could not be relaxed: {source['relax_reason']}"
        row |= {"rejected_by": Stage.SOURCE.value, "reason": reason}
        return
    change = row["energy_ev_per_atom"] - source["energy_ev_per_atom"]
    row["energy_change_ev_per_atom"] = change
    if group([source_crystal, crystal], tolerances).first_members[1] == 0:
        row |= {"rejected_by": Stage.SOURCE.value, "reason": f"relaxed into {name} itself ({tolerances})"}
    elif change >= -lower_by_ev_per_atom:
        row |= {"rejected_by": Stage.HIGHER.value, "reason": f"{change:+.4f} eV/atom from {name}"}


def rank_polymorphs_file(
    config: ModifyConfig,
    folder: Path,
    known: FileRef | None,
    screened: FileRef,
    relaxed: list[FileRef],
    sources: list[FileRef],
) -> FileRef:
    """Every polymorph with its rank: ranked.parquet; see rank_polymorphs."""
    key = key_of(
        "rank polymorphs",
        rank_polymorphs_file,
        screen=config.screen.model_dump(mode="json"),
        lower_by_ev_per_atom=config.lower_by_ev_per_atom,
        known=None if known is None else known.sha256,
        inputs=[[ref.sha256 for ref in refs] for refs in ([screened], relaxed, sources)],
    )

    def compute() -> pa.Table:
        given, done = (joined([ref.read() for ref in refs], RELAXED) for refs in (sources, relaxed))
        return rank_polymorphs(given, screened.read(), done, known and known.read(), config)

    return keyed(RunFolder(folder).ranked, key, compute, ROWS_PER_GROUP)


def summary_of(candidates: pa.Table, sources: pa.Table) -> list[dict[str, Any]]:
    """One record per given crystal: how many polymorphs were drawn and are lower, the best of them, or why none.

    Args:
        candidates: columns POLYMORPHS.
        sources: the given crystals, relaxed; columns RELAXED.
    """
    from dft.potentials.ground_state import symmetry

    own: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in plain(candidates).to_pylist():
        own[row["source_id"]].append(row)
    found = []
    for source, crystal in zip(plain(sources).to_pylist(), crystals_of(sources, "relaxed_"), strict=True):
        rows = own[source["id"]]
        lower = [row for row in rows if row["rank"] is not None]
        _, symbol = (crystal is not None and symmetry(crystal.to_structure())) or (None, None)
        found.append(
            {
                "id": source["id"],
                "formula": source["formula"],
                "spacegroup": symbol,
                "energy_ev_per_atom": source["energy_ev_per_atom"],
                "n_drawn": len(rows),
                "n_lower": len(lower),
                "turned_away": Counter(row["rejected_by"] for row in rows if row["rejected_by"]),
                "best": {name: lower[0][name] for name in BEST} if lower else None,
            }
        )
    return found


def write_modification(
    config: ModifyConfig, folder: Path, identity: PotentialIdentity, candidates: FileRef, sources: list[FileRef]
) -> Path:
    """The ranked polymorphs as CIFs, and modification.json with settings and summary."""
    from tasks.report.run.cif_files import cif_text, remove_cifs

    table = candidates.read()
    remove_cifs(folder)
    n_ranked = len(table) - table.column("rank").null_count
    best = table.slice(0, n_ranked)
    for row, crystal in zip(plain(best).to_pylist(), crystals_of(best, "relaxed_"), strict=True):
        assert crystal is not None  # what has a rank was relaxed
        comments = (
            f"Hullward polymorph {row['id']} of {row['source_id']}, rank {row['rank']}, {row['formula']}",
            f"energy change: {row['energy_change_ev_per_atom']:+.4f} eV/atom ({identity.method}, not DFT)",
        )
        name = f"{row['rank']:04d}-{row['formula']}-{row['id']}.cif"
        write_text(folder / "cifs" / name, cif_text(crystal.to_structure(), row["id"], comments))
    document = {
        "schema_version": 1,
        "hullward": project_version(),
        "settings": config.model_dump(mode="json"),
        "potential": identity.model_dump(mode="json"),
        "crystals": summary_of(table, joined([ref.read() for ref in sources], RELAXED)),
    }
    path = folder / "modification.json"
    write_text(path, json.dumps(document, indent=2, sort_keys=True, allow_nan=False, default=_plain) + "\n")
    return path


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


@task(name="rank")
def rank_polymorphs_task(
    config: ModifyConfig,
    folder: Path,
    known: FileRef | None,
    screened: FileRef,
    relaxed: list[FileRef],
    sources: list[FileRef],
) -> FileRef:
    """Compare and rank the relaxed polymorphs; see rank_polymorphs_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"rank-{config.name}", "ranking polymorphs"):
        ref = rank_polymorphs_file(config, folder, known, screened, relaxed, sources)
    ranks = ref.read().column("rank")
    n = len(ranks) - ranks.null_count
    get_run_logger().info("%d lower polymorphs%s", n, ", unchanged, skipped" if ref.reused else "")
    return ref


@task(name="results")
def modification_task(
    config: ModifyConfig, folder: Path, identity: PotentialIdentity, candidates: FileRef, sources: list[FileRef]
) -> Path:
    """Write what was found; see write_modification."""
    path = write_modification(config, folder, identity, candidates, sources)
    for entry in json.loads(path.read_text(encoding="utf-8"))["crystals"]:
        best = entry["best"]
        said = (
            f"the lowest is {best['energy_change_ev_per_atom']:+.4f} eV/atom, {best['spacegroup_symbol']}"
            if best
            else "none is lower"
        )
        get_run_logger().info("%s: %d polymorphs drawn, %s", entry["id"], entry["n_drawn"], said)
    return path
