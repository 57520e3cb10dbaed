"""Polymorphs of given crystals: drawn, relaxed together with them, compared with them, ranked.

Functions first, tasks last. Nothing is dropped: a polymorph that is turned away stays in the table with the reason.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.modification import ModifyConfig
from configs.paths import project_version
from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal, crystals_of, field_of, structure_columns
from generative.datasets.origins import split_by_origin
from storage.atomic import sweep, write_text
from tasks.discover.candidates import DYNAMICS, RELAXED
from tasks.discover.phonons import phonon_file, with_phonons
from tasks.discover.relax import relax_table
from tasks.files import FileRef, key_of, keyed
from tasks.loading import PotentialIdentity, identify, potential_code

if TYPE_CHECKING:
    from generative.systems.interface import Change

PROPOSED = [
    field_of("id", pa.string(), "hash of the draw; of a given crystal its own id"),
    field_of("source_id", pa.string(), "id of the given crystal; null for one itself"),
    field_of("formula", pa.string(), "reduced formula"),
    field_of("asked", pa.string(), "space group and change of energy, JSON"),
    *STRUCTURE_FIELDS,
    field_of("rejected_by", pa.string(), "validity | duplicate | relaxation | source | higher, or null"),
    field_of("reason", pa.string(), "one sentence, or null"),
]
POLYMORPHS = [
    field_of("rank", pa.int32(), "among the lower polymorphs of one crystal, 1 is the lowest; null if turned away"),
    *PROPOSED,
    *(f for f in RELAXED if f.name not in {"id", "formula"}),
    field_of(
        "source_energy_ev_per_atom", pa.float64(), "of the given crystal, relaxed with the same potential, eV/atom"
    ),
    field_of("energy_change_ev_per_atom", pa.float64(), "polymorph less given crystal, both relaxed, eV/atom"),
    field_of("spacegroup", pa.int16(), "international number of the relaxed polymorph (spglib, 0.1 A)"),
    field_of("spacegroup_symbol", pa.string(), "its Hermann-Mauguin symbol"),
    field_of("known_match", pa.string(), "id of the known crystal it matches, or null"),
    *DYNAMICS,
]


def given_crystals(config: ModifyConfig) -> tuple[pa.Table, list[str]]:
    """The crystals to modify, and one sentence per record that is none.

    Raises: OwnFileError: if none can be read, or none is as far above hull as is asked.
    """
    from tasks.discover.own_files import OwnFileError, read_crystals

    given, refused = read_crystals(config.crystals)
    least = config.above_hull_min_ev_per_atom
    if least is not None:
        column = "e_above_hull_ev_per_atom"
        stated = given.column(column).to_pylist() if column in given.column_names else [None] * len(given)
        chosen = [row for row, value in enumerate(stated) if value is not None and value >= least]
        if not chosen:
            known = [value for value in stated if value is not None]
            n = len(given)
            found = (
                f"the highest of {n} lies {max(known):g} above hull" if known else f"none of {n} crystals states one"
            )
            raise OwnFileError(f"above_hull_min_ev_per_atom is {least:g}, but {found}: lower it, or leave it out")
        given = given.take(chosen)
    if config.limit is not None and config.limit < len(given):
        drawn = np.random.default_rng(config.seed).permutation(len(given))[: config.limit]
        given = given.take(sorted(drawn.tolist()))
    return given, refused


def asked_of(config: ModifyConfig) -> list[Change]:
    """Space group and change of energy of every draw for one crystal: every pair in turn."""
    from generative.systems.interface import Change

    groups = [None, *config.spacegroups]
    changes: list[float | None] = list(config.energy_changes_ev_per_atom) or [None]
    pairs = itertools.cycle(Change(group, change) for change in changes for group in groups)
    return list(itertools.islice(pairs, config.n_candidates))


def propose(given: pa.Table, config: ModifyConfig) -> pa.Table:
    """The given crystals, then `n_candidates` polymorphs of each; columns PROPOSED, what is no crystal turned away.

    A modifier starts from the crystal; any other system is asked for its composition.
    """
    from generative.requests import Request
    from generative.sampling import chunk_generator
    from generative.screening import validity
    from generative.screening.matching import Tolerances, group
    from generative.systems.interface import Modifier
    from tasks.discover.own_files import formula_of
    from tasks.loading import checkpoint

    loaded = checkpoint(config.sample.checkpoint, config.execution)
    system, asked = loaded.system, asked_of(config)
    sampler = system.sampler_settings(config.sample.sampler)
    known_energy = (
        given.column("formation_energy_ev_per_atom").to_pylist()
        if "formation_energy_ev_per_atom" in given.column_names
        else [None] * len(given)
    )
    rows, crystals = [], []
    proposals: list[tuple[dict[str, Any], Crystal]] = []
    for place, (name, crystal) in enumerate(zip(given.column("id").to_pylist(), crystals_of(given), strict=True)):
        if crystal is None:
            continue
        formula = formula_of(crystal)
        rows.append({"id": name, "source_id": None, "formula": formula})
        crystals.append(crystal)
        rng = chunk_generator(config.seed, "modify", place)
        if isinstance(system, Modifier):
            drawn = system.modify([crystal] * len(asked), asked, rng, sampler)
        else:
            start = known_energy[place]
            requests = [
                Request.for_atoms(
                    crystal.atomic_numbers,
                    change.spacegroup,
                    None if start is None or change.energy_ev_per_atom is None else start + change.energy_ev_per_atom,
                )
                for change in asked
            ]
            drawn = loaded.generator.sample(requests, rng, sampler)
        for number, ((wish, change), found) in enumerate(zip(asked, drawn, strict=True)):
            row: dict[str, Any] = {
                "id": key_of("modify", of=name, checkpoint=loaded.digest, seed=config.seed, n=number)[:16],
                "source_id": name,
                "formula": formula,
                "asked": json.dumps({"spacegroup": wish, "energy_change_ev_per_atom": change}),
            }
            verdict = validity.check(found, config.screen)
            if not verdict.valid:
                row |= {"rejected_by": "validity", "reason": verdict.reason}
            proposals.append((row, found))
    tolerances = Tolerances.from_config(config.screen)
    alive = [i for i, (row, _) in enumerate(proposals) if "rejected_by" not in row]
    groups_of_like = group([proposals[i][1] for i in alive], tolerances)
    for place, first in enumerate(groups_of_like.first_members):
        if first != place:
            leader = proposals[alive[first]][0]["id"]
            proposals[alive[place]][0].update(rejected_by="duplicate", reason=f"matches {leader} ({tolerances})")
    rows += [row for row, _ in proposals]
    crystals += [crystal for _, crystal in proposals]
    columns = structure_columns(crystals)
    plain = {
        f.name: pa.array([row.get(f.name) for row in rows], type=f.type) for f in PROPOSED if f.name not in columns
    }
    return pa.table([{**plain, **columns}[f.name] for f in PROPOSED], schema=pa.schema(PROPOSED))


def judge_polymorphs(proposed: pa.Table, relaxed: pa.Table, config: ModifyConfig) -> pa.Table:
    """Every polymorph beside the crystal that it came of, lower ones ranked; columns POLYMORPHS."""
    from dft.potentials.ground_state import symmetry
    from generative.screening.matching import ReferenceSet, Tolerances, find_known, group

    tolerances = Tolerances.from_config(config.screen)
    done = {
        row["id"]: (row, crystal)
        for row, crystal in zip(relaxed.to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True)
    }
    rows = proposed.to_pylist()
    crystals: dict[str, Crystal] = {}
    for row in rows:
        found, crystal = done.get(row["id"], (None, None))
        if found is not None:
            row |= {name: value for name, value in found.items() if name not in {"id", "formula"}}
        if crystal is None:
            if found is not None:
                row |= {"rejected_by": "relaxation", "reason": found["relax_reason"]}
            continue
        crystals[row["id"]] = crystal
        number, symbol = symmetry(crystal.to_structure()) or (None, None)
        row |= {"spacegroup": number, "spacegroup_symbol": symbol}
    if config.reference is not None and crystals:
        from tasks.discover.own_files import read_crystals

        known = ReferenceSet.from_table(split_by_origin(read_crystals([config.reference])[0])[0])
        names = list(crystals)
        matches = find_known([crystals[name] for name in names], known, tolerances).matches
        named = {name: match.reference_id for name, match in zip(names, matches, strict=True) if match is not None}
        for row in rows:
            row["known_match"] = named.get(row["id"])
    sources = {row["id"]: row for row in rows if row["source_id"] is None}
    for row in rows:
        if row["source_id"] is None or row["id"] not in crystals:
            continue
        source = sources[row["source_id"]]
        row["source_energy_ev_per_atom"] = source.get("energy_ev_per_atom")
        if source["id"] not in crystals:
            row |= {
                "rejected_by": "source",
                "reason": f"{source['id']} itself could not be relaxed: {source['reason']}",
            }
            continue
        change = row["energy_ev_per_atom"] - source["energy_ev_per_atom"]
        row["energy_change_ev_per_atom"] = change
        like = group([crystals[source["id"]], crystals[row["id"]]], tolerances).first_members
        if like[1] == 0:
            row |= {"rejected_by": "source", "reason": f"relaxed into {source['id']} itself ({tolerances})"}
        elif change >= -config.lower_by_ev_per_atom:
            row |= {"rejected_by": "higher", "reason": f"{change:+.4f} eV/atom from {source['id']}"}
    _rank(rows, crystals, tolerances)
    lines = sorted(
        rows, key=lambda r: (r["source_id"] or r["id"], r["source_id"] is not None, r.get("rank") or 10**9, r["id"])
    )
    return pa.table(
        {f.name: pa.array([row.get(f.name) for row in lines], type=f.type) for f in POLYMORPHS},
        schema=pa.schema(POLYMORPHS),
    )


def _rank(rows: list[dict[str, Any]], crystals: dict[str, Crystal], tolerances: Any) -> None:
    """Number the lower polymorphs of each crystal, lowest first; repeats of a lower one are turned away."""
    from generative.screening.matching import group

    alive = [row for row in rows if row["source_id"] is not None and not row["rejected_by"] and row["id"] in crystals]
    for source in sorted({row["source_id"] for row in alive}):
        own = sorted(
            (row for row in alive if row["source_id"] == source),
            key=lambda row: (round(row["energy_ev_per_atom"], 6), row["id"]),
        )
        firsts = group([crystals[row["id"]] for row in own], tolerances).first_members
        kept = itertools.count(1)
        for place, first in enumerate(firsts):
            if first == place:
                own[place]["rank"] = next(kept)
            else:
                own[place] |= {
                    "rejected_by": "duplicate",
                    "reason": f"relaxed into {own[first]['id']} ({tolerances})",
                }


def with_polymorph_phonons(table: pa.Table, config: ModifyConfig, identity: PotentialIdentity) -> pa.Table:
    """The table with the phonons of the `phonons.n_best` lowest polymorphs of every crystal; each computed once."""
    found, run = [], config.as_run()
    for row, crystal in zip(table.to_pylist(), crystals_of(table, "relaxed_"), strict=True):
        if crystal is not None and row["rank"] is not None and row["rank"] <= config.phonons.n_best:
            found += phonon_file(run, config.folder, identity, row["id"], crystal).read().to_pylist()
    return with_phonons(table, found, POLYMORPHS)


def summary_of(table: pa.Table) -> list[dict[str, Any]]:
    """One record per given crystal: how many polymorphs were drawn and are lower, the best of them, or why none."""
    rows = table.to_pylist()
    found = []
    for source in (row for row in rows if row["source_id"] is None):
        own = [row for row in rows if row["source_id"] == source["id"]]
        lower = sorted((row for row in own if row["rank"] is not None), key=lambda row: row["rank"])
        turned: dict[str, int] = {}
        for row in own:
            if row["rejected_by"]:
                turned[row["rejected_by"]] = turned.get(row["rejected_by"], 0) + 1
        found.append(
            {
                "id": source["id"],
                "formula": source["formula"],
                "spacegroup": source["spacegroup_symbol"],
                "energy_ev_per_atom": source["energy_ev_per_atom"],
                "n_drawn": len(own),
                "n_lower": len(lower),
                "turned_away": turned,
                "best": {
                    name: lower[0][name]
                    for name in (
                        "id",
                        "spacegroup_symbol",
                        "energy_change_ev_per_atom",
                        "known_match",
                        "dynamically_stable",
                    )  # fmt: skip
                }
                if lower
                else None,
            }
        )
    return found


def proposals_file(config: ModifyConfig, given: pa.Table) -> FileRef:
    """The table of `propose`, drawn once."""
    from generative.checkpoints import digest

    sweep(config.folder)
    named = zip(given.column("id").to_pylist(), crystals_of(given), strict=True)
    key = key_of(
        "modify-propose",
        proposals_file,
        checkpoint=digest(config.sample.checkpoint),
        crystals=[[name, c.digest] for name, c in named if c],
        asked=asked_of(config),
        sampler=config.sample.model_dump(mode="json", exclude={"checkpoint", "n_candidates"}),
        screen=config.screen.model_dump(mode="json"),
        seed=config.seed,
    )
    return keyed(config.folder / "proposed.parquet", key, lambda: propose(given, config))


def relaxed_file(config: ModifyConfig, proposed: FileRef, identity: PotentialIdentity) -> FileRef:
    """Given crystals and surviving proposals, relaxed once."""
    from tasks.discover.relax import survivors

    key = key_of(
        "modify-relax",
        relaxed_file,
        *potential_code(config.relax),
        proposed=proposed.sha256,
        potential=identity.fingerprint,
        relax=config.relax.model_dump(mode="json", exclude={"potential", "fallback", "chunk_size"}),
    )
    path = config.folder / "relaxed.parquet"
    return keyed(path, key, lambda: relax_table(survivors(proposed.read()), config.as_run()))


def write_modification(config: ModifyConfig, table: pa.Table, identity: PotentialIdentity) -> Path:
    """polymorphs.parquet, the ranked crystals as CIFs, and modification.json with settings and summary."""
    from tasks.files import write_table

    folder = config.folder
    write_table(table, folder / "polymorphs.parquet")
    for old in (folder / "cifs").glob("*.cif"):
        old.unlink()
    for row, crystal in zip(table.to_pylist(), crystals_of(table, "relaxed_"), strict=True):
        if row["rank"] is not None and crystal is not None:
            name = f"{row['rank']:04d}-{row['formula']}-{row['id']}.cif"
            write_text(folder / "cifs" / name, str(crystal.to_structure().to(fmt="cif")))
    document = {
        "schema_version": 1,
        "hullward": project_version(),
        "settings": config.model_dump(mode="json"),
        "potential": identity.model_dump(mode="json"),
        "crystals": summary_of(table),
    }
    path = folder / "modification.json"
    write_text(path, json.dumps(document, indent=2, sort_keys=True, allow_nan=False, default=_plain) + "\n")
    return path


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


@task(name="propose")
def propose_task(config: ModifyConfig) -> FileRef:
    """Read the crystals and draw polymorphs of them; see propose."""
    logger = get_run_logger()
    given, refused = given_crystals(config)
    for sentence in refused[:5]:
        logger.warning("left out: %s", sentence)
    ref = proposals_file(config, given)
    table = ref.read()
    n = sum(reason is None for reason in table.column("rejected_by").to_pylist()) - len(given)
    state = ", unchanged, skipped" if ref.reused else ""
    logger.info("%d crystals, %d polymorphs to relax%s", len(given), n, state)
    return ref


@task(name="relax", task_run_name="relax-polymorphs")
def relax_polymorphs_task(config: ModifyConfig, proposed: FileRef) -> FileRef:
    """Relax given crystals and polymorphs with one potential; see relaxed_file."""
    identity = identify(config.relax, config.execution)
    get_run_logger().info("energies by %s", identity.method)
    return relaxed_file(config, proposed, identity)


@task(name="rank")
def rank_task(config: ModifyConfig, proposed: FileRef, relaxed: FileRef) -> Path:
    """Compare, rank, write; see judge_polymorphs, with_polymorph_phonons and write_modification."""
    identity = identify(config.relax, config.execution)
    table = with_polymorph_phonons(judge_polymorphs(proposed.read(), relaxed.read(), config), config, identity)
    path = write_modification(config, table, identity)
    for entry in summary_of(table):
        best = entry["best"]
        said = (
            f"the lowest is {best['energy_change_ev_per_atom']:+.4f} eV/atom, {best['spacegroup_symbol']}"
            if best
            else "none is lower"
        )
        get_run_logger().info("%s: %d polymorphs drawn, %s", entry["id"], entry["n_drawn"], said)
    return path
