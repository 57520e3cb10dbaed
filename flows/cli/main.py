"""The command line: every command is the code of the task of the same name; heavy imports wait for their command.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 the work failed, 2 wrong usage
or settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import baseline as baseline_commands
from flows.cli import dft as dft_commands
from flows.cli import evaluate as evaluate_commands
from flows.cli import ingest as ingest_commands
from flows.cli import modify as modify_commands
from flows.cli import optimade as optimade_commands
from flows.cli import reproduce as reproduce_commands
from flows.cli.console import (
    PLACED,
    RELAXED,
    SCREENED,
    answer,
    guarded,
    progress_bar,
    say,
    show_table,
    with_reasons,
)
from flows.cli.results import SHOWN, finish, run_summary
from flows.cli.shared_options import AsJson, Crystals, Debug, Elements, Out, OutTable, Potential, Reference, Settings

if TYPE_CHECKING:
    from configs.schema import DiscoverConfig
    from tasks.discover.own_files import ReadFiles

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A chemical system goes in, ranked new crystals with VASP inputs come out.",
)


def _version(show: bool) -> None:
    if show:
        from configs.paths import project_version

        typer.echo(f"hullward {project_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def _read(paths: list[str]) -> ReadFiles:
    from tasks.discover.own_files import read_files

    read = read_files(paths)
    if read.refused:
        name, reason = read.refused[0]
        say(f"{len(read.refused)} records could not be read, the first: {name.partition(':')[2]}: {reason}")
    if read.not_read:
        say(f"{len(read.not_read)} files of a folder were not read, the first: {read.not_read[0]}")
    return read


def _say_potential(config: DiscoverConfig) -> None:
    from tasks.loading import identify

    identity = identify(config.relax, config.execution)
    say(f"energies by {identity.method}, a machine-learned potential: screening energies, not DFT")


@app.command()
@guarded
def discover(
    config: Annotated[
        str, typer.Argument(help="YAML file, or quickstart, ternary, binary, perovskite, ta-w-b.")
    ] = "quickstart",
    settings: Settings = None,
    name: Annotated[str | None, typer.Option(help="Name of the run and of its folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    elements: Elements = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """A whole run: known crystals, candidates, screening, relaxation, hull, VASP inputs, report."""
    from configs.options import elements_of, run_settings
    from flows.cli.console import hush_engine
    from flows.cli.prefect_client import prefect_client

    parsed = run_settings(config, {"name": name, "seed": seed, "elements": elements_of(elements)}, settings)
    with answer(as_json) as give, prefect_client() as client:
        from flows.discover import discover as flow

        if not debug:
            hush_engine()
        give(run_summary(client.run(flow, parsed), as_json))


ingest_commands.register(app)
modify_commands.register(app)


@app.command()
@guarded
def train(
    config: Annotated[str, typer.Argument(help="YAML file of a training, or train-flow.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Working folder; the checkpoint appears in it.")],
    settings: Settings = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted training stopped.")] = True,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a generator; interrupted, the same command goes on."""
    import os

    from configs.overrides import override
    from configs.schema import read_yaml
    from configs.training import parse_training

    file, read = read_yaml(config)
    parsed = parse_training(override(read, settings or []), str(file))
    if as_json:
        os.environ["HULLWARD_PROGRESS"] = "0"
    with answer(as_json) as give:
        from tasks.train.training import train as run

        checkpoint = run(parsed, out, resume=resume)
        if not as_json:
            typer.echo(f"checkpoint {checkpoint}")
        give({"checkpoint": str(checkpoint)})


