"""One example of every command, which its --help ends with. The tests run them, in this order, in one folder."""

from __future__ import annotations

from collections.abc import Iterator

import typer

EXAMPLES = (
    "plan Nb-Mo-B",
    "discover quickstart --set sample.n_candidates=32",
    "report runs/quickstart",
    "export runs/quickstart quickstart.jsonl",
    "serve-optimade runs/quickstart",
    "dft submit runs/quickstart --set dft.top_n=2",
    "dft status runs/quickstart",
    "dft collect runs/quickstart --wait",
    "dft retry runs/quickstart",
    "dft cancel runs/quickstart",
    "dft hull runs/quickstart --reference entries.json",
    "dft export runs/quickstart jobs.jsonl.gz",
    "dft import runs/quickstart jobs.jsonl.gz",
    "sample --formula TiN --number 4 --out crystals.parquet",
    "screen crystals.parquet --reference package:al-n-ti-reported",
    "relax crystals.parquet --out relaxed.parquet --set relax.max_steps=50",
    "hull relaxed.parquet --reference package:al-n-ti-reported",
    "inputs relaxed.parquet --out vasp",
    "evaluate crystals.parquet --reference package:al-n-ti-reported",
    "modify crystals.parquet --number 8",
    "ingest package:al-n-ti-reported --elements Al-N",
    "baseline random-symmetric --out random",
    "train train-wyckoff --out runs/my-training --set max_steps=500",
    "campaign run campaign-small --set budget.relaxations=24",
    "campaign status small",
    "campaign report small",
    "campaign export small small.jsonl",
    "reproduce reproduce-unet --stages none",
    "benchmark rediscovery rediscovery-small",
    "benchmark generators benchmark-generators",
    "benchmark judges judges",
    "deploy",
)


def add_examples(app: typer.Typer) -> None:
    """Put an example at the end of every command's help."""
    for name, command in _commands(app, ""):
        command.epilog = f"Example: hullward {example_of(name)}"


def example_of(command: str) -> str:
    """The words of the command's example behind `hullward`; those of `dft submit` begin with these two."""
    return next(example for example in EXAMPLES if f"{example} ".startswith(f"{command} "))


def _commands(app: typer.Typer, above: str) -> Iterator[tuple[str, typer.models.CommandInfo]]:
    for command in app.registered_commands:
        named = command.name or getattr(command.callback, "__name__", "").replace("_", "-")
        yield f"{above}{named}", command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance, f"{above}{group.name} ")
