"""`hullward benchmark`: generators by what they draw, proposers by what they find, potentials by how often they err."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flows.cli.console import answer, begin, guarded, labelled_bar, show_table
from flows.cli.shared_options import AsJson, Debug, set_option

if TYPE_CHECKING:
    from pydantic import BaseModel

    from configs.rediscovery import RediscoveryConfig

C = TypeVar("C", bound="BaseModel")

Name = Annotated[str | None, typer.Option(help="Name of the benchmark and of its folder.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random choice.")]

group = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Comparisons: rediscovery (of hidden ground states), generators (by protocols of the field), judges "
    "(potentials against DFT).",
)


def register(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.add_typer(group, name="benchmark")


@group.command()
@guarded
def rediscovery(
    config: Annotated[
        str, typer.Argument(help="YAML file, rediscovery-small (minutes) or rediscovery (a day).")
    ] = "rediscovery-small",
    settings: Annotated[list[str] | None, set_option("n_systems=4")] = None,
    name: Name = None,
    seed: Seed = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Hide stable crystals, let every proposer look for them with as many relaxations, and count what each finds."""
    from configs.rediscovery import RediscoveryConfig
    from flows.cli.console import hush_engine
    from flows.cli.prefect_client import prefect_client

    parsed = _settings(RediscoveryConfig, config, settings, name, seed)
    begin(f"{parsed.n_systems} chemical systems, their stable crystals hidden, into {parsed.folder}")
    with answer(as_json) as give, prefect_client() as client:
        from flows.rediscovery import rediscovery as flow

        if not debug:
            hush_engine()
        client.run(flow, parsed)
        give(_found(parsed, as_json))


@group.command()
@guarded
def generators(
    config: Annotated[str, typer.Argument(help="YAML file, or benchmark-generators.")] = "benchmark-generators",
    settings: Annotated[list[str] | None, set_option("n=100")] = None,
    name: Name = None,
    seed: Seed = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let every generator draw a crystal for each composition of a test file, and judge all by the same protocols."""
    import json

    from configs.evaluation import BenchmarkConfig
    from flows.cli.console import hush_engine
    from flows.cli.prefect_client import prefect_client

    parsed = _settings(BenchmarkConfig, config, settings, name, seed)
    begin(f"generators side by side, into {parsed.folder}")
    with answer(as_json) as give, prefect_client() as client:
        from flows.benchmark import benchmark as flow

        if not debug:
            hush_engine()
        client.run(flow, parsed)
        if not as_json:
            typer.echo(f"report   {parsed.folder / 'benchmark.html'}\nfigures  {parsed.folder / 'benchmark.json'}")
        found = json.loads((parsed.folder / "benchmark.json").read_text(encoding="utf-8"))
        give({"folder": str(parsed.folder), **found})


@group.command()
@guarded
def judges(
    config: Annotated[str, typer.Argument(help="YAML file, or judges.")] = "judges",
    settings: Annotated[list[str] | None, set_option("chunk_size=64")] = None,
    name: Name = None,
    seed: Seed = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Hold distances above the hull by potentials against those by DFT: errors, verdicts, and probabilities of both."""
    import json

    from configs.judges import JudgesConfig

    parsed = _settings(JudgesConfig, config, settings, name, seed)
    begin(f"potentials against DFT, into {parsed.folder}", as_json)
    with answer(as_json) as give:
        from tasks.judges.results import JSON
        from tasks.judges.stages import judges as run

        with labelled_bar("reading", as_json) as progress:
            table = run(parsed, progress)
        if not as_json:
            typer.echo(f"{table.read_text(encoding='utf-8')}\nfigures  {parsed.folder / JSON}")
        found = json.loads((parsed.folder / JSON).read_text(encoding="utf-8"))
        give({"folder": str(parsed.folder), **found})


def _settings(model: type[C], config: str, assignments: list[str] | None, name: str | None, seed: int | None) -> C:
    """The settings of a file with what the options say."""
    from configs.overrides import override
    from configs.schema import parse, read_yaml

    file, stated = read_yaml(config)
    given = {key: value for key, value in (("name", name), ("seed", seed)) if value is not None}
    return parse(model, override({**stated, **given}, assignments or [], model), str(file))


def _found(config: RediscoveryConfig, as_json: bool) -> dict[str, Any]:
    """What was found; recalls shown as a table unless it is wanted as JSON."""
    import json

    from tasks.rediscovery.results import JSON, PAGE, TABLE

    found: dict[str, Any] = json.loads((config.folder / JSON).read_text(encoding="utf-8"))
    if not as_json:
        rows = [
            {"proposer": name, **{k: _percent(said) for k, said in campaign["recall"].items()}}
            for name, campaign in found["campaigns"].items()
        ]
        headings = {"proposer": "proposer", **{str(k): f"found after {k}, %" for k in config.budgets}}
        systems = f"{found['n_systems']} chemical systems, energies by {found['potential']['method']}"
        typer.echo(f"{found['n_hidden']} hidden crystals of {systems}\n")
        show_table(rows, headings)
        typer.echo(f"\nreport   {config.folder / PAGE}\nfigures  {config.folder / JSON}, {config.folder / TABLE}")
    return {"folder": str(config.folder), **found}


def _percent(said: dict[str, Any]) -> str:
    return f"{100 * said['recall']:.1f} +- {100 * said['standard_error']:.1f}"
