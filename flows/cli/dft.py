"""`hullward dft`: DFT jobs submitted, looked at, collected, retried, cancelled; their documents in and out as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.console import answer, begin, guarded, say, show_table
from flows.cli.plan import shown
from flows.cli.shared_options import AsJson, Debug, DryRun, set_option
from storage.wording import amount
from tasks.dft.columns import JOB_HEADINGS

if TYPE_CHECKING:
    from dft.campaign.analysis import AnalysisSummary
    from dft.campaign.campaign import Campaign, PlannedCampaign
    from tasks.dft.campaign import Progress

HULL = {
    "id": "id",
    "formula": "formula",
    "role": "role",
    "e_above_hull_ev_per_atom": "above hull eV/atom",
    "formation_energy_ev_per_atom": "formation eV/atom",
    "corrected_ev_per_atom": "corrected eV/atom",
    "correction_ev_per_atom": "correction eV/atom",
    "oxidation_states": "oxidation states",
    "decomposition": "decomposes into",
    "why": "note",
}
"""Columns of the corrected hull on the terminal; its file has more."""
KEY_SHOWN = 10
"""Characters of a key on the terminal: enough to name the job by."""

Folder = Annotated[Path, typer.Argument(metavar="CAMPAIGN", help="Folder of a run or of `hullward dft submit`.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="JOB...", help="Key or its beginning, candidate id, formula. None: all.")
]
JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="File of job documents, .jsonl or .jsonl.gz.")]

group = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="DFT jobs: submit, status, collect, retry, cancel; export, import.",
)


def register(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.add_typer(group, name="dft")


@group.command()
@guarded
def submit(
    origin: Annotated[
        list[str], typer.Argument(metavar="RUN|FILE...", help="Folder of a finished run, or crystals from files.")
    ],
    config: Annotated[
        str | None, typer.Option(help="YAML file of a run, for its dft and store; without: the run's, or the defaults.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of a campaign of files; it appears.")
    ] = None,
    settings: Annotated[list[str] | None, set_option("dft.top_n=2")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make job folders and submit them: the best candidates and near phases of a run, or crystals from files."""
    if dry_run:
        from tasks.plans.dft_jobs import plan_submission

        shown(lambda: plan_submission(_wanted(origin, config, out, settings)), as_json)
        return
    begin(f"DFT jobs of {', '.join(origin)}", as_json)
    from tasks.dft.campaign import advance

    with answer(as_json) as give:
        _show(advance(_wanted(origin, config, out, settings).write()), as_json, give)


def _wanted(origin: list[str], config: str | None, out: Path | None, settings: list[str] | None) -> PlannedCampaign:
    """The campaign that `submit` is asked for."""
    from configs.command_line import run_settings, settings_of
    from tasks.dft.campaign import campaign_of_crystals, campaign_of_run

    if len(origin) == 1 and (Path(origin[0]) / "manifest.json").is_file():
        from tasks.discover.run import RunFolder, read_manifest

        stated = read_manifest(RunFolder(Path(origin[0])))["settings"]
        return campaign_of_run(Path(origin[0]), _merged(stated, config, settings).dft)
    from tasks.discover.own_files import read_crystals

    if not Path(origin[0]).exists() and (run := Path("runs", origin[0])).is_dir():
        raise typer.BadParameter(f"{origin[0]}: no such file or folder; did you mean {run}?")
    if out is None:
        raise typer.BadParameter("a campaign of files needs a folder: --out runs/my-campaign")
    named = {"name": _name(out)}
    parsed = settings_of(named, settings) if config is None else run_settings(config, named, settings)
    table, refused = read_crystals(origin)
    if refused:
        say(f"{amount(len(refused), 'record')} could not be read, the first: {refused[0]}")
    return campaign_of_crystals(table, parsed, out)


