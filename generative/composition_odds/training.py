"""Train the odds of compositions again: a program of its own.

    hullward ingest mine.csv --out datasets/mine
    python -m generative.composition_odds.training datasets/mine --out composition_odds.safetensors

Not a system of `hullward train`: that loop gives batches of crystals; here a batch holds chemical systems with all
compositions that they could have, most known crystals come without coordinates, and what is made draws none.

Shape letters: as in model.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn

from generative.composition_odds.model import (
    COUNTS,
    PER_CELL,
    PER_ELEMENT,
    CompositionOdds,
    candidates,
    charge_features,
    features,
    scores,
)
from generative.crystal.species import MAX_Z, element_properties
from generative.datasets.manifest import read_dataset
from generative.datasets.site_labels import read_site_labels
from generative.requests import Content
from storage.atomic import writing

logger = logging.getLogger(__name__)

N_ELEMENTS_MAX, N_ATOMS_MAX = 4, COUNTS
"""Larger cells and systems are left out of the training: few are known, and their candidates are many."""

AT_ONCE, SAMPLED = 64, 512
"""Chemical systems of a step; candidates of each that are drawn beside those that occur in the step."""

LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 3e-3, 0.05, 0.1

System = tuple[int, ...]
"""Atomic numbers, ascending."""

Known = Mapping[System, Sequence[tuple[int, ...]]]
"""The compositions that are known of each chemical system: atoms of each element in the primitive cell."""


class Sizes(NamedTuple):
    """Of the network: of an element's vector, of the layer per element, of the layer per cell."""

    vector: int = 24
    per_element: int = 32
    per_cell: int = 32


def known_cells(datasets: Sequence[Path], labels: Sequence[Path], exclude: Sequence[Path]) -> list[Content]:
    """Distinct contents of primitive cells, sorted.

    Args:
        datasets: folders made by `hullward ingest`.
        labels: files of crystals without coordinates (datasets/site_labels.py).
        exclude: datasets whose crystals, by their ids at the source, are left out.
    """
    hidden = {str(name) for folder in exclude for name in read_dataset(folder).table["source_id"].to_pylist()}
    found: set[Content] = set()
    for folder in datasets:
        table = read_dataset(folder).table
        for name, numbers in zip(table["source_id"].to_pylist(), table["atomic_numbers"].to_pylist(), strict=True):
            if str(name) not in hidden and numbers:
                z, n = np.unique(numbers, return_counts=True)
                found.add(tuple(zip(z.tolist(), n.tolist(), strict=True)))
    for path in labels:
        found |= {tuple(sorted(label.counts.items())) for label in read_site_labels(path, hidden)[0]}
    return sorted(cell for cell in found if len(cell) <= N_ELEMENTS_MAX and sum(n for _, n in cell) <= N_ATOMS_MAX)


def by_system(cells: Iterable[Content]) -> Known:
    """The same, by chemical system."""
    found: dict[System, list[tuple[int, ...]]] = defaultdict(list)
    for cell in cells:
        found[tuple(z for z, _ in cell)].append(tuple(n for _, n in cell))
    return found


class Fit(nn.Module):
    """The weights while they are trained: an element's vector is made of its properties and what is learned of it."""

    properties: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        d, h, g = sizes
        self.register_buffer("properties", element_properties())
        self.element = nn.Parameter(torch.randn(MAX_Z + 1, d) * 0.1)
        self.of_properties = nn.Parameter(torch.randn(self.properties.shape[1], d) / self.properties.shape[1] ** 0.5)
        # What no training crystal has, such as many elements, has no part in the score: features begin at zero.
        shapes = {"own": (d, h), "company": (d, h), "sum": (h, g), "mean": (h, g), "charge": (2, g), "system": (d, g)}
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(shape) / shape[0] ** 0.5) for name, shape in shapes.items()}
            | {"count": nn.Parameter(torch.zeros(PER_ELEMENT, h)), "cell": nn.Parameter(torch.zeros(PER_CELL, g))}
            | {"out": nn.Parameter(torch.randn(g) * 0.1 / g**0.5), "bias": nn.Parameter(torch.zeros(g))}
            | {"cell_out": nn.Parameter(torch.zeros(PER_CELL))}
        )

    def vectors(self) -> Tensor:
        """Of every element, by atomic number."""
        return self.element + self.properties @ self.of_properties

    def finished(self) -> dict[str, np.ndarray]:
        """The file's weights, in half precision."""
        found = {name: value for name, value in self.weights.items()} | {"element": self.vectors()}
        return {name: value.detach().numpy().astype(np.float16) for name, value in found.items()}


class Candidates:
    """All compositions of k elements, with their features."""

    def __init__(self, n_elements: int) -> None:
        self.counts = candidates(n_elements, 1, N_ATOMS_MAX)
        self.place = {tuple(row): i for i, row in enumerate(self.counts.tolist())}
        self.of_elements, self.of_cells = (torch.as_tensor(x, dtype=torch.float32) for x in features(self.counts))
        self._charges: dict[System, Tensor] = {}

    def charges(self, system: System) -> Tensor:
        """See charge_features, of all candidates; kept, since they are asked for in every epoch."""
        if system not in self._charges:
            self._charges[system] = torch.as_tensor(charge_features(system, self.counts), dtype=torch.float16)
        return self._charges[system]


