"""The commands that bring known crystals into one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.console import SOURCES, answer, guarded, progress_bar, show_table
from flows.options import AsJson, Debug, Elements, Potential, Settings


def register(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.command()(ingest)


@guarded
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Files, folders, 'prototypes', or one settings file (.yaml)."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the dataset.")],
    elements: Elements = None,
    method: Annotated[str, typer.Option(help="Level of theory of the energies in the files.")] = "unknown",
    potential: Potential = None,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Known crystals from files into one checked table with a manifest; bad records into a quarantine."""
    from configs.options import elements_of, ingest_settings

    config, system = ingest_settings(sources, elements_of(elements), method, potential, settings)
    with answer(as_json) as give, progress_bar("records", as_json) as bar:
        from tasks.own_files import ingest_sources

        manifest = ingest_sources(config, system, out, lambda _, n: bar(n, n))
        if not as_json:
            show_table([vars(source) for source in manifest.sources], SOURCES)
            typer.echo(f"\n{manifest.n_rows} crystals in {out / 'dataset.parquet'}")
        give(manifest.model_dump(mode="json"))
