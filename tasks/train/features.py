"""Training of the network behind the Frechet distance of network features: `python -m tasks.train.features`.

Formation energies of the files below, without the ids of the test file; one part of the formulas is held out and only
watched: nothing is chosen by it or by the test file, and the last weights are kept. An interrupted training goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.paths import resolve
from generative.config import DataConfig, FilesSource, FilterConfig
from storage.atomic import write_text, writing
from storage.checksums import DamagedFileError, add_checksum, check

if TYPE_CHECKING:
    from generative.networks.cgcnn import CGCNN
    from generative.networks.crystal_graph import CrystalGraph

MATERIALS_PROJECT = "PBE/PBE+U (Materials Project)"
SOURCES = (
    FilesSource(path="assets:data/mp_20_biternary_val.csv.gz", method=MATERIALS_PROJECT),
    FilesSource(path="assets:data/mpts_52_val.csv.gz", method=MATERIALS_PROJECT),
    FilesSource(path="assets:data/wbm_val.csv.gz", method="PBE/PBE+U (WBM, Materials Project settings)"),
)
TEST = FilesSource(path="assets:data/mp_20_biternary_test.csv.gz", method=MATERIALS_PROJECT)
N_CHECKED = 200
"""First rows of the test file, whose error is stated apart: few enough for a test to compute again."""


@dataclass(frozen=True)
class FeatureTraining:
    """How the network is trained.

    Attributes:
        seed: of weights, held-out formulas and batches.
        n_steps: optimiser steps.
        batch_crystals: crystals per step.
        peak_rate: of AdamW, reached after `warmup_steps` and led to zero along a cosine.
        warmup_steps: linear.
        weight_decay: decoupled.
        clip_norm: of the gradient.
        held_out: part of the formulas that are not trained on.
        n_atoms_max: in the primitive cell.
        checkpoint_steps: between checkpoints.
    """

    seed: int = 0
    n_steps: int = 8000
    batch_crystals: int = 64
    peak_rate: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    held_out: float = 0.03
    n_atoms_max: int = 20
    checkpoint_steps: int = 250


@dataclass(frozen=True)
class Labelled:
    """Graphs with formation energies, eV/atom, reduced formulas and ids, row by row."""

    graphs: list[CrystalGraph]
    energies_ev_per_atom: np.ndarray
    formulas: list[str]
    ids: list[str]

    def take(self, rows: Sequence[int]) -> Labelled:
        """Some of the rows."""
        return Labelled(
            [self.graphs[i] for i in rows],
            self.energies_ev_per_atom[list(rows)],
            [self.formulas[i] for i in rows],
            [self.ids[i] for i in rows],
        )


def _labelled(data: DataConfig, folder: Path, exclude: frozenset[str] = frozenset()) -> tuple[Labelled, str]:
    """Crystals of these sources that have a graph and an energy, each id once, and the table's fingerprint."""
    from generative.crystal.crystals import crystals_of
    from generative.datasets.formats.columns import is_row_number
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import is_whole, read_dataset
    from generative.networks.crystal_graph import NoGraphError, crystal_graph

    if not is_whole(folder):
        ingest(data, None, folder, resolve)
    dataset = read_dataset(folder)
    table = dataset.table
    columns = (table.column(name).to_pylist() for name in ("formation_energy_ev_per_atom", "formula", "source_id"))
    graphs, energies, formulas, ids = [], [], [], []
    seen = set(exclude)
    n_without = 0
    for crystal, energy, formula, source_id in zip(crystals_of(table), *columns, strict=True):
        is_repeat = source_id in seen and not is_row_number(source_id)
        if is_repeat or crystal is None or energy is None:
            continue
        seen.add(source_id)  # rows of the Materials Project's files overlap
        try:
            graphs.append(crystal_graph(crystal))
        except NoGraphError:
            n_without += 1
            continue
        energies.append(float(energy))
        formulas.append(str(formula))
        ids.append(str(source_id))
    print(f"{folder.name}: {len(graphs):,} crystals, {n_without} without a graph", flush=True)  # noqa: T201
    return Labelled(graphs, np.array(energies), formulas, ids), dataset.manifest.fingerprint_sha256


