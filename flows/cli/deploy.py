"""The command that registers the deployments."""

from __future__ import annotations

import typer

from flows.cli.console import answer, guarded
from flows.cli.shared_options import AsJson, Debug


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(deploy)


@guarded
def deploy(as_json: AsJson = False, debug: Debug = False) -> None:
    """Register the deployments of prefect.yaml, and their work pool, on the running Prefect server."""
    from flows.servers.deployments import deploy_all

    with answer(as_json) as give:
        names = deploy_all()
        if not as_json:
            typer.echo("\n".join(names))
        give({"deployments": names})
