"""Everything worth doing on a GPU for a while: check, measure, train. Not a test; run as a script.

    python -m tests.benchmarks.on_gpu --minutes 20 --out gpu-results [--settings train-flow]
    python -m tests.benchmarks.on_gpu --parts train --minutes 8 --out gpu-results --work runs/on-gpu \
        --reproduce configs/presets/reproduce-dp-cdvae.yaml --systems dp-cdvae --datasets perov-5 [--resume-from
        EARLIER]

check      The generator's velocities, energies of potentials, every member of the CDVAE family, the adaptive-cell model
           and ConditionCDVAE+ on the GPU in single precision against the processor in double.
benchmark  `pytest -m benchmark`, whose tests measure each device they see.
train      For --minutes: the shipped generator (resumed from --out if it was interrupted), scored. With --reproduce the
           stages of a reproduction at --size instead, results in --work. Out of time it keeps its state; the same
           command goes on. Machines that are given back lose --work, so results also come back in --out, in pieces of
           less than 16 MiB; the next machine takes them by --resume-from.

A table of all figures is printed and written to table.json. `--device cpu --size tiny` tries all of it without a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from configs.paths import model_folders
from configs.reproduction import AnyReproduction, model_of, with_choice
from configs.schema import load, parse, read_yaml
from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.requests import Request
from generative.training.config import TrainConfig
from tests.benchmarks.family_on_gpu import check_family, family_rows, pack, relative_error, reproduce, unpack
from tests.benchmarks.systems_on_gpu import check_adaptive_cell, check_condition_cdvae

PARTS = ("check", "benchmark", "train")


# --- checks -----------------------------------------------------------------------------------------------------------


def check_generator(device: str) -> float:
    """Relative error of the network's velocities, there in float32 against CPU in float64, on fresh random crystals."""
    errors = []
    asked = [Request.for_atoms(cell) for cell in [[12, 8], [5, 73, 74], [22, 22, 13, 7]] * 8]
    generator = checkpoints.load("package:hullward-flow").generator
    draw = generator.sample(asked, torch.Generator().manual_seed(1), generator.sampler_settings({"n_steps": 3}))
    velocities = {}
    for where, dtype in (("cpu", torch.float64), (device, torch.float32)):
        system = checkpoints.load("package:hullward-flow", where).system.to(dtype)
        batch = CrystalBatch.pack(draw).to(where)
        frac, numbers, mask = batch.dense()
        b = len(batch)
        t = torch.linspace(0, 1, b, device=where, dtype=dtype)
        lattice = torch.linspace(-1, 1, 6 * b, device=where, dtype=dtype).view(b, 6)
        none = torch.full((b,), torch.nan, device=where, dtype=dtype)
        with torch.no_grad():
            velocities[dtype] = system.network(
                t, frac.to(dtype), lattice, batch.lattice_ang.to(dtype), numbers, mask, batch.spacegroup, none
            )
    for found, expected in zip(velocities[torch.float32], velocities[torch.float64], strict=True):
        errors.append(relative_error(found, expected))
    return max(errors)


