"""The command that makes the tables of a paper again with our systems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flows.cli.completion import presets
from flows.cli.console import answer, begin, guarded, show_table
from flows.cli.plan import plan_instead
from flows.cli.shared_options import AsJson, Debug, DryRun, set_option

if TYPE_CHECKING:
    from configs.reproduction import AnyReproduction

SHOWN = {"text": "the paper says", "dataset": "data", "numbers": "our numbers", "verdict": "here", "remark": "remark"}
"""Columns of the table on the terminal, with their headings."""


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(reproduce)


@guarded
def reproduce(
    config: Annotated[
        str,
        typer.Argument(
            autocompletion=presets("reproduce"),
            help="YAML file, or reproduce-dp-cdvae, -unet, -adaptive-cell, -condition-cdvae or -condition-cdvae-real.",
        ),
    ] = "reproduce-dp-cdvae",
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Official splits: perov_5/, carbon_24/, mp_20/, each with its three CSVs."),
    ] = None,
    systems: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these systems, such as cdvae,dp-cdvae.")
    ] = None,
    datasets: Annotated[str | None, typer.Option(metavar="A,B", help="Only these data sets, such as perov-5.")] = None,
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Only these of train, regressor, ceiling, reconstruct, generate, ground-state (dp-cdvae), train, "
            "generate, modify (unet), train, generate, known, compounds (adaptive-cell), train, judge, ceiling, "
            "reconstruct, generate, relax, energies, formulas, labels, properties, readings, latents "
            "(condition-cdvae); none: tables alone.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the folder of results.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of training and of every draw.")] = None,
    docs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put the tables between the marks of this Markdown file too.")
    ] = None,
    settings: Annotated[list[str] | None, set_option("sample.chunk_size=64")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train, draw, judge: a paper's tables (DP-CDVAE, AIRI, adaptive cells, ConditionCDVAE+) beside ours, by claims."""
    from configs.overrides import override
    from configs.reproduction import AnyReproduction, model_of, with_choice, with_official_files
    from configs.schema import parse, read_yaml
    from flows.cli.console import hush_engine
    from flows.cli.prefect_client import prefect_client

    file, stated = read_yaml(config)
    given = {key: value for key, value in (("name", name), ("seed", seed)) if value is not None}
    stated = {**stated, **given}
    if data is not None:
        stated = with_official_files(stated, data)
    stated = with_choice(stated, _names(systems), _names(datasets), _names(stages))
    stated = override(stated, settings or [], *get_args(AnyReproduction))
    parsed = parse(model_of(stated), stated, str(file))
    if dry_run:
        plan_instead(parsed, as_json)
        return
    begin(f"the tables of {parsed.paper} into {parsed.folder}")
    with answer(as_json) as give, prefect_client() as client:
        from flows.reproduce import reproduce as flow

        if not debug:
            hush_engine()
        client.run(flow, parsed, None if docs is None else str(docs))
        give(_summary(parsed, as_json))


def _names(text: str | None) -> list[str] | None:
    """The names in 'a,b'; 'none' names nothing."""
    if text is None:
        return None
    return [] if text == "none" else [part.strip() for part in text.split(",") if part.strip()]


def _summary(config: AnyReproduction, as_json: bool) -> dict[str, Any]:
    """What was found; shown as a table unless it is wanted as JSON."""
    import json

    found: dict[str, Any] = json.loads((config.folder / "reproduction.json").read_text(encoding="utf-8"))
    if not as_json:
        claims = [claim for claim in found["claims"] if claim["verdict"] != "not measured"]
        if claims:
            show_table(claims, SHOWN)
        typer.echo(f"\n{len(claims)} of {len(found['claims'])} claims of the paper could be put to figures")
        typer.echo(f"{len(found['results'])} results, {len(found['missing'])} missing")
        typer.echo(f"tables  {config.folder / 'reproduction.html'}\nfigures {config.folder / 'reproduction.json'}")
    return {"folder": str(config.folder), **found}
