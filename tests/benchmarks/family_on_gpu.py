"""The CDVAE family on a GPU for a limited time: its numbers beside the processor's, its trainings, results that travel.

What on_gpu.py does with the family; see there.
"""

from __future__ import annotations

import copy
import io
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from configs.reproduction import AnyReproduction
from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.crystals import Crystal, reduced
from generative.systems.cdvae.config import CDVAESampler
from generative.systems.cdvae.decoding import Cells
from generative.systems.cdvae.family import FAMILY
from generative.systems.cdvae.system import CDVAE
from generative.training.callbacks import save_state
from tasks.papers.results import NotReadyError, Result, ResultKey
from tasks.papers.stages import paper_of

PIECE_BYTES = 15 << 20
RESULTS_BYTES = 56 << 20
"""Of all pieces: what comes back from a machine, 64 MiB in all, has the table and a log in it too."""


# --- checks -----------------------------------------------------------------------------------------------------------


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """||found - expected|| / ||expected||."""
    return float(
        (found.detach().cpu().double() - expected.detach().double()).norm() / expected.detach().double().norm()
    )


def with_all_layers(network: torch.nn.Module) -> None:
    """Draw what starts at zero: DimeNet++'s last layers would hide all before them."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter.data, std=0.1)


def strained_crystals(n: int = 12) -> list[Crystal]:
    """Perovskites and caesium chlorides, strained and displaced so that no two distances are equal."""
    rng = np.random.default_rng(0)
    perovskite = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    made = []
    for i in range(n):
        sites, edge_ang = (perovskite, 4.0) if i % 3 else (perovskite[:2], 3.3)
        lattice = edge_ang * (np.eye(3) + rng.uniform(-0.08, 0.08, (3, 3)))
        frac = (sites + rng.normal(0, 0.02, sites.shape)) % 1.0
        made.append(reduced(Crystal(lattice, frac, rng.integers(3, 84, len(sites)).astype(np.int16))))
    return made


@contextmanager
def same_draws() -> Iterator[None]:
    """Normal numbers are drawn in double precision whichever is asked for: then both precisions see the same noise."""
    plain = torch.randn

    def drawn(*size: Any, dtype: torch.dtype | None = None, **where: Any) -> torch.Tensor:
        return plain(*size, dtype=torch.float64, **where).to(dtype or torch.get_default_dtype())

    with mock.patch.object(torch, "randn", drawn):
        yield


def check_family(device: str, size: str) -> dict[str, dict[str, float]]:
    """Of every member: relative errors there in float32 against CPU in float64, and how many crystals it decodes."""
    crystals = strained_crystals()
    bonds = crystal_nn_bonds(crystals)
    quick = CDVAESampler(steps_per_level=1, level_stride=10, stride=200, latent_steps=2)
    found: dict[str, dict[str, float]] = {}
    for kind in FAMILY:
        torch.manual_seed(0)
        system = kind(kind.config_type.model_validate({"size": size}))
        with_all_layers(system)
        system.fit_statistics(crystals, [None] * len(crystals))
        expected = _outputs(copy.deepcopy(system).double(), crystals, bonds)
        there = copy.deepcopy(system).to(device)
        errors = {
            name: relative_error(value, expected[name]) for name, value in _outputs(there, crystals, bonds).items()
        }
        rng = torch.Generator(device=device).manual_seed(0)
        drawn = {
            "reconstructed": there.eval().reconstruct(crystals, rng, quick, bonds, batch_crystals=8),
            "generated": there.generate(len(crystals), rng, quick, batch_crystals=8),
        }
        found[kind.name] = {**errors, **{name: sum(map(is_sound, made)) for name, made in drawn.items()}}
    return found


def is_sound(crystal: Crystal) -> bool:
    """Whether its numbers are a crystal's."""
    return bool(np.isfinite(crystal.frac).all() and abs(np.linalg.det(crystal.lattice_ang)) > 0.1)


def _outputs(system: CDVAE, crystals: Sequence[Crystal], bonds: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Latent means, vectors and type logits at one noisy state, loss and its gradient, in the system's precision."""
    dtype, device = system.lattice_shift.dtype, system.lattice_shift.device
    batch = system.pack(crystals, bonds)
    batch = batch.replace(frac=batch.frac.to(dtype), lattice_ang=batch.lattice_ang.to(dtype))
    cells = Cells.of(batch.lattice_ang, batch.n_atoms, len(batch.frac))
    draws = torch.Generator().manual_seed(1)
    z = torch.randn(len(batch), system.latent_width, generator=draws).to(device, dtype)
    frac = torch.rand(len(batch.frac), 3, generator=draws).to(device, dtype)
    times = None
    if system.config.process == "ddpm":
        times = torch.linspace(0.01, 0.99, len(batch), device=device, dtype=dtype)
    with torch.no_grad():
        search = system.denoiser.neighbours(cells.lattice_ang, cells.n_atoms)
        vectors, logits = system.denoiser(z, frac, batch.atomic_numbers, cells.crystal, search, times)
        latent = system.encode(batch).mean
    with same_draws():
        loss = system.train().loss(batch, torch.Generator().manual_seed(2), epoch=0).total
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in system.parameters() if p.grad is not None])
    return {"latent": latent, "vectors": vectors, "types": logits, "loss": loss, "gradient": gradient}