@app.command()
@guarded
def sample(
    out: Out,
    formula: Annotated[list[str] | None, typer.Option(help="Reduced formula, such as TaBW; may be repeated.")] = None,
    elements: Elements = None,
    n: Annotated[int, typer.Option("--number", "-n", min=1, help="Crystals to draw.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    checkpoint: Annotated[str | None, typer.Option(help="Checkpoint folder; without: the one shipped.")] = None,
    spacegroup: Annotated[int | None, typer.Option(help="International space-group number to ask for.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw crystals from the generator, for formulas or for a chemical system."""
    from configs.options import elements_of, sample_changes, settings_of

    asked = sample_changes(formula or [], elements_of(elements) or [], spacegroup)
    given = {"sample.n_candidates": n, "sample.chunk_size": min(n, 64), "sample.checkpoint": checkpoint, "seed": seed}
    config = settings_of({**asked, **given}, settings)
    with answer(as_json) as give:
        from tasks.discover.own_files import plain_rows, sample_crystals, write_crystals

        with progress_bar("integration steps", as_json) as bar:
            table = sample_crystals(config, bar)
        written = write_crystals(table, out)
        if not as_json:
            show_table(plain_rows(table)[:SHOWN], {"id": "id", "formula": "formula", "n_atoms": "atoms"})
            typer.echo(f"\n{len(table)} crystals in {out}")
        give({"files": [str(path) for path in written], "crystals": plain_rows(table)})


@app.command()
@guarded
def screen(
    files: Crystals,
    reference: Reference,
    out: OutTable = None,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Which crystals are valid, not among the known ones, and not repeats of each other."""
    from configs.options import settings_of

    config = settings_of({}, settings)
    with answer(as_json) as give:
        from tasks.discover.own_files import screen_crystals

        read = _read(files)
        table = screen_crystals(read.table, _read([reference]).table, config, read.refused)
        alive = table.column("rejected_by").null_count
        finish(table, out, SCREENED, as_json, give)
        if not as_json:
            typer.echo(f"{alive} of {len(table)} crystals are valid, novel and unique")


@app.command()
@guarded
def relax(
    files: Crystals,
    out: Out,
    potential: Potential = None,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Relax cell and positions of crystals with a machine-learned potential."""
    from configs.options import potential_changes, settings_of

    config = settings_of(potential_changes(potential), settings)
    with answer(as_json) as give:
        from tasks.discover.own_files import plain_rows, relax_crystals, with_refused, write_crystals

        read = _read(files)
        _say_potential(config)
        with progress_bar("relaxed", as_json) as bar:
            relaxed = relax_crystals(read.table, config, bar)
        relaxed = with_refused(relaxed, read.refused, "relax_reason", relax_status="failed")
        write_crystals(relaxed, out, "relaxed_")
        rows = plain_rows(relaxed)
        finish(relaxed, None, with_reasons(rows[:SHOWN], RELAXED), as_json, give)
        say(f"written to {out}", as_json)
        if not any(row["relax_status"] == "converged" for row in rows):
            say("hullward: no relaxation converged; the table says why for each crystal")
            raise typer.Exit(1)


@app.command()
@guarded
def hull(
    files: Crystals,
    reference: Reference,
    potential: Potential = None,
    out: OutTable = None,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Energy of crystals above the hull of known phases, all relaxed with one potential."""
    from configs.options import potential_changes, settings_of

    config = settings_of(potential_changes(potential), settings)
    with answer(as_json) as give:
        from generative.datasets.origins import origin_counts
        from tasks.discover.known import cut_of
        from tasks.discover.own_files import place_on_hull, with_refused

        read, known = _read(files), _read([reference]).table
        say(f"phases to compete with: {origin_counts(known)}")
        _say_potential(config)
        with progress_bar("relaxed", as_json) as bar:
            placed = place_on_hull(read.table, known, config, bar)
        cut = cut_of(placed)
        placed = with_refused(placed, read.refused, "hull_note")
        finish(placed, out, PLACED, as_json, give, competing_phases=None if cut is None else cut.as_dict())
        if cut is not None and cut.note:
            say(cut.note)


@app.command()
@guarded
def inputs(
    files: Crystals,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="One folder per crystal appears in it.")],
    preset: Annotated[
        str, typer.Option(help="mp-relax, conditional-generation, dp-cdvae, dp-cdvae-10gpa or vdw.")
    ] = "conditional-generation",
    n: Annotated[int, typer.Option("--number", "-n", min=1, help="Most crystals, from the top of the file.")] = 100,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """VASP inputs of crystals, ready to submit, each with the jobflow Flow beside it."""
    from configs.options import settings_of

    config = settings_of({"inputs.preset": preset, "inputs.top_n": n}, settings)
    with answer(as_json) as give:
        from tasks.discover.input_notes import shared_notes
        from tasks.discover.own_files import write_inputs_of

        read = _read(files)
        outcomes = write_inputs_of(read.table, files, out, config)
        none: dict[str, Any] = {"formula": None, "folder": None, "notes": []}
        outcomes += [{"id": name, **none, "reason": reason} for name, reason in read.refused]
        if not as_json:
            show_table(outcomes, {"id": "id", "formula": "formula", "folder": "folder", "reason": "reason"})
            for note in shared_notes({outcome["id"]: outcome["notes"] for outcome in outcomes}):
                say(note)
        give({"inputs": outcomes})
        if not any(outcome["folder"] for outcome in outcomes):
            say("hullward: no inputs could be written; the table says why for each crystal")
            raise typer.Exit(1)


evaluate_commands.register(app)
baseline_commands.register(app)
reproduce_commands.register(app)
optimade_commands.register(app)
dft_commands.register(app)


@app.command()
@guarded
def report(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a run, such as runs/quickstart.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Render a run's report again from the run's files."""
    with answer(as_json) as give:
        from tasks.discover.report import render_again

        page = render_again(run_folder)
        if not as_json:
            typer.echo(str(page))
        give({"report": str(page)})


@app.command()
@guarded
def deploy(as_json: AsJson = False, debug: Debug = False) -> None:
    """Register the deployments of prefect.yaml, and their work pool, on the running Prefect server."""
    from flows.servers.deployments import deploy_all

    with answer(as_json) as give:
        names = deploy_all()
        if not as_json:
            typer.echo("\n".join(names))
        give({"deployments": names})


if __name__ == "__main__":
    app()
