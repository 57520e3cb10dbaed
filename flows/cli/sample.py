"""The command that draws crystals without a run."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.console import answer, begin, guarded, progress_bar, show_table
from flows.cli.plan import shown
from flows.cli.results import SHOWN
from flows.cli.shared_options import AsJson, Debug, DryRun, Elements, Out, set_option
from storage.wording import amount


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(sample)


@guarded
def sample(
    out: Out,
    formula: Annotated[list[str] | None, typer.Option(help="Reduced formula, such as TaBW; may be repeated.")] = None,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            help="Inequivalent sites of each element in the space group, such as TaWB2 for one of Ta, one of W and two "
            "of B; may be repeated."
        ),
    ] = None,
    elements: Elements = None,
    n: Annotated[int, typer.Option("--number", "-n", min=1, help="Crystals to draw.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="Checkpoint folder; without: the one shipped. Repeated: each draws an equal share."),
    ] = None,
    spacegroup: Annotated[int | None, typer.Option(help="International space-group number to ask for.")] = None,
    energy: Annotated[
        float | None, typer.Option(metavar="EV_PER_ATOM", help="Formation energy to ask for, eV/atom, such as -0.5.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="Further number to ask for, of a column that the generator was trained on, such as band_gap_ev=1.5; "
            "may be repeated.",
        ),
    ] = None,
    settings: Annotated[list[str] | None, set_option("sample.sampler.temperature=0.8")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw crystals from the generator, for formulas, for sites of a space group or for a chemical system."""
    from configs.command_line import draw_settings, elements_of, sample_changes

    asked = sample_changes(formula or [], elements_of(elements) or [], spacegroup, energy, sites or [], target or [])
    config = draw_settings(asked, n, seed, checkpoint or [], settings)
    if dry_run:
        from tasks.plans.crystals import plan_draw

        shown(lambda: plan_draw(config, out), as_json)
        return
    begin(f"{amount(n, 'crystal')} into {out}", as_json)
    with answer(as_json) as give:
        from tasks.discover.own_files import plain_rows, sample_crystals, write_crystals

        with progress_bar("integration steps", as_json) as bar:
            table = sample_crystals(config, bar)
        written = write_crystals(table, out)
        if not as_json:
            show_table(plain_rows(table)[:SHOWN], {"id": "id", "formula": "formula", "n_atoms": "atoms"})
            typer.echo(f"\n{amount(len(table), 'crystal')} in {out}")
        give({"files": [str(path) for path in written], "crystals": plain_rows(table)})
