"""`hullward campaign`: many chemical systems under one budget; how one stands, its page, its crystals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.completion import presets
from flows.cli.console import answer, begin, guarded, progress_bar, show_table
from flows.cli.plan import plan_instead
from flows.cli.shared_options import AsJson, Debug, DryRun, set_option

if TYPE_CHECKING:
    from tasks.campaign.results import Results

SHOWN = 20
"""Systems and finds on the terminal; the page and JSON hold all."""

Folder = Annotated[
    str, typer.Argument(metavar="CAMPAIGN", help="Name of a campaign, or its folder, such as runs/campaigns/small.")
]

group = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Many chemical systems, one budget of relaxations: run, status, report, export.",
)


def register(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.add_typer(group, name="campaign")


@group.command()
@guarded
def run(
    config: Annotated[
        str,
        typer.Argument(
            autocompletion=presets("campaign"),
            help="YAML file, campaign-small (minutes) or campaign-borides (an hour or so).",
        ),
    ] = "campaign-small",
    settings: Annotated[list[str] | None, set_option("budget.relaxations=240")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the campaign and of its folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look for new crystals in many systems; each round's relaxations go where the rounds before found most."""
    from configs.campaign import CampaignConfig
    from configs.overrides import override
    from configs.schema import parse, read_yaml
    from flows.cli.console import hush_engine
    from flows.cli.prefect_client import prefect_client

    file, stated = read_yaml(config)
    given = {key: value for key, value in (("name", name), ("seed", seed)) if value is not None}
    parsed = parse(CampaignConfig, override({**stated, **given}, settings or [], CampaignConfig), str(file))
    if dry_run:
        plan_instead(parsed, as_json)
        return
    begin(f"{parsed.budget.relaxations} relaxations into {parsed.folder}")
    with answer(as_json) as give, prefect_client() as client:
        from flows.campaign import campaign as flow

        if not debug:
            hush_engine()
        give(_shown(client.run(flow, parsed), as_json))


@group.command()
@guarded
def status(campaign: Folder, as_json: AsJson = False, debug: Debug = False) -> None:
    """How a campaign stands after its last round: yields, finds, where to look first."""
    with answer(as_json) as give:
        give(_shown(_folder(campaign), as_json))


@group.command()
@guarded
def report(campaign: Folder, as_json: AsJson = False, debug: Debug = False) -> None:
    """Render a campaign's page again from its files; nothing is computed."""
    with answer(as_json) as give:
        from tasks.campaign.results import write_page

        page = write_page(_folder(campaign))
        if not as_json:
            typer.echo(str(page))
        give({"report": str(page)})


@group.command()
@guarded
def export(
    campaign: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="File that appears; one that is there is replaced.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Also candidates that were turned away, with the reason.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Candidates of all systems of a campaign that has ended, as OPTIMADE JSON lines."""
    with answer(as_json) as give:
        from tasks.optimade.export import export as write

        with progress_bar("structures", as_json) as bar:
            exported = write(_folder(campaign), out, everything, bar)
        if not as_json:
            left = f"; {exported.n_left_out} turned away are left out" if exported.n_left_out else ""
            typer.echo(f"{exported.n_structures} structures of {exported.origin.title} in {out}{left}")
        give({"file": str(out), "n_structures": exported.n_structures, "n_left_out": exported.n_left_out})


def _folder(campaign: str) -> Path:
    """The folder that is meant: a campaign of this name below runs/, or the folder itself."""
    named = Path("runs") / "campaigns" / campaign
    return named if named.is_dir() else Path(campaign)


def _shown(folder: Path, as_json: bool) -> dict[str, Any]:
    """How a campaign stands; shown as tables unless it is wanted as JSON."""
    from tasks.campaign.results import PAGE, read_results

    results = read_results(folder)
    if not as_json:
        _tables(results)
        typer.echo(f"\nreport  {folder / PAGE}")
    return {"folder": str(folder), **results.as_dict()}


def _tables(results: Results) -> None:
    from tasks.report.campaign.page import SYSTEMS_HEAD, finds_head, finds_lowest_first, lead_of, system_row

    typer.echo("\n".join(lead_of(results)) + "\n")
    shown = (
        "system",
        "relaxations",
        "finds",
        "yield, %",
        "relaxations per find",
        "on the hull",
        "lowest find",
        "eV/atom",
    )
    rows = [dict(zip(SYSTEMS_HEAD, system_row(place), strict=True)) for place in results.places]
    show_table(rows[:SHOWN], {name: name for name in shown}, _first(rows, "systems"))
    head = finds_head(results)
    columns = ("formula", "space group", "system", "proposer", "round", "above hull when found, eV/atom", "rank")
    if finds := [dict(zip(head, row, strict=True)) for row in finds_lowest_first(results)]:
        typer.echo("")
        show_table(finds[:SHOWN], {name: name for name in columns}, _first(finds, "finds"))


def _first(rows: list[dict[str, Any]], what: str) -> str:
    return f"the first {SHOWN} of {len(rows)} {what}" if len(rows) > SHOWN else ""