def family_rows(errors: dict[str, dict[str, float]]) -> str:
    """The checks of the family as lines of text."""
    names = list(next(iter(errors.values())))
    head = " ".join(["system".ljust(18), *(f"{name:>13}" for name in names)])
    rows = (" ".join([system.ljust(18), *(f"{row[name]:>13.2g}" for name in names)]) for system, row in errors.items())
    return "\n".join([head, *rows])


# --- trainings --------------------------------------------------------------------------------------------------------


class OutOfTimeError(RuntimeError):
    """The minutes are over; what was being done has left a state to go on from."""


class Interrupt(Callback):
    """Ends a training at a moment, with its state kept, as one that is not finished."""

    def __init__(self, end: float, state: Path) -> None:
        self._end, self._state = end, state

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:
        """Called after each step."""
        if time.monotonic() > self._end and pl_module.steps_done < pl_module.config.max_steps:
            save_state(trainer, self._state)
            raise OutOfTimeError(f"at step {pl_module.steps_done} of {pl_module.config.max_steps}")


def reproduce(config: AnyReproduction, minutes: float) -> dict[str, Any]:
    """Work on the stages in order until the time is over; what came of each."""
    end = time.monotonic() + 60 * minutes
    said: dict[str, Any] = {}

    def tell(what: str, done: int, total: int) -> None:
        if time.monotonic() > end and done < total:
            raise OutOfTimeError(f"{what}: {done} of {total}")

    paper = paper_of(config)
    for stage in paper.stages:
        for key in paper.keys(stage) if stage in config.stages else ():
            try:
                if time.monotonic() > end:
                    raise OutOfTimeError("not begun")
                if stage in paper.trainings:
                    interrupt = Interrupt(end, key.folder(config) / "resume.ckpt")
                    result = paper.train(key, [interrupt], try_out=False)
                else:
                    result = paper.measure(key, tell)
                metrics = {m.metric.name: m.metric.value for m in result.metrics}
                said[key.name] = {"reused": result.reused, **metrics, **result.budget}
            except (OutOfTimeError, NotReadyError, ImportError) as error:  # a bare machine lacks packages
                said[key.name] = f"{type(error).__name__}: {error}"
    return said


# --- results that travel ----------------------------------------------------------------------------------------------


class _Pieces(io.RawIOBase):
    """A stream written into files of at most PIECE_BYTES, results-00, results-01, ..."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._written = folder, 0

    def write(self, data: Any) -> int:
        left = memoryview(data)
        while left:
            number, used = divmod(self._written, PIECE_BYTES)
            part = left[: PIECE_BYTES - used]
            with (self._folder / f"results-{number:02d}").open("ab") as file:
                file.write(part)
            self._written += len(part)
            left = left[len(part) :]
        return len(data)


def _wanted(config: AnyReproduction) -> Iterator[tuple[int, int, Path]]:
    """Files worth taking home: (rank, bytes, path). Bonds, datasets and states of finished trainings are made again."""
    paper = paper_of(config)
    trained = [key for stage in paper.trainings for key in paper.keys(stage)]
    finished = {key.folder(config) for key in trained if _is_finished(key, config)}
    for path in sorted(config.folder.rglob("*")):
        inside = path.relative_to(config.folder).parts
        if not path.is_file() or any(part.startswith(".") or part == "bonds" for part in inside):
            continue
        if path.name != "resume.ckpt":
            yield int(path.suffix == ".safetensors"), path.stat().st_size, path
        elif path.parent not in finished:
            yield 2, path.stat().st_size, path


def _is_finished(key: ResultKey, config: AnyReproduction) -> bool:
    return Result.read(key.file(config)) is not None


def pack(config: AnyReproduction, out: Path) -> list[str]:
    """Write the results as pieces of a tar file; the files that did not fit, smallest first: models, then states."""
    for old in out.glob("results-*"):
        old.unlink()
    left_out, used = [], 0
    with tarfile.open(fileobj=_Pieces(out), mode="w|") as tar:
        for _, size, path in sorted(_wanted(config)):
            name = path.relative_to(config.folder).as_posix()
            taken = (size + 2 * tarfile.BLOCKSIZE) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            if used + taken > RESULTS_BYTES:
                left_out.append(f"{name} ({size / 2**20:.0f} MiB)")
                continue
            used += taken
            tar.add(path, name)
    return left_out


def unpack(pieces: Path, config: AnyReproduction) -> None:
    """Put packed results where they were, unless this machine has results of its own.

    Raises: SystemExit: if the folder holds no pieces.
    """
    if config.folder.is_dir():
        return
    files = sorted(pieces.glob("results-*"))
    if not files:
        sys.exit(f"{pieces} holds no results-00: expected what an earlier call left in its --out")
    config.folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(file.read_bytes() for file in files))) as tar:
        tar.extractall(config.folder, filter="data")