def step_loss(fit: Fit, systems: Sequence[System], known: Known, all_: Candidates, rng: np.random.Generator) -> Tensor:
    """Minus the mean logarithm of the probability of what is known, its softmax over a sample of the candidates.

    Those that occur in the step are all there; of the others each that is drawn stands for as many as were not.
    """
    rows, right = zip(
        *((row, all_.place[cell]) for row, system in enumerate(systems) for cell in known[system]), strict=True
    )
    there = sorted(set(right))
    others = np.setdiff1d(np.arange(len(all_.counts)), there)
    drawn = rng.choice(others, min(SAMPLED, len(others)), replace=False)
    chosen = torch.as_tensor(np.concatenate([there, drawn]).astype(np.int64))
    stands_for = torch.zeros(len(chosen))
    if len(drawn):
        stands_for[len(there) :] = math.log(len(others) / len(drawn))
    vectors = nn.functional.dropout(fit.vectors()[torch.tensor(systems)], DROPOUT)
    charges = torch.stack([all_.charges(system)[chosen] for system in systems]).float()
    score = scores(dict(fit.weights), vectors, all_.of_elements[chosen], all_.of_cells[chosen], charges)
    place = {candidate: i for i, candidate in enumerate(there)}
    found: Tensor = (score + stands_for).log_softmax(1)[list(rows), [place[i] for i in right]]
    return -found.mean()


def fitted(known: Known, sizes: Sizes, epochs: int = 12, seed: int = 0) -> Iterator[tuple[float, Fit]]:
    """Train; the mean loss of each epoch, and the weights after it."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    fit = Fit(sizes)
    groups = {k: [s for s in known if len(s) == k] for k in range(1, N_ELEMENTS_MAX + 1)}
    all_ = {k: Candidates(k) for k, systems in groups.items() if systems}
    n_steps = epochs * sum(-(-len(systems) // AT_ONCE) for systems in groups.values())
    optimiser = torch.optim.AdamW(fit.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 50) * max(0.02, 1 - step / n_steps)
    )
    for _ in range(epochs):
        orders = {k: rng.permutation(len(systems)) for k, systems in groups.items()}
        steps = [(k, first) for k, systems in groups.items() for first in range(0, len(systems), AT_ONCE)]
        losses = []
        for number in rng.permutation(len(steps)):
            k, first = steps[number]
            systems = [groups[k][i] for i in orders[k][first : first + AT_ONCE]]
            loss = step_loss(fit, systems, known, all_[k], rng)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(fit.parameters(), 1.0)
            optimiser.step()
            rate.step()
            losses.append(loss.item())
        yield float(np.mean(losses)), fit


def ranks(odds: CompositionOdds, cells: Sequence[Content]) -> list[int]:
    """How many candidates of the same elements, of up to N_ATOMS_MAX atoms, are more probable than each cell."""
    found = []
    for cell in cells:
        counts = candidates(len(cell), 1, N_ATOMS_MAX)
        chance = odds.log_probabilities([z for z, _ in cell], counts)
        own = int((counts == [n for _, n in cell]).all(1).argmax())
        found.append(int((chance > chance[own]).sum()))
    return found


def main() -> None:
    """See the docstring of the module; with --held-out it says how well what it was not shown is ranked."""
    parser = argparse.ArgumentParser(description="Train the odds of compositions for conditions.policy 'likely'.")
    parser.add_argument("datasets", nargs="+", type=Path, help="folders made by `hullward ingest`")
    parser.add_argument("--labels", nargs="*", type=Path, default=[], help="Parquet of crystals without coordinates")
    parser.add_argument("--exclude", nargs="*", type=Path, default=[], help="datasets whose ids are left out")
    parser.add_argument("--out", type=Path, required=True, help="file of weights")
    parser.add_argument("--sizes", nargs=3, type=int, default=list(Sizes()), help="of the network")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--held-out", type=float, default=0.0, help="share of formulas that are only ranked")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cells = known_cells(given.datasets, given.labels, given.exclude)
    formulas = sorted({_reduced(cell) for cell in cells})
    order = np.random.default_rng(given.seed).permutation(len(formulas))
    held = {formulas[i] for i in order[: round(given.held_out * len(formulas))]}
    shown = [cell for cell in cells if _reduced(cell) not in held]
    hidden = [cell for cell in cells if _reduced(cell) in held and 1 < len(cell) <= 3]
    logger.info("%d cells are learned from; %d of held-out formulas are ranked", len(shown), len(hidden))
    for loss, fit in fitted(by_system(shown), Sizes(*given.sizes), given.epochs, given.seed):
        said: dict[str, float] = {"loss": round(loss, 4)}
        if hidden:
            place = np.array(ranks(CompositionOdds(fit.finished()), hidden[:: max(1, len(hidden) // 500)]))
            said |= {f"within_{n}": round(float((place < n).mean()), 3) for n in (8, 16, 64, 256)}
        logger.info(json.dumps(said))
    with writing(given.out) as new:
        new.write_bytes(save(fit.finished()))


def _reduced(cell: Content) -> Content:
    whole = math.gcd(*(n for _, n in cell))
    return tuple((z, n // whole) for z, n in cell)


if __name__ == "__main__":
    main()
