"""Features of crystals by a small trained network, for the Frechet distance that papers take from a CGCNN.

The paper on adaptive crystal cells (arXiv:2310.10695) compares the activations of the layer before the last of a CGCNN
that is not published; such values depend on the network entirely. So metrics made of these features carry its name and
digest, 'CGCNN 0123456789ab', and compare with metrics of the same digest alone: neither with a paper's nor with those
of other weights. Weights are safetensors and JSON; nothing in them can run code, and files that do not fit each other
are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from generative.crystal.crystals import Crystal
from generative.metrics.fingerprints import Fingerprints
from generative.networks.crystal_graph import CrystalGraph, NoGraphError, crystal_graph
from storage.progress import Progress

if TYPE_CHECKING:
    from generative.networks.cgcnn import CGCNN

SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "cgcnn-features"
WEIGHTS_FILE = "cgcnn.safetensors"
ABOUT_FILE = "cgcnn.json"
RECIPE = "pooled vector, 12 neighbours within 8 A, 1"
"""Names the computation and is part of the digest; the number rises when the values change for the same weights."""

_BATCH_ATOMS = 2048


class NetworkError(ValueError):
    """Weights that cannot be used; the message says which file and why."""


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A loaded network.

    Attributes:
        network: in evaluation mode, float64: at float32, features would depend on the batch in their sixth digit.
        elements: atomic numbers it was trained on; of others it knows nothing.
        digest: SHA-256 of the recipe, sizes, elements and weights.
        training: how it was made.
    """

    network: CGCNN
    elements: frozenset[int]
    digest: str
    training: dict[str, Any]

    @property
    def name(self) -> str:
        """As metrics state it: 'CGCNN' and the digest's first twelve characters."""
        return f"CGCNN {self.digest[:12]}"