def train_features(folder: Path, config: FeatureTraining) -> Path:
    """Train the network and write weights, description and card into `folder`/cgcnn-features.

    Args:
        folder: working folder: datasets, resume.pt, log; a training that stopped goes on from there.
        config: sizes and budget.
    Returns: the folder of the weights.
    """
    import torch

    from generative.datasets.splits import formula_split
    from generative.metrics.network_features import save_network

    test, _ = _labelled(DataConfig(sources=(TEST,)), folder / "test")
    data = DataConfig(sources=SOURCES, filters=FilterConfig(n_atoms_max=config.n_atoms_max))
    known, fingerprint = _labelled(data, folder / "dataset", frozenset(test.ids))
    parts = formula_split(
        known.formulas, (1 - config.held_out, config.held_out), np.random.default_rng((config.seed, 1))
    )
    train, held = (known.take(part.tolist()) for part in parts)
    network, seconds = _fit(train, held, folder, config)
    network.eval()
    elements = sorted({int(z) for graph in train.graphs for z in graph.atomic_numbers})
    training = {
        "settings": asdict(config),
        "sources": [{"path": source.path, "method": source.method} for source in SOURCES],
        "test": TEST.path,
        "data_fingerprint_sha256": fingerprint,
        "crystals_trained": len(train.graphs),
        "minutes": round(seconds / 60, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
        "figures": _figures(network, train, held, test),
    }
    place = folder / "cgcnn-features"
    save_network(place, network, elements, training)
    write_text(place / "MODEL_CARD.md", card_text(place))
    return place


def _fit(train: Labelled, held: Labelled, folder: Path, config: FeatureTraining) -> tuple[CGCNN, float]:
    """The trained network and the wall time of its steps, s."""
    import torch

    from generative.networks.cgcnn import pack

    network = _fresh(train, config)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.peak_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rate(config))
    parts = {"network": network, "optimiser": optimiser, "schedule": schedule}
    done, seconds = _restore(folder / "resume.pt", parts, config)
    targets = torch.from_numpy(train.energies_ev_per_atom).float()
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(done, config.n_steps):
        rows = _batch(step, len(train.graphs), config)
        network.train()
        error = network(pack([train.graphs[i] for i in rows])) - targets[rows]
        loss = error.abs().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % config.checkpoint_steps == 0 or step + 1 == config.n_steps:
            wall = seconds + time.perf_counter() - started
            _keep(folder / "resume.pt", parts, config, step + 1, wall)
            shown = f"{step + 1} {np.mean(losses):.4f} {mean_absolute_error(network, held):.4f} {wall:.0f} s"
            print(f"step, training and held-out MAE in eV/atom, time: {shown}", flush=True)  # noqa: T201
            losses.clear()
    return network, seconds + time.perf_counter() - started


def _fresh(train: Labelled, config: FeatureTraining) -> CGCNN:
    """A network of random weights that starts from mean and spread of the training energies."""
    import torch

    from generative.networks.cgcnn import CGCNN, CGCNNConfig

    with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global generator alone
        torch.manual_seed(config.seed)
        network = CGCNN(CGCNNConfig())
    network.mean_ev_per_atom.fill_(float(train.energies_ev_per_atom.mean()))
    network.spread_ev_per_atom.fill_(float(train.energies_ev_per_atom.std()))
    return network


def _restore(resume: Path, parts: dict[str, Any], config: FeatureTraining) -> tuple[int, float]:
    """Steps done and their wall time; network, optimiser and schedule as they were then."""
    import torch

    if not resume.is_file():
        return 0, 0.0
    remedy = "delete it to train anew, or put a copy of it in its place"
    check(resume, remedy)
    try:
        state = torch.load(resume, weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each raise their own kinds
        raise DamagedFileError(f"{resume} cannot be read ({type(error).__name__}): {remedy}") from error
    if state["config"] != asdict(config):
        raise ValueError(f"{resume} is of a training with other settings: train in another folder, or delete it")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"]), float(state["seconds"])


def _keep(resume: Path, parts: dict[str, Any], config: FeatureTraining, step: int, seconds: float) -> None:
    import torch

    state = {name: part.state_dict() for name, part in parts.items()}
    with writing(resume) as temporary:
        torch.save({"config": asdict(config), "step": step, "seconds": seconds, **state}, temporary)
        add_checksum(temporary)


def _batch(step: int, n_crystals: int, config: FeatureTraining) -> list[int]:
    """Rows of one step: every crystal once per epoch, in an order that depends on seed and epoch alone."""
    per_epoch = max(1, n_crystals // config.batch_crystals)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng((config.seed, 2, epoch)).permutation(n_crystals)
    rows: list[int] = order[place * config.batch_crystals : (place + 1) * config.batch_crystals].tolist()
    return rows


def _rate(config: FeatureTraining) -> Callable[[int], float]:
    def factor(step: int) -> float:
        rising = min(1.0, (step + 1) / config.warmup_steps)
        return rising * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.n_steps)))

    return factor


