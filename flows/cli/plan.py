"""`hullward plan`, and what `--dry-run` of other commands shows: what would be done, in what time; nothing is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.console import answer, guarded, progress_bar
from flows.cli.shared_options import AsJson, Debug, set_option

if TYPE_CHECKING:
    from configs.kinds import Plannable
    from tasks.plans.record import Plan


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(plan)


@guarded
def plan(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="SYSTEM|SETTINGS...",
            help="Chemical systems, such as Nb-Mo-B; YAML files, or settings shipped: of a run, a campaign, a "
            "training, an ingest, a reproduction.",
        ),
    ],
    settings: Annotated[list[str] | None, set_option("sample.n_candidates=32")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What a command would ask for, find here, use, take and write; nothing is computed or written."""
    from configs.kinds import settings_named

    parsed = [settings_named(one, settings or ()) for one in what]
    with answer(as_json) as give:
        from tasks.plans.choice import plan_of

        with progress_bar("looking at what is here", as_json):
            plans = [plan_of(config) for config in parsed]
        told = [_told(one, as_json) for one in plans]
        give(told[0] if len(told) == 1 else told)


def plan_instead(config: Plannable, as_json: bool) -> None:
    """Show what a command would do, in the place of doing it."""
    from tasks.plans.choice import plan_of

    shown(lambda: plan_of(config), as_json)


def shown(planned: Callable[[], Plan], as_json: bool) -> Plan:
    """Make a plan and show it."""
    with answer(as_json) as give:
        with progress_bar("looking at what is here", as_json):
            found = planned()
        give(_told(found, as_json))
    return found


def _told(plan: Plan, as_json: bool) -> dict[str, Any]:
    if not as_json:
        typer.echo(f"{plan}\n")
    return plan.as_dict()