@lru_cache(maxsize=2)
def load_network(folder: Path = SHIPPED) -> FeatureNetwork:
    """The network in a folder, the shipped one or a checkpoint of kind 'cgcnn-features'. Loaded once per process.

    Raises: NetworkError: if a file is missing or damaged, or the weights are not those that the description names.
    """
    from generative.checkpoints import CheckpointError

    try:
        read = _stored if (folder / ABOUT_FILE).is_file() else _of_checkpoint
        network, elements, weights_sha256, training = read(folder)
    except NetworkError:
        raise
    except CheckpointError as error:
        raise NetworkError(f"{error}; a feature network is made by `hullward train train-cgcnn-features`") from None
    except Exception as error:  # safetensors, json and torch each raise their own kinds
        raise NetworkError(
            f"{folder} is not a readable feature network: expected {ABOUT_FILE} and {WEIGHTS_FILE}, or a checkpoint of "
            f"`hullward train train-cgcnn-features` ({' '.join(str(error).split())[:200]})"
        ) from error
    identity = {
        "recipe": RECIPE,
        "config": asdict(network.config),
        "elements": sorted(elements),
        "weights": weights_sha256,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return FeatureNetwork(network.double().eval(), elements, digest, training)


def _stored(folder: Path) -> tuple[CGCNN, frozenset[int], str, dict[str, Any]]:
    """Network, elements, digest of the weights and making of weights in the form of the shipped ones."""
    from safetensors.torch import load

    from generative.networks.cgcnn import CGCNN, CGCNNConfig

    about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    weights = (folder / WEIGHTS_FILE).read_bytes()
    found, stated = hashlib.sha256(weights).hexdigest(), about["weights_sha256"]
    if found != stated:
        raise NetworkError(
            f"{folder / WEIGHTS_FILE} has the SHA-256 {found[:12]}...: expected {str(stated)[:12]}... as "
            f"{ABOUT_FILE} says, so copy both files again"
        )
    if about["recipe"] != RECIPE:
        raise NetworkError(f"{folder} is made for {about['recipe']!r}: expected {RECIPE!r}, so train it again")
    network = CGCNN(CGCNNConfig(**about["config"]))
    network.load_state_dict(load(weights))
    return network, frozenset(int(z) for z in about["elements"]), found, dict(about["training"])


def _of_checkpoint(folder: Path) -> tuple[CGCNN, frozenset[int], str, dict[str, Any]]:
    """The same of a checkpoint."""
    from generative import checkpoints
    from generative.systems.cgcnn_features import CGCNNFeatures

    system = checkpoints.load(str(folder)).system
    if not isinstance(system, CGCNNFeatures):
        raise NetworkError(f"{folder} holds a {system.name}: expected a checkpoint of {CGCNNFeatures.name}")
    about = checkpoints.about(str(folder))
    return system.network, system.known_elements, about["weights_sha256"], about["training"]


def network_features(
    crystals: Sequence[Crystal | None],
    workers: int = 1,
    network: FeatureNetwork | None = None,
    progress: Progress | None = None,
) -> Fingerprints:
    """The pooled vector of each crystal, (n, 64) with the shipped network.

    Absolute values, and distances between them, mean something within one network only: `recipe` names it.

    Args:
        crystals: None is a failed sample, which gets a reason, as does a crystal that is no graph (crystal_graph) or
            holds an element that the network was not trained on.
        workers: CPU threads; the result depends on it by rounding at most.
        network: None takes the shipped one.
        progress: called after each batch.

    Raises: NetworkError: if the shipped weights are damaged.
    """
    started_s = time.perf_counter()
    used = network or load_network()
    values = np.full((len(crystals), used.network.config.n_features), math.nan)
    reasons: dict[int, str] = {}
    done = 0
    with _threads(workers):
        for places, graphs in _batches(crystals, used, reasons):
            done += len(places)
            values[places] = _pooled(used, graphs)
            if progress is not None:
                progress(done + len(reasons), len(crystals))
    for i in np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
        values[i] = math.nan
        reasons.setdefault(i, f"{used.name}: the features are not finite")
    reasons = dict(sorted(reasons.items()))
    recipe = f"{used.name}, {RECIPE}"
    return Fingerprints(values, reasons, time.perf_counter() - started_s, recipe, {"torch": version("torch")})


def _batches(
    crystals: Sequence[Crystal | None], used: FeatureNetwork, reasons: dict[int, str]
) -> Iterator[tuple[list[int], list[CrystalGraph]]]:
    """Graphs with the indices of their crystals, some thousand atoms at a time; reasons are filled in."""
    places: list[int] = []
    graphs: list[CrystalGraph] = []
    n_atoms = 0
    for i, crystal in enumerate(crystals):
        try:
            graph = _graph(crystal, used)
        except NoGraphError as error:
            reasons[i] = f"{used.name}: {error}"
            continue
        if graphs and n_atoms + len(graph.atomic_numbers) > _BATCH_ATOMS:
            yield places, graphs
            places, graphs, n_atoms = [], [], 0
        places.append(i)
        graphs.append(graph)
        n_atoms += len(graph.atomic_numbers)
    if graphs:
        yield places, graphs


def _graph(crystal: Crystal | None, used: FeatureNetwork) -> CrystalGraph:
    if crystal is None:
        raise NoGraphError("there is no crystal")
    graph = crystal_graph(crystal)
    unknown = sorted(set(graph.atomic_numbers.tolist()) - used.elements)
    if unknown:
        raise NoGraphError(f"atomic number {unknown[0]} was not among its training crystals")
    return graph


def _pooled(used: FeatureNetwork, graphs: Sequence[CrystalGraph]) -> np.ndarray:
    import torch

    from generative.networks.cgcnn import pack

    with torch.inference_mode():
        return np.asarray(used.network.features(pack(graphs, torch.float64)).numpy())


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """So many CPU threads for torch, and as many as before afterwards.

    Raises: ValueError: if n is below 1.
    """
    import torch

    if n < 1:
        raise ValueError(f"workers is {n}: expected at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