def _merged(stated: dict[str, Any], config: str | None, assignments: list[str] | None) -> Any:
    """The run's settings, with the `dft` of another file if one is named, and assignments."""
    from configs.overrides import override
    from configs.schema import DiscoverConfig, parse, read_yaml

    if config is not None:
        stated = {**stated, "dft": read_yaml(config)[1].get("dft", {})}
    return parse(DiscoverConfig, override(stated, assignments or [], DiscoverConfig), config or "the run's settings")


def _name(folder: Path) -> str:
    import re

    return re.sub(r"[^a-z0-9-]+", "-", folder.name.lower()).strip("-")[:64] or "dft"


@group.command()
@guarded
def status(folder: Folder, names: Names = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Where the jobs stand, from the files alone; asks no queue and disturbs nobody."""
    from dft.campaign.campaign import Campaign
    from tasks.dft.campaign import look

    with answer(as_json) as give:
        campaign = Campaign.read(folder)
        _show(look(campaign), as_json, give, campaign.chosen(names or []))


@group.command()
@guarded
def hull(
    folder: Folder,
    reference: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE", help="JSON of the Materials Project's entries, uncorrected energies and parameters in them."
        ),
    ],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Own DFT records and Materials Project entries on one hull, corrected alike; needs its own DFT settings."""
    from tasks.dft.hull import corrected_hull

    with answer(as_json) as give:
        found = corrected_hull(folder, reference)
        for note in found.notes:
            say(note)
        if not as_json:
            shown = [{**row, "why": "; ".join(filter(None, (row["left_out"], row["note"])))} for row in found.own]
            show_table(shown, HULL, f"{found.name}: {found.scheme}")
            typer.echo(f"\nall {len(found.rows)} phases: {found.file}")
        give(
            {"campaign": found.name, "scheme": found.scheme, "file": str(found.file), "notes": list(found.notes)}
            | {"rows": found.rows}
        )


@group.command()
@guarded
def collect(
    folder: Folder,
    wait: Annotated[
        bool, typer.Option("--wait", help="Go on until all jobs have ended; may be killed at any time.")
    ] = (False),
    settings: Annotated[list[str] | None, set_option("dft.submission.attempts_max=2")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Ask the queue, retry and submit what is due, bring finished records into the store."""
    from dft.campaign.campaign import Campaign
    from tasks.dft.campaign import advance, collected, submitter_of, with_settings

    with answer(as_json) as give:
        campaign = with_settings(Campaign.read(folder), settings or [])
        if wait:
            last: list[Progress] = []

            def tell(step: Any) -> None:
                last[:] = [collected(campaign, step)]
                for note in set(step.notes) - told:
                    say(note)
                told.update(step.notes)
                counts = ", ".join(f"{n} {state}" for state, n in last[0].counts.items())
                if counts != said[0]:
                    said[0] = counts
                    say(counts)

            said, told = [""], set[str]()
            submitter_of(campaign).wait(campaign.keys, tell)
            progress = last[0]
        else:
            progress = advance(campaign)
        _show(progress, as_json, give)


@group.command()
@guarded
def retry(
    folder: Folder,
    names: Names = None,
    settings: Annotated[list[str] | None, set_option("dft.submission.attempts_max=2")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Allow failed, lost and cancelled jobs further attempts, and submit them."""
    from dft.campaign.campaign import Campaign
    from tasks.dft.campaign import advance, submitter_of, with_settings

    with answer(as_json) as give:
        campaign = with_settings(Campaign.read(folder), settings or [])
        again = submitter_of(campaign).retry(campaign.chosen(names or []))
        say(amount(len(again), "job is tried again", "jobs are tried again"))
        _show(advance(campaign), as_json, give, again)


@group.command()
@guarded
def cancel(folder: Folder, names: Names = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Cancel jobs that are not done, here and in the queue."""
    from dft.campaign.campaign import Campaign
    from tasks.dft.campaign import look, submitter_of

    with answer(as_json) as give:
        campaign = Campaign.read(folder)
        ended = submitter_of(campaign).cancel(campaign.chosen(names or []))
        say(amount(len(ended), "job is cancelled", "jobs are cancelled"))
        _show(look(campaign), as_json, give, ended)


@group.command("export")
@guarded
def export_(folder: Folder, file: JobFile, as_json: AsJson = False, debug: Debug = False) -> None:
    """Job documents of a campaign or a run as JSON lines, compressed if FILE ends in .gz."""
    from dft.store_files import export_documents
    from dft.stores import open_job_store

    with answer(as_json) as give, open_job_store(_store(folder), folder) as store:
        counts = export_documents(store, file)
        if not as_json:
            typer.echo(f"{sum(counts.values())} documents in {file}")
        give({"file": str(file), "n_documents": counts})


@group.command("import")
@guarded
def import_(folder: Folder, file: JobFile, as_json: AsJson = False, debug: Debug = False) -> None:
    """Take job documents from a file into the store of a campaign or a run; those that are there are replaced."""
    from dft.store_files import import_documents
    from dft.stores import open_job_store

    with answer(as_json) as give, open_job_store(_store(folder), folder) as store:
        done = import_documents(store, file)
        if not as_json:
            typer.echo(f"{sum(done.n_documents.values())} documents from {file}")
        give({"file": str(file), "n_documents": done.n_documents, "refused": list(done.refused)})
        if done.refused:
            say(f"hullward: {len(done.refused)} lines could not be taken, the first: {done.refused[0]}")
            raise typer.Exit(1)


def _store(folder: Path) -> Any:
    """The store's settings: of the campaign, else of the run, else the defaults."""
    from dft.campaign.campaign import FILE, Campaign
    from dft.config import StoreConfig
    from tasks.discover.run import RunFolder, read_manifest

    if (folder / FILE).is_file():
        return Campaign.read(folder).store
    stated = read_manifest(RunFolder(folder)).get("settings", {})
    return StoreConfig.model_validate(stated.get("store", {}))


def _said(summary: AnalysisSummary) -> str:
    """The candidates in one line."""
    changes = summary.from_generated or summary.from_pre_relaxed
    head = (
        f"{summary.n_converged} of {summary.n_candidates} candidates converged, {summary.n_ionic_steps_mean:.0f} steps"
    )
    if changes is None:
        return head
    values = {
        "dE rms (eV/atom)": changes.states.de_rms_ev_per_atom,
        "dV rms (A^3/atom)": changes.states.dv_rms_ang3_per_atom,
    }
    said = ", ".join(f"{name} {value:z.3f}" for name, value in values.items() if value is not None)
    return f"{head}; match rate {changes.states.match_rate or 0:.2f}, {said}"


def _show(progress: Progress, as_json: bool, give: Callable[[Any], None], keys: list[str] | None = None) -> None:
    """The job table on the terminal, or everything as JSON; notes beside it."""
    campaign: Campaign = progress.campaign
    chosen = [row for row in progress.rows if keys is None or row["key"] in keys]
    for note in progress.notes:
        say(note)
    if not as_json:
        counts = ", ".join(f"{n} {state}" for state, n in progress.counts.items())
        if (summary := progress.summary) is not None and summary.n_converged:
            say(_said(summary))
        shown = [{**row, "key": row["key"][:KEY_SHOWN]} for row in chosen]
        title = f"{campaign.name}: {amount(len(progress.rows), 'job')}, {counts or 'none'}"
        show_table(shown, {"key": "job", **JOB_HEADINGS}, title)
        if progress.n_open:
            still = amount(progress.n_open, "is open", "are open")
            typer.echo(f"\n{still}; go on with: hullward dft collect {campaign.folder} --wait")
    give(
        {
            "campaign": campaign.name,
            "folder": str(campaign.folder),
            "jobs_folder": str(campaign.root),
            "n_open": progress.n_open,
            "counts": progress.counts,
            "summary": None if progress.summary is None else asdict(progress.summary),
            "jobs": chosen,
        }
    )
