"""The command that brings known crystals, from files and from databases on the network, into one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.completion import presets
from flows.cli.console import SOURCES, answer, guarded, labelled_bar, say, show_table
from flows.cli.plan import shown
from flows.cli.shared_options import AsJson, Debug, DryRun, Elements, Potential, set_option

if TYPE_CHECKING:
    from configs.ingest import IngestConfig
    from generative.datasets.manifest import Manifest

READ = {**SOURCES, "n_merged": "merged"}
RELEASE = {"release": "release"}
"""Columns of the tables on the terminal, with their headings."""


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(ingest)


@guarded
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            autocompletion=presets("ingest"),
            metavar="SOURCE...",
            help="Files, folders, 'prototypes', 'materials-project', 'aflow', 'optimade:alexandria'; or one settings "
            "file (.yaml), or the name of one shipped.",
        ),
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Folder of the dataset. Without: runs/datasets/NAME.")
    ] = None,
    elements: Elements = None,
    formula: Annotated[
        list[str] | None, typer.Option(help="Only this reduced formula, such as TiO2; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Most records of each source.")] = None,
    where: Annotated[str | None, typer.Option(metavar="TEXT", help="Request in the database's own language.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of the database, if not its own.")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask databases again; fetch what has changed.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Keep a crystal that several sources hold once.")] = False,
    dry_run: DryRun = False,
    method: Annotated[
        str | None, typer.Option(help="Level of theory of the energies in files; without: unknown.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset.")] = None,
    potential: Potential = None,
    settings: Annotated[list[str] | None, set_option("data.workers=4")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Known crystals from files and databases into one checked table; interrupted, the same command goes on."""
    from configs.command_line import IngestRequest, elements_of, ingest_settings

    asked = IngestRequest(
        elements=elements_of(elements),
        method=method,
        potential=potential,
        limit=limit,
        where=where,
        endpoint=endpoint,
        formulas=tuple(formula or ()),
        refresh=refresh,
        merge=merge,
        name=name,
        out=out,
    )
    config = ingest_settings(sources, asked, settings)
    if dry_run:
        from tasks.plans.known_crystals import plan_ingest

        planned = shown(lambda: plan_ingest(config), as_json)
        if any(source["trouble"] for source in planned.details["sources"]):
            raise typer.Exit(1)
        return
    with answer(as_json) as give:
        give(read := _read(config, as_json))
        if not read["n_rows"]:
            say(_why_empty(read["sources"]))
            raise typer.Exit(1)


def _read(config: IngestConfig, as_json: bool) -> dict[str, Any]:
    """The dataset's manifest; shown as a table unless it is wanted as JSON."""
    from tasks.ingest.stages import ingest_dataset, report_dataset

    with labelled_bar("reading", as_json, "records", remaining=True) as progress:
        manifest = ingest_dataset(config, progress)
    report = report_dataset(config.folder)
    for source in manifest.sources:
        for warning in source.warnings:
            say(f"{source.source}: {warning}")
    if not as_json:
        _show(manifest)
        typer.echo(f"\n{manifest.n_rows} crystals in {config.folder / 'dataset.parquet'}\nreport {report}")
    return manifest.model_dump(mode="json")


def _why_empty(sources: Sequence[Mapping[str, Any]]) -> str:
    """The sentence on a dataset without crystals."""
    read, outside, bad = (
        sum(source[name] or 0 for source in sources) for name in ("n_read", "n_filtered", "n_rejected")
    )
    said = f"hullward: no crystal was kept of {read:,} records read"
    if not read:
        return f"{said}: nothing in these sources answers what was asked; check their names, --elements and --formula"
    return (
        f"{said}: {outside:,} outside the chemical system or the filters, {bad:,} that are no crystals; see the report"
    )


def _show(manifest: Manifest) -> None:
    """Counts per source as a table, and what a refresh has brought."""
    # A digest says nothing to a reader; the manifest has it.
    releases = [(s.database_version or "").split(", sha256:")[0] if s.harvest else None for s in manifest.sources]
    rows = [{**vars(s), "release": release} for s, release in zip(manifest.sources, releases, strict=True)]
    show_table(rows, READ | RELEASE if any(releases) else READ)
    for source in manifest.sources:
        harvest = source.harvest
        if harvest is not None and harvest.n_added is not None:
            changes = f"{harvest.n_added} added, {harvest.n_changed} changed, {harvest.n_removed} removed"
            typer.echo(f"{source.source}: {changes} since the last download")
