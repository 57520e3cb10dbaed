"""What to do next: a section of the report, its commands with the names of the run that was reported."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.report.run.model import ReportInputs
from tasks.report.run.summary import safe


@dataclass(frozen=True)
class Step:
    """Something to do, and the command that does it in a shell of the folder where the run was begun."""

    purpose: str
    command: str


def next_steps(inputs: ReportInputs) -> list[Step]:
    """Steps that make sense after this run; none without its folder."""
    if not inputs.run_folder:
        return []
    folder = shlex.quote(inputs.run_folder)
    steps = []
    if best := inputs.ranked[:1]:
        steps.append(
            Step(
                "A page of one candidate, to send to a colleague: one file, with its CIF in it",
                f"hullward report {folder} --candidate {shlex.quote(best[0].id)}",
            )
        )
    settings = inputs.settings
    runs = settings.get("execution", {}).get("runs_folder")
    # The systems of a campaign lie elsewhere and are not drawn alone: only its own command goes on with them.
    if runs is not None and Path(runs) / str(settings.get("name")) == Path(inputs.run_folder):
        again = f"hullward discover {shlex.quote(f'{inputs.run_folder}/settings.json')}"
        more = 2 * int(settings["sample"]["n_candidates"])
        steps.append(
            Step(
                "More candidates of the same system: what is done is kept, and the table becomes that of all",
                f"{again} --set sample.n_candidates={more}",
            )
        )
        if best and not inputs.phonons:
            steps.append(
                Step(
                    "Phonons of the best five: whether they are minima or saddle points",
                    f"{again} --set phonons.n_best=5",
                )
            )
    if best:
        steps.append(
            Step(
                "DFT of the best and of the phases they compete with, by the engine that the run's settings name",
                f"hullward dft submit {folder}",
            )
        )
        steps.append(
            Step(
                "The candidates for other programs, in OPTIMADE's form",
                f"hullward export {folder} {shlex.quote(f'{inputs.run_name}.jsonl')}",
            )
        )
    steps.append(
        Step(
            "The table in Python",
            f"python -c {shlex.quote(_in_python(inputs.run_folder))}",
        )
    )
    return steps


def _in_python(folder: str) -> str:
    # JSON's double quotes are Python's too, and stand in a shell's single ones.
    return f"import hullward; print(hullward.load_run({json.dumps(folder)}).to_pandas())"


def next_section(inputs: ReportInputs) -> str:
    """The section of the report's page; empty without a run folder."""
    if not (steps := next_steps(inputs)):
        return ""
    return (
        '<section id="next"><h2>What to do next</h2><p class="hint">In the folder where the run was begun; each says '
        f'more with --help.</p><ol class="card steps">{_items(steps)}</ol></section>'
    )


def _items(steps: Sequence[Step]) -> str:
    return "".join(f"<li>{safe(s.purpose)}<pre><code>{safe(s.command)}</code></pre></li>" for s in steps)
