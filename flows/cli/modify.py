"""The command that looks for polymorphs of lower energy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.console import answer, begin, guarded, hush_engine, say, show_table, with_groups, with_phonons
from flows.cli.plan import plan_instead
from flows.cli.results import in_groups
from flows.cli.shared_options import AsJson, Crystals, Debug, DryRun, Potential, set_option

SHOWN = {
    "source_id": "crystal",
    "rank": "rank",
    "id": "polymorph",
    "spacegroup_symbol": "space group",
    "energy_change_ev_per_atom": "change, eV/atom",
    "known_match": "known as",
}
"""Columns of the table on the terminal, with their headings."""

MOST_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(modify)


@guarded
def modify(
    files: Crystals,
    n: Annotated[int | None, typer.Option("--number", "-n", min=1, help="Polymorphs drawn for each crystal.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A modifier, or any generator; without: the generator shipped.")
    ] = None,
    above_hull: Annotated[
        float | None,
        typer.Option(metavar="EV", help="Only crystals whose source states so much energy above hull, eV/atom."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many of the crystals at most, at random.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="FILE", help="Known crystals, to name what is one.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the folder of results.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    potential: Potential = None,
    settings: Annotated[list[str] | None, set_option("relax.fmax_ev_per_ang=0.02")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Polymorphs of lower energy than your crystals, relaxed and ranked, or the answer that none was found."""
    from configs.command_line import ORIGIN, potential_changes
    from configs.modification import ModifyConfig
    from configs.overrides import override
    from configs.schema import parse
    from flows.cli.prefect_client import prefect_client

    stated: dict[str, Any] = {"crystals": list(files), **potential_changes(potential)}
    given = {
        "n_candidates": n, "above_hull_min_ev_per_atom": above_hull, "limit": limit, "reference": reference,
        "name": name, "seed": seed,
    }  # fmt: skip
    stated |= {key: value for key, value in given.items() if value is not None}
    if checkpoint is not None:
        stated["sample"] = {"checkpoint": checkpoint}
    config = parse(ModifyConfig, override(stated, settings or [], ModifyConfig), ORIGIN)
    if dry_run:
        plan_instead(config, as_json)
        return
    begin(f"{config.n_candidates} polymorphs of each crystal into {config.folder}")
    with answer(as_json) as give, prefect_client() as client:
        from flows.modify import modify as flow

        if not debug:
            hush_engine()
        folder = Path(client.run(flow, config))
        found = json.loads((folder / "modification.json").read_text(encoding="utf-8"))
        rows = _ranked(folder)
        if not as_json:
            _show(found, rows, folder)
        give({"folder": str(folder), **found, "polymorphs": rows})


def _ranked(folder: Path) -> list[dict[str, Any]]:
    """The lower polymorphs, fit for JSON."""
    from storage.tables import read_table
    from tasks.discover.own_files import plain_rows
    from tasks.files import AGAIN

    return [row for row in plain_rows(read_table(folder / "candidates.parquet", AGAIN)) if row["rank"] is not None]


def _show(found: dict[str, Any], rows: list[dict[str, Any]], folder: Path) -> None:
    """The lower polymorphs as a table, the crystals without any, and where everything lies."""
    say(f"energies by {found['potential']['method']}, a machine-learned potential: screening energies, not DFT")
    if rows:
        shown = in_groups(rows[:MOST_SHOWN])
        show_table(shown, with_phonons(rows, with_groups(shown, SHOWN)))
    for entry in found["crystals"]:
        if entry["best"] is None:
            away = ", ".join(f"{count} {kind}" for kind, count in sorted(entry["turned_away"].items()))
            typer.echo(f"{entry['id']} ({entry['formula']}): none of {entry['n_drawn']} polymorphs is lower ({away})")
    typer.echo(f"\n{len(rows)} lower polymorphs in {folder}")
