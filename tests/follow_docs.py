"""Executes the commands and programs of the documentation, one after the other, as somebody who follows it would:
`make follow`, in a folder that it makes.

What takes long is made smaller by further options, which stand beside it. What cannot be executed here stands in
NOT_FOLLOWED with the reason. tests/test_docs.py holds that each command of the pages is in one of the two, and tries
the options and settings of all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from configs.schema import CONFIG_FOLDER
from flows.cli.main import app
from tests.pages import ROOT, blocks

FEW_STEPS = "--set relax.max_steps=2 --set relax.fmax_ev_per_ang=1 --set execution.torch_threads=1"
CHEAP = f"--potential CHGNet {FEW_STEPS}"
SMALL_RUN = (
    "--set sample.n_candidates=4 --set relax.potential=CHGNet --set judge.potential=null --set phonons.n_best=0 "
    "--set 'data.sources=[{kind: files, path: \"package:al-n-ti-reported\", origin: reported}]' " + FEW_STEPS
)


@dataclass(frozen=True)
class Step:
    """A command of the pages that is executed.

    Attributes:
        line: as the page has it.
        smaller: options added, so that it takes seconds.
        makes: files or folders that are there afterwards.
        by: the command that make runs, where the line is make's.
    """

    line: str
    smaller: str = ""
    makes: tuple[str, ...] = ()
    by: str = ""

    @property
    def words(self) -> list[str]:
        return shlex.split(f"{self.by or self.line} {self.smaller}")[1:]


FOLLOWED = (
    Step("hullward --help"),
    Step("hullward discover --help"),
    # the first run, and what is made of it
    Step("make discover", SMALL_RUN, ("runs/quickstart/report.html",), by="hullward discover quickstart"),
    Step("hullward report runs/quickstart"),
    Step("hullward export runs/quickstart quickstart.jsonl", makes=("quickstart.jsonl",)),
    # one stage on your own files
    Step("hullward ingest my-crystals --out datasets/mine --method 'PBE (my group)'", makes=("datasets/mine",)),
    Step("hullward sample --elements Ta-W-B --number 32 --out sampled.parquet", "-n 3", ("sampled.parquet",)),
    Step("hullward sample --formula TaBW --spacegroup 62 --energy -0.4 --out sampled-cifs", "-n 2", ("sampled-cifs",)),
    Step("hullward sample --sites TaWB2 --spacegroup 191 --out of-sites.parquet", "-n 2", ("of-sites.parquet",)),
    Step(
        "hullward sample --elements Ta-W-B --number 32 --set conditions.policy=likely --out likely.parquet",
        "-n 2",
        ("likely.parquet",),
    ),
    Step("hullward screen sampled.parquet --reference datasets/mine --out screened.parquet", "", ("screened.parquet",)),
    Step("hullward relax screened.parquet --out relaxed.parquet", CHEAP, ("relaxed.parquet",)),
    Step("hullward hull relaxed.parquet --reference datasets/mine --out placed.parquet", CHEAP, ("placed.parquet",)),
    Step("hullward inputs relaxed.parquet --preset mp-relax --number 5 --out vasp", "-n 1", ("vasp",)),
    Step("hullward relax POSCAR --potential CHGNet --out relaxed.parquet", FEW_STEPS, ("relaxed.parquet",)),
    # requests to the shipped generators
    Step("hullward sample --formula TaB2 --spacegroup 191 -n 4 --out asked.parquet", "-n 2", ("asked.parquet",)),
    Step("hullward sample --formula TaB2 --spacegroup 191 --out asked.parquet", "-n 2", ("asked.parquet",)),
    Step("hullward sample --formula TiO2 --energy -3.3 --out asked.parquet", "-n 2", ("asked.parquet",)),
    # generators that learn nothing
    Step(
        "hullward baseline training-copies runs/datasets/mp-20-train --out runs/baselines/copies",
        makes=("runs/baselines/copies",),
    ),
    Step(
        "hullward baseline prototype-substitution runs/datasets/mp-20-train --out runs/baselines/substitution",
        makes=("runs/baselines/substitution",),
    ),
    Step("hullward baseline random-symmetric --out runs/baselines/random", makes=("runs/baselines/random",)),
    Step("hullward sample --formula HfB2 -n 8 --checkpoint runs/baselines/substitution --out hfb2.parquet", "-n 2"),
    Step(
        "hullward sample --formula HfB2 -n 8 --spacegroup 191 --checkpoint runs/baselines/random --out random.parquet",
        "-n 2",
    ),
    Step(
        "hullward sample --formula HfB2 -n 8 --checkpoint package:hullward-flow --checkpoint runs/baselines/random "
        "--out mixed.parquet",
        "-n 2 --set sample.chunk_size=2",
        ("mixed.parquet",),
    ),
    # judging
    Step("hullward evaluate samples.csv --reference test.csv --dataset mp-20", "--workers 1", ("runs/evaluations",)),
    Step("hullward evaluate my-samples.csv --reference test.csv --protocol cdvae", "--workers 1"),
    Step("hullward evaluate samples.json --reference test.csv --protocol airi --json", "--workers 1"),
)
"""In the order in which they are executed: some read what others wrote."""

NOT_FOLLOWED = {
    r"hullward discover (?!--help).*": "minutes to hours, as `make discover`, which is followed; settings are checked",
    r"hullward (ingest (?!my-crystals --out).*)": "asks databases, reads data of third parties or relaxes hundreds of "
    "prototypes; tests/flows/test_ingest.py runs the command on small files and against databases of its own",
    r"hullward plan .*": "tests/flows/test_plans.py makes plans of every kind and compares them with runs",
    r"hullward report runs/quickstart --candidate .*": "reads a run of minutes; tests/flows/test_candidate_pages.py",
    r"hullward deploy": "of a shell with a server; tests/flows/test_deployments.py",
    r"sbatch hullward.*": "needs a queue; tests/dft/submission/test_flows_on_the_queue.py with a real Slurm",
    r"hullward campaign .*": "minutes to hours; tests/flows/test_campaign.py runs a small one, and its status",
    r"hullward train .*": "minutes to hours; tests/flows/test_train.py trains a small one",
    r"hullward modify .*": "minutes; tests/flows/test_modify.py runs a small one",
    r"hullward reproduce.*": "hours; tests/flows/test_reproduce.py makes small tables",
    r"hullward benchmark .*": "minutes to a day; tests/flows/test_rediscovery.py and test_evaluate.py run small ones",
    r"hullward dft .*": "needs a queue; tests/flows/test_dft_jobs.py runs them, `make test-dft` with Slurm",
    r"hullward serve-optimade .*": "ends by Ctrl-C alone; tests/flows/test_optimade_server.py serves, asks and stops",
    r"hullward relax my-crystals --potential models/my-potential .*": "a potential of the reader's own; "
    "tests/dft/potentials relax with such folders",
    r"hullward inputs runs/ternary/candidates.parquet .*": "reads a run of hours; `inputs` is followed on own crystals",
    r"hullward sample .*--checkpoint runs/training/.*": "draws from a training of hours; tests/flows/test_train.py and "
    "tests/flows/test_cdvae_family.py draw from small ones",
    r"hullward sample .*--checkpoint package:hullward-adaptive-cell .*": "half a minute a crystal; "
    "tests/generative/systems draw from it in few steps",
    r"hullward evaluate samples.parquet .*": "the protocol sun relaxes; tests/flows/test_evaluate.py runs it on few",
    r"hullward evaluate al-ni.csv .*": "the same",
    r"hullward evaluate .*--regressor.*": "weights of third parties; tests/generative/metrics reads such files",
    r"hullward baseline .* (train.csv|runs/datasets/bilayers|--out runs/baselines/(copies|random|substitution)) ?.*": ""
    "as those that are followed, on a reader's own table",
    r"(hullward-env/bin/)?hullward --version": "tests/test_packaging.py",
    r"make (test|lint|help|follow|site|test-dft|benchmark|train|ui|reproduce-.*)|\.ci/run": "CI itself, hours, "
    "or a server that stays; targets and variables are checked",
    r"prefect .*|\. .*|export .*|cd .*|source .*": "of a shell with a server; Prefect's options are checked, "
    "tests/flows/test_deployments.py registers and starts deployments",
    r".*python.* -m (pytest|tests\.benchmarks|dft\.engines\.gpaw_convergence).*": "benchmarks, a GPU or an hour of "
    "GPAW; options are checked",
    r".*python3? -m (venv|pip) .*|conda .*": "installs from the network; tests/test_packaging.py installs the wheel",
    r"python -m configs\..*": "tests/test_docs.py and tests/test_lock.py compare what they write",
    r"pmg .*": "VASP's licensed files",
    r".*optimade-get .*": "asks a server that runs; tests/flows/test_optimade_server.py",
}
"""Whole lines of the pages, as patterns, and why they are not executed here."""

PROGRAMS = {("baselines.md", 0), ("guide.md", 0), ("guide.md", 1), ("python.md", 1), ("dft-engines.md", 0)}
"""Python of the pages that is executed as it stands: page and place among its blocks."""

PROGRAMS_NOT_FOLLOWED = {
    "architecture.md": "tests/test_docs.py and tests/dft/potentials/test_potentials_from_outside.py execute them",
    "dft-analysis.md": "asks the Materials Project with a key",
    "dft.md": "needs VASP",
    "dp-cdvae.md": "draws from a training of hours",
    "ingest.md": "asks for a key on the terminal",
    "optimade.md": "asks a server that runs; tests/flows/test_optimade_server.py",
    "python.md": "runs of hours; tests/flows/test_python.py runs small ones",
}


def known_phases() -> dict[str, Structure]:
    """Crystals of Ta-W-B; lattice constants from textbooks, in angstrom."""
    diboride = [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]
    boron = [[0.1189, -0.1189, 0.8912], [0.1969, -0.1969, 0.0243]]
    return {
        "Ta": Structure.from_spacegroup("Im-3m", Lattice.cubic(3.30), ["Ta"], [[0, 0, 0]]),
        "W": Structure.from_spacegroup("Im-3m", Lattice.cubic(3.16), ["W"], [[0, 0, 0]]),
        "B": Structure.from_spacegroup("R-3m", Lattice.hexagonal(4.91, 12.56), ["B", "B"], boron),
        "TaB2": Structure.from_spacegroup("P6/mmm", Lattice.hexagonal(3.09, 3.23), ["Ta", "B"], diboride),
        "WB2": Structure.from_spacegroup("P6/mmm", Lattice.hexagonal(3.02, 3.05), ["W", "B"], diboride),
    }


def prepare(folder: Path) -> None:
    """The files that a reader of the pages is supposed to have."""
    import pandas as pd

    (folder / "my-crystals").mkdir()
    phases = {name: structure.get_primitive_structure() for name, structure in known_phases().items()}
    for name, structure in phases.items():
        structure.to(str(folder / "my-crystals" / f"{name}.cif"))
    phases["TaB2"].to(str(folder / "POSCAR"), fmt="poscar")
    phases["TaB2"].to(str(folder / "crystal.cif"))
    table = pd.DataFrame({"material_id": list(phases), "cif": [one.to(fmt="cif") for one in phases.values()]})
    for name in ("samples", "my-samples", "test", "train"):
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "samples.json").write_text(json.dumps([structure.as_dict() for structure in phases.values()]))
    shutil.copyfile(CONFIG_FOLDER / "quickstart.yaml", folder / "my-system.yaml")


def follow(step: Step) -> str:
    """What went wrong with a command; nothing if all is right."""
    done = CliRunner().invoke(app, step.words)
    if done.exit_code != 0:
        return f"ended with {done.exit_code}: {done.output[-2000:]}"
    missing = [name for name in step.makes if not Path(name).exists()]
    return f"did not make {', '.join(missing)}" if missing else ""


def execute(page: str, number: int) -> str:
    """What went wrong with a program of a page; nothing if it ran."""
    code = blocks(ROOT / "docs" / page, "python")[number]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, f"{page}, program {number}", "exec"), {"__name__": "__main__"})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def followed() -> Iterator[tuple[str, str]]:
    """Each command and program with what went wrong."""
    for step in FOLLOWED:
        yield step.line, follow(step)
        if step.line.startswith("hullward ingest"):
            shutil.copytree("datasets/mine", "runs/datasets/mp-20-train")
    for page, number in sorted(PROGRAMS):
        yield f"{page}, program {number}", execute(page, number)


def main() -> int:
    """Follow the pages in a folder of their own; the number of failures."""
    failures, before = 0, Path.cwd()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        os.chdir(folder)
        try:
            began = time.monotonic()
            for line, wrong in followed():
                print(f"{time.monotonic() - began:5.1f} s  {line}  {wrong}", flush=True)
                failures, began = failures + bool(wrong), time.monotonic()
        finally:
            os.chdir(before)
    n_all = len(FOLLOWED) + len(PROGRAMS)
    print(f"{n_all - failures} of {n_all} commands and programs of the documentation do what it says")
    return failures


def reasons(line: str) -> list[str]:
    """Why a line is not executed, by every pattern that fits it."""
    return [reason for pattern, reason in NOT_FOLLOWED.items() if re.fullmatch(pattern, line)]


if __name__ == "__main__":
    sys.exit(main() > 0)
