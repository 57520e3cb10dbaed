"""The command of a whole discovery run."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.completion import presets
from flows.cli.console import answer, begin, guarded
from flows.cli.plan import plan_instead
from flows.cli.results import run_summary
from flows.cli.shared_options import AsJson, Debug, DryRun, Elements, set_option


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(discover)


@guarded
def discover(
    config: Annotated[
        str | None,
        typer.Argument(
            autocompletion=presets(),
            metavar="[SETTINGS]",
            help="A chemical system, such as Nb-Mo-B; a YAML file; or quickstart, ternary, binary, perovskite, ta-w-b.",
        ),
    ] = None,
    settings: Annotated[list[str] | None, set_option("sample.n_candidates=32")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run and of its folder; without, another system has its own.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    elements: Elements = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """A whole run: known crystals, candidates, screening, relaxation, hull, VASP inputs, report."""
    from configs.command_line import elements_of, run_settings
    from flows.cli.console import hush_engine
    from flows.cli.prefect_client import prefect_client

    chosen = elements_of(elements)
    what = config or ("-".join(chosen) if chosen else "quickstart")
    parsed = run_settings(what, {"name": name, "seed": seed, "elements": chosen}, settings)
    if dry_run:
        plan_instead(parsed, as_json)
        return
    system, n = "-".join(parsed.elements), parsed.sample.n_candidates
    begin(f"{n} candidates of {system} into {parsed.execution.runs_folder}/{parsed.name}")
    with answer(as_json) as give, prefect_client() as client:
        from flows.discover import discover as flow

        if not debug:
            hush_engine()
        give(run_summary(client.run(flow, parsed), as_json))
