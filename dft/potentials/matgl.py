"""matgl's potentials as energy networks: found, read, and built with either aggregation.

matgl 3 reversed the end of an edge at which messages are summed, without changing any version number; weights trained
before load silently and give wrong compounds (elements come out right). Nothing is patched here: M3GNet is computed by
our own layers, which take the aggregation as an argument, and a TensorNet's embedding is replaced, in this one
instance, by a subclass that sums at the other end.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pymatgen.core.periodic_table import Element
from torch import Tensor, nn

from dft.potentials.aggregation import Aggregation
from dft.potentials.errors import PotentialError, PotentialNotFoundError
from dft.potentials.files import MODEL_FILES, read_potential
from dft.potentials.graph_model import EnergyNetwork, GraphModel
from dft.potentials.interface import Asked, Reading, fingerprint_of
from dft.potentials.m3gnet import M3GNetEnergy, can_be_fused
from dft.potentials.neighbours import EdgeBatch
from dft.results import EnergyScheme
from dft.stored_classes import ForeignClassError

logger = logging.getLogger(__name__)

HUB_TIMEOUT_S = 4.0
"""Longest wait to learn whether the hub answers; matgl alone retries an unreachable hub for 49 s."""

SCHEMES = {
    "M3GNet-MP-2021.2.8-PES": EnergyScheme.RAW,
    "M3GNet-MatPES-PBE-v2025.1-PES": EnergyScheme.OTHER,
    "TensorNet-MatPES-PBE-v2025.1-PES": EnergyScheme.OTHER,
}
"""What weights of matgl learned, by the name of their folder; a folder by another name states nothing."""


def readings(asked: Asked) -> Iterator[Reading]:
    """A matgl potential with either aggregation, matgl's own first; see dft.potentials.interface.Loader."""
    folder, where = find_matgl_folder(asked.name, asked.search)
    if folder is None:
        raise PotentialNotFoundError(f"potential {asked.name} was not found: {where}")
    label = Path(asked.name).name
    try:
        potential = load_matgl(folder)
    except ForeignClassError as error:
        raise PotentialError(f"potential {label} ({where}) is refused: {error}; choose another potential") from error
    except (ValueError, OSError) as error:
        raise PotentialError(
            f"potential {label} ({where}) cannot be read: {error}; fetch its three files again or choose another"
        ) from error
    for aggregation in Aggregation:
        if (network := build_network(potential, aggregation)) is None:
            continue
        yield Reading(
            GraphModel(network, asked.device),
            method=f"{label} ({aggregation} aggregation)",
            fingerprint=fingerprint_of(network.atomic_numbers, str(aggregation), network.state_dict()),
            licence="that of the folder's weights; those of matgl's hub are under BSD-3-Clause",
            notes=(f"{label} was read from {where}",),
            way=f"{aggregation} aggregation",
            reason="the end of each edge its weights were trained with",
            correction=f"edges summed at their {aggregation}",
            scheme=SCHEMES.get(label, EnergyScheme.UNSTATED),
        )


def find_matgl_folder(name: str, search: Sequence[Path], *, hub: bool = True) -> tuple[Path | None, str]:
    """The folder that holds a matgl potential, and where it was found or why it was not.

    Looks at `name` as a path, in the `search` folders, in matgl's cache, then asks matgl's hub (unless `hub` is false).
    """
    places = [Path(name).expanduser(), *(folder / name for folder in search)]
    for folder in places:
        if _is_model_folder(folder):
            return folder, f"folder {folder.name}"
    from matgl.config import MATGL_CACHE
    from matgl.utils.io import HF_MATGL_ORG

    if _is_model_folder(MATGL_CACHE / name):
        return MATGL_CACHE / name, "matgl's cache"
    if os.sep in name.strip(os.sep) and "/" in name and not _looks_like_repository(name):
        return None, "no folder of this path holds " + ", ".join(MODEL_FILES)
    repository = name if "/" in name else f"{HF_MATGL_ORG}/{name}"
    cached = _cached_snapshot(repository, MATGL_CACHE)
    if cached is not None:
        return cached, "matgl's cache"
    if not hub:
        return None, "not in the search folders or matgl's cache, and the hub was not asked"
    problem = _hub_problem(repository)
    if problem is not None:
        return None, f"not in the search folders or matgl's cache, and matgl's hub {problem}"
    return _download(repository, MATGL_CACHE)


def load_matgl(folder: Path) -> Any:
    """matgl's Potential from a folder, in evaluation mode; nothing that the folder names is imported or run.

    Raises:
        ValueError: if the folder does not hold an interatomic potential, is damaged, or names a class that no potential
            needs (dft.stored_classes.ForeignClassError).
    """
    try:
        return read_potential(folder).eval()
    except (ValueError, OSError):
        raise
    except Exception as error:  # contents of a foreign folder can fail anywhere inside torch and matgl
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def build_network(potential: Any, aggregation: Aggregation) -> EnergyNetwork | None:
    """This potential as an energy network, or None where its architecture knows only matgl's own aggregation."""
    numbers = tuple(Element(symbol).Z for symbol in potential.model.element_types)
    if can_be_fused(potential):
        return M3GNetEnergy(potential, aggregation, numbers)
    if aggregation is Aggregation.SOURCE:
        return MatglEnergy(potential, numbers)
    if type(potential.model).__name__ == "TensorNet":
        return MatglEnergy(_with_destination_embedding(potential), numbers)
    return None


