"""Everything worth doing on a GPU for a while: check, measure, train. Not a test; run as a script.

    python tests/benchmarks/on_gpu.py --minutes 20 --out gpu-results [--settings train-flow]

1. The generator's velocities and a potential's energies on the GPU against those on the CPU.
2. `pytest -m benchmark`, whose tests measure each device they see.
3. Training of the shipped generator for the minutes that are left (resumed from --out if it was interrupted), scored.
4. A table of all figures, also written to table.json. Checkpoints are under 10 MB, so they leave a machine easily.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from configs.paths import model_folders
from configs.training import load_training
from dft.potentials import load_potential
from generative import checkpoints
from generative.batch import CrystalBatch
from generative.config import SampleConfig


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """||found - expected|| / ||expected||."""
    return float((found.cpu().double() - expected.double()).norm() / expected.double().norm())


def check_generator() -> float:
    """Relative error of the network's velocities, GPU in float32 against CPU in float64, on fresh random crystals."""
    errors = []
    draw = checkpoints.load("package:hullward-flow").system.sample(
        [[12, 8], [5, 73, 74], [22, 22, 13, 7]] * 8, torch.Generator().manual_seed(1), SampleConfig(n_steps=3)
    )
    velocities = {}
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        system = checkpoints.load("package:hullward-flow", device).system.to(dtype)
        batch = CrystalBatch.pack(draw).to(device)
        frac, numbers, mask = batch.dense()
        b = len(batch)
        t = torch.linspace(0, 1, b, device=device, dtype=dtype)
        lattice = torch.linspace(-1, 1, 6 * b, device=device, dtype=dtype).view(b, 6)
        none = torch.full((b,), torch.nan, device=device, dtype=dtype)
        with torch.no_grad():
            velocities[device] = system.network(
                t, frac.to(dtype), lattice, batch.lattice_ang.to(dtype), numbers, mask, batch.spacegroup, none
            )
    for gpu, cpu in zip(velocities["cuda"], velocities["cpu"], strict=True):
        errors.append(relative_error(gpu, cpu))
    return max(errors)


def check_potential() -> float:
    """Largest energy difference between GPU and CPU on known crystals, eV/atom."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    from dft.relaxation import evaluate

    crystals = [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [x, y], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for a, x, y in ((4.25, "Mg", "O"), (5.69, "Na", "Cl"), (4.24, "Ti", "N"))
    ]
    found = [
        evaluate(
            crystals, load_potential("M3GNet-MP-2021.2.8-PES", fallback="CHGNet", search=model_folders(), device=d)
        )
        for d in ("cpu", "cuda")
    ]
    return max(abs((a or 0.0) - (b or 0.0)) for a, b in zip(*found, strict=True))


def train(settings: str, minutes: float, out: Path) -> dict[str, Any]:
    """Train for so many minutes at most; the checkpoint, its card and its figures."""
    from lightning.pytorch.callbacks import Callback

    from tasks.train import train as run_training

    class Deadline(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:
            trainer.should_stop = trainer.should_stop or time.monotonic() > end

    end = time.monotonic() + 60 * minutes
    config = load_training(settings).model_copy(update={"device": "cuda", "torch_threads": 8})
    folder = run_training(config, out / "training", [Deadline()])
    return dict(checkpoints.about(str(folder))["training"])


def main() -> None:
    """Run all four parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="training time, minutes")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--settings", default="train-flow", help="training settings")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU is seen: this script checks, measures and trains on one; everything else runs without it")
    arguments.out.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "generator, relative error of velocities": check_generator(),
        "potential, largest energy difference (eV/atom)": check_potential(),
    }
    log = arguments.out / "benchmark.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "pytest", "-m", "benchmark", "-s", "tests/benchmarks"]
        table["benchmarks passed"] = subprocess.run(command, stdout=file, stderr=file, check=False).returncode == 0
    table["benchmarks"] = [line for line in log.read_text().splitlines() if "/s" in line]
    if arguments.minutes > 0:
        table["training"] = train(arguments.settings, arguments.minutes, arguments.out)
    text = json.dumps(table, indent=2, default=str)
    (arguments.out / "table.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