def check_potentials(device: str) -> dict[str, float]:
    """Largest energy difference between there and the CPU on known crystals, eV/atom, of two potentials."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    from dft.potentials.loading import load_potential
    from dft.potentials.relaxation import evaluate

    crystals = [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [x, y], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for a, x, y in ((4.25, "Mg", "O"), (5.69, "Na", "Cl"), (4.24, "Ti", "N"))
    ]

    def energies(name: str, where: str) -> list[float]:
        potential = load_potential(name, fallback="CHGNet", search=model_folders(), device=where)
        return [energy or 0.0 for energy in evaluate(crystals, potential)]

    names = ("M3GNet-MP-2021.2.8-PES", "SevenNet-l3i5")
    return {
        name: max(abs(a - b) for a, b in zip(energies(name, "cpu"), energies(name, device), strict=True))
        for name in names
    }


# --- training ---------------------------------------------------------------------------------------------------------


def train(settings: str, minutes: float, out: Path, device: str) -> dict[str, Any]:
    """Train the shipped generator for so many minutes at most; the checkpoint, its card and its figures."""
    from tasks.train.training import train as run_training

    class Deadline(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:
            trainer.should_stop = trainer.should_stop or time.monotonic() > end

    end = time.monotonic() + 60 * minutes
    config = load(TrainConfig, settings).model_copy(update={"device": device, "torch_threads": 8})
    folder = run_training(config, out / "training", [Deadline()])
    return dict(checkpoints.about(str(folder))["training"])


def reproduction_of(arguments: argparse.Namespace) -> AnyReproduction:
    """The reproduction that is asked for, at the chosen size, on the chosen device, in the work folder."""
    file, stated = read_yaml(arguments.reproduce)
    chosen = [None if text is None else text.split(",") for text in (arguments.systems, arguments.datasets)]
    stated = with_choice(stated, *chosen, arguments.stages.split(","))
    execution = {
        **stated.get("execution", {}),
        "device": arguments.device,
        "runs_folder": str(arguments.work),
        "torch_threads": arguments.threads,
    }
    return parse(model_of(stated), {**stated, "size": arguments.size, "execution": execution}, str(file))


# --- all of it --------------------------------------------------------------------------------------------------------


def benchmarks(files: Sequence[str], out: Path) -> dict[str, Any]:
    """Run them; the lines with rates."""
    log = out / "benchmark.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "pytest", "-m", "benchmark", "-s", *files]
        passed = subprocess.run(command, stdout=file, stderr=file, check=False).returncode == 0
    lines = log.read_text().splitlines()
    return {"benchmarks passed": passed, "benchmarks": [line for line in lines if "/s" in line or "times" in line]}


def check(arguments: argparse.Namespace) -> dict[str, Any]:
    """All checks; one whose packages are not installed is said to be missing."""
    made: dict[str, Callable[[], Any]] = {
        "generator, relative error of velocities": lambda: check_generator(arguments.device),
        "potentials, largest energy differences (eV/atom)": lambda: check_potentials(arguments.device),
        "family, relative errors": lambda: check_family(arguments.device, arguments.size),
        "adaptive cell, relative errors": lambda: check_adaptive_cell(arguments.device, arguments.size),
        "ConditionCDVAE+, relative errors": lambda: check_condition_cdvae(arguments.device, arguments.size),
    }
    table: dict[str, Any] = {}
    for name, call in made.items():
        try:
            table[name] = call()
        except ImportError as error:
            table[name] = f"not checked: {error}"
    return table


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="training time, minutes; 0 trains nothing")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--parts", default=",".join(PARTS), help="which of check, benchmark, train")
    parser.add_argument("--settings", default="train-flow", help="training settings of the shipped generator")
    parser.add_argument("--benchmarks", default="tests/benchmarks", help="files of benchmarks, a,b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("paper", "cpu", "tiny"), default="paper", help="of the CDVAE family")
    parser.add_argument("--threads", type=int, default=8, help="processor threads of a reproduction")
    parser.add_argument("--reproduce", help="settings of a reproduction, trained in the place of the generator")
    parser.add_argument("--systems", help="only these of it, a,b")
    parser.add_argument("--datasets", help="only these of it, a,b")
    parser.add_argument("--stages", default="train", help="only these of it, a,b")
    parser.add_argument("--work", type=Path, default=Path("runs/on-gpu"), help="where a reproduction is made")
    parser.add_argument("--resume-from", type=Path, help="folder with results-00, ... of an earlier machine")
    arguments = parser.parse_args(given)
    if unknown := set(arguments.parts.split(",")) - set(PARTS):
        parser.error(f"--parts {sorted(unknown)[0]}: expected some of {', '.join(PARTS)}")
    return arguments


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the parts that are asked for."""
    arguments = parsed(given)
    parts = arguments.parts.split(",")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU is seen: this script checks, measures and trains on one; --device cpu tries it without")
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    table: dict[str, Any] = {"device": name, "torch": torch.__version__}
    if "check" in parts:
        table |= check(arguments)
    if "benchmark" in parts:
        table |= benchmarks(arguments.benchmarks.split(","), arguments.out)
    if "train" in parts and arguments.minutes > 0:
        if arguments.reproduce is None:
            table["training"] = train(arguments.settings, arguments.minutes, arguments.out, arguments.device)
        else:
            config = reproduction_of(arguments)
            if arguments.resume_from is not None:
                unpack(arguments.resume_from, config)
            try:
                table["reproduction"] = reproduce(config, arguments.minutes)
            finally:  # whatever has failed, what is finished comes home
                table["left on the machine"] = pack(config, arguments.out)
    text = json.dumps(table, indent=2, default=str)
    (arguments.out / "table.json").write_text(text + "\n")
    print(text)
    if isinstance(errors := table.get("family, relative errors"), dict):
        print(family_rows(errors))
    return table


if __name__ == "__main__":
    main()