class MatglEnergy(EnergyNetwork):
    """Any two-body matgl potential, run by matgl's own layers."""

    def __init__(self, potential: Any, atomic_numbers: tuple[int, ...]) -> None:
        super().__init__()
        self.potential = potential
        self.cutoff_ang, self.atomic_numbers = float(potential.model.cutoff), atomic_numbers

    def forward(self, species: Tensor, edges: EdgeBatch, crystal: Tensor, n_crystals: int) -> Tensor:
        """See EnergyNetwork."""
        vector = edges.vector_ang
        graph = SimpleNamespace(
            node_type=species,
            # matgl forms r[target] + shift - r[source]; with every r zero the shift is the vector itself
            pos=vector.new_zeros(len(species), 3),
            pbc_offshift=vector,
            edge_index=torch.stack([edges.source, edges.target]),
            batch=crystal,
            num_graphs=n_crystals,
            num_nodes=len(species),
        )
        potential = self.potential
        energy: Tensor = potential.model(g=graph, state_attr=None, l_g=None).reshape(n_crystals).double()
        potential.model.feature_dict = {}  # matgl keeps every layer's output there, and with it the whole graph
        energy = potential.data_std.double() * energy + potential.data_mean.double()
        if potential.element_refs is not None:
            offset = potential.element_refs.property_offset.double().flatten()[species]
            energy = energy + torch.zeros_like(energy).index_add(0, crystal, offset)
        return energy


def _with_destination_embedding(potential: Any) -> Any:
    """A copy of a TensorNet potential whose embedding sums messages at the edges' destination."""
    from matgl.layers._embedding import TensorEmbedding

    class DestinationEmbedding(TensorEmbedding):  # type: ignore[misc]
        """Handed the edges reversed, the base class sums at our destination; only its message has to be turned back."""

        def forward(
            self,
            z: Tensor,
            edge_index: Tensor,
            edge_attr: Tensor,
            edge_weight: Tensor,
            edge_vec: Tensor,
            state_attr: Tensor | None = None,
        ) -> tuple[Tensor, Tensor | None]:
            result: tuple[Tensor, Tensor | None] = super().forward(
                z, edge_index.flip(0), edge_attr, edge_weight, edge_vec, state_attr
            )
            return result

        def message(
            self,
            x_i: Tensor,
            x_j: Tensor,
            edge_attr: Tensor,
            edge_weight: Tensor,
            Iij: Tensor,
            Aij: Tensor,
            Sij: Tensor,
        ) -> tuple[Tensor, Tensor, Tensor]:
            result: tuple[Tensor, Tensor, Tensor] = super().message(x_j, x_i, edge_attr, edge_weight, Iij, Aij, Sij)
            return result

    copied = copy.deepcopy(potential)
    embedding = copied.model.tensor_embedding
    if type(embedding) is not TensorEmbedding:
        raise ValueError(
            f"TensorNet's embedding is a {type(embedding).__module__}.{type(embedding).__name__}, whose aggregation "
            "cannot be turned: load the model with use_warp=False"
        )
    turned = DestinationEmbedding.__new__(DestinationEmbedding)
    nn.Module.__init__(turned)
    turned.__dict__.update(embedding.__dict__)
    copied.model.tensor_embedding = turned
    return copied


def _is_model_folder(folder: Path) -> bool:
    return all((folder / name).is_file() for name in MODEL_FILES)


def _looks_like_repository(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _cached_snapshot(repository: str, cache: Path) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, name, cache_dir=str(cache)) for name in MODEL_FILES]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0].parent if len(paths) == len(MODEL_FILES) else None


def _hub_problem(repository: str) -> str | None:
    """Why the hub cannot serve this repository, or None if it answers for it; bounded by HUB_TIMEOUT_S."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "is switched off by HF_HUB_OFFLINE"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    answer: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{endpoint}/api/models/{repository}", timeout=HUB_TIMEOUT_S):
                answer.append(None)
        except urllib.error.HTTPError as error:
            answer.append(f"has no model {repository} (HTTP {error.code})")
        except (OSError, ValueError) as error:
            answer.append(f"cannot be reached ({error})")

    # name resolution ignores socket timeouts, so the wait is bounded from outside
    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(HUB_TIMEOUT_S)
    return answer[0] if answer else f"did not answer within {HUB_TIMEOUT_S:.0f} s"


def _download(repository: str, cache: Path) -> tuple[Path | None, str]:
    from huggingface_hub import hf_hub_download

    try:
        paths = [Path(hf_hub_download(repository, name, cache_dir=str(cache))) for name in MODEL_FILES]
    except Exception as error:  # the hub's client raises a family of its own, httpx's and the system's errors
        return None, f"download of {repository} from matgl's hub failed ({type(error).__name__}: {error})"
    return paths[0].parent, f"matgl's hub ({repository})"