def mean_absolute_error(network: CGCNN, data: Labelled) -> float:
    """Of formation energies, eV/atom; the network is left in evaluation mode."""
    return float(np.mean(_errors(network, data)))


def _errors(network: CGCNN, data: Labelled) -> np.ndarray:
    import torch

    from generative.networks.cgcnn import pack

    network.eval()
    with torch.inference_mode():
        parts = [network(pack(data.graphs[i : i + 128])).numpy() for i in range(0, len(data.graphs), 128)]
    return np.asarray(np.abs(np.concatenate(parts) - data.energies_ev_per_atom))


def _figures(network: CGCNN, train: Labelled, held: Labelled, test: Labelled) -> list[dict[str, Any]]:
    """What the card's table shows: set, number of crystals, and mean absolute error."""
    errors = _errors(network, test)
    known = set(train.formulas)
    new = np.array([formula not in known for formula in test.formulas])
    guess = np.abs(test.energies_ev_per_atom - train.energies_ev_per_atom.mean())
    rows = {
        "test file": errors,
        "test file, formulas that are not among the training crystals": errors[new],
        f"test file, first {N_CHECKED} rows": errors[:N_CHECKED],
        "held-out formulas of the training files": _errors(network, held),
        "test file, the training mean as the guess": guess,
    }
    return [{"set": name, "n": len(e), "mae_ev_per_atom": round(float(e.mean()), 5)} for name, e in rows.items()]


def card_text(place: Path) -> str:
    """The model card of a folder of weights, in Markdown; every figure comes from its description."""
    from generative.metrics.network_features import load_network

    load_network.cache_clear()  # the files may have been written by this very process
    loaded = load_network(place)
    made = loaded.training
    settings = made["settings"]
    table = "\n".join(f"| {row['set']} | {row['n']:,} | {row['mae_ev_per_atom']:.3f} |" for row in made["figures"])
    sources = "\n".join(f"- `{source['path']}`: {source['method']}" for source in made["sources"])
    return f"""# cgcnn-features

A small CGCNN (arXiv:1710.10324) whose pooled vector, {loaded.network.config.n_features} numbers and the layer before
the last, is a fingerprint for Frechet distances (`generative/metrics/network_features.py`).
{sum(p.numel() for p in loaded.network.parameters()):,} parameters, float32; computed in float64.

Distances by these features carry the name `{loaded.name}`. They compare with distances of the same name to the same
reference, and with nothing else: the networks behind the values in papers are not published.

## Figures

Mean absolute error of the formation energy. It says that the features know chemistry and structure; energies for any
other use come from a potential.

| set | crystals | eV/atom |
|---|---|---|
{table}

## Training

{sources}
- Validation parts of the benchmarks' splits; their training parts were not used.
- Without the ids in `{made["test"]}`; primitive cells of up to {settings["n_atoms_max"]} atoms; each id once.
  Fingerprint `{made["data_fingerprint_sha256"]}`.
- {made["crystals_trained"]:,} crystals, {settings["n_steps"]:,} steps of {settings["batch_crystals"]}, AdamW to
  {settings["peak_rate"]:g}, seed {settings["seed"]}; {made["date"]}, {made["minutes"]:g} minutes on {made["machine"]},
  PyTorch {made["torch"]}. Nothing was chosen by the held-out or the test crystals; the last weights are kept.
- Again: `python -m tasks.train.features FOLDER` (needs HULLWARD_ASSETS).

## Limits

{len(loaded.elements)} elements were trained on; a crystal with another one has no features, nor has one with an atom
that has no neighbour within 8 A.

## Licence of the data

Materials Project: CC BY 4.0 (Jain et al. 2013). WBM: CC BY 4.0 (Wang, Botti and Marques 2021).
The split of the first file: CDVAE (Xie et al. 2022), restricted to two and three elements; of the second: MPTS-52
(Baird et al. 2022). No crystal of theirs is contained in the weights' files.
"""


def main() -> None:
    """Command line."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m tasks.train.features", description=__doc__)
    parser.add_argument("folder", type=Path, help="working folder; the result is FOLDER/cgcnn-features")
    parser.add_argument("--steps", type=int, default=FeatureTraining.n_steps, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.folder.mkdir(parents=True, exist_ok=True)
    print(train_features(given.folder, FeatureTraining(n_steps=given.steps)))  # noqa: T201


if __name__ == "__main__":
    main()
