"""The property regressors of CDVAE's authors, taken over by PropertyRegressor parameter for parameter.

They stand behind every published Wasserstein distance of energies of the CDVAE benchmark ('W energy' here): Carbon-24,
Perov-5, MP-20. A file NAME.safetensors holds the tensors of the authors' state_dict by their own names, and
NAME.hparams.yaml beside it the settings they were trained with. Neither comes with Hullward.

    theirs                          here
    encoder.emb.*                   dimenet.embedding.*
    encoder.rbf.*                   dimenet.radial.*
    encoder.interaction_blocks.*    dimenet.interactions.*
    encoder.output_blocks.*         dimenet.outputs.*

What follows the last dot that is named is the same on both sides. The loading is strict: no name may be missing or
left over, no shape may differ, and settings that this network does not follow are refused. The scaling of the target is
not among the tensors; it is CDVAE's prop_scaler of the model that the settings name.

Source: CDVAE (arXiv:2110.06197), github.com/txie-93/cdvae, cdvae/prop_models; MIT.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from generative.networks.dimenet import DimeNetConfig
from generative.systems.cdvae.property_regressor import PropertyRegressor, PropertyRegressorConfig
from generative.systems.cdvae.published_targets import TARGETS, published_name

NAMES: Mapping[str, str] = {
    "encoder.emb.": "dimenet.embedding.",
    "encoder.rbf.": "dimenet.radial.",
    "encoder.interaction_blocks.": "dimenet.interactions.",
    "encoder.output_blocks.": "dimenet.outputs.",
}
"""Beginnings of the authors' names and of ours."""

ENCODER: Mapping[str, str] = {
    "hidden_channels": "edge_width",
    "num_blocks": "n_blocks",
    "int_emb_size": "triplet_width",
    "basis_emb_size": "basis_width",
    "out_emb_channels": "atom_width",
    "num_spherical": "n_spherical",
    "num_radial": "n_radial",
    "cutoff": "cutoff_ang",
    "envelope_exponent": "envelope_exponent",
    "num_before_skip": "n_before_skip",
    "num_after_skip": "n_after_skip",
    "num_output_layers": "n_output_layers",
    "readout": "readout",
}
"""The authors' settings of the network and ours. Their max_num_neighbors counts only for a graph that is made on the
fly, which `otf_graph: false` says it is not: the edges are CrystalNN's bonds."""


class PublishedError(ValueError):
    """Files that are not a regressor of CDVAE's authors; the message names the file and what was expected."""


@dataclass(frozen=True)
class Published:
    """A loaded regressor.

    Attributes:
        system: in evaluation mode.
        name: what figures say of it.
        property_name: what it predicts, eV/atom.
        digest: of its tensors.
    """

    system: PropertyRegressor
    name: str
    property_name: str
    digest: str


def load_published(file: Path, device: torch.device | str = "cpu") -> Published:
    """Load a regressor of CDVAE's authors.

    Args:
        file: NAME.safetensors, with NAME.hparams.yaml beside it.
        device: where it computes.

    Raises: PublishedError: if a file is missing or not readable, a setting is not the network's, or a tensor is
        missing, left over, or of another shape.
    """
    model = _model_of(file)
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise PublishedError(f"{file.name} holds no tensors: {error}; expected safetensors") from None
    system = PropertyRegressor(PropertyRegressorConfig(size="paper"))
    state = _renamed(tensors, file.name)
    target = TARGETS[model]
    state |= {"target_mean": torch.tensor(target.mean), "target_scale": torch.tensor(target.scale)}
    try:
        system.load_state_dict(state, strict=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise PublishedError(f"{file.name} does not hold the published network's parameters: {why}") from None
    digest = digest_of(tensors)
    name = f"regressor in CDVAE's form, {model} of {target.property_name} ({digest[:12]})"
    if digest == target.digest:
        name = published_name(model)
    return Published(system.eval().to(device), name, target.property_name, digest)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values, in the order of the names: the same however the file is written."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().float().contiguous()
        h.update(f"{name}{tuple(value.shape)}".encode())
        h.update(value.numpy().astype("<f4").tobytes())
    return h.hexdigest()


def _renamed(tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    state = {}
    for name, value in tensors.items():
        begin = next((begin for begin in NAMES if name.startswith(begin)), None)
        if begin is None:
            raise PublishedError(f"{file} holds {name!r}: expected names that begin with one of {', '.join(NAMES)}")
        state[NAMES[begin] + name.removeprefix(begin)] = value
    return state


def _model_of(file: Path) -> str:
    """eval_model_name of the settings beside the tensors, all of which this network follows."""
    beside = file.with_suffix(".hparams.yaml")
    missing = [path.name for path in (file, beside) if not path.is_file()]
    if missing:
        raise PublishedError(
            f"{missing[0]} is not in {file.parent}: expected the tensors and the settings side by side"
        )
    try:
        read: Any = yaml.safe_load(beside.read_text(encoding="utf-8"))
        data, encoder = read["data"], read["model"]["encoder"]
        stated = {name: _resolved(encoder[name], read) for name in (*ENCODER, "num_targets", "otf_graph")}
        stated |= {name: data[name] for name in ("graph_method", "eval_model_name", "prop")}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise PublishedError(f"{beside.name} states no {error}: expected the settings of a CDVAE training") from None
    model = stated.pop("eval_model_name")
    if model not in TARGETS:
        raise PublishedError(f"{beside.name} is of the model {model!r}: expected one of {', '.join(TARGETS)}")
    here = asdict(DimeNetConfig())
    followed = {theirs: here[ours] for theirs, ours in ENCODER.items()}
    followed |= {"num_targets": 1, "otf_graph": False, "graph_method": "crystalnn"}
    followed["prop"] = TARGETS[model].property_name
    for name, value in followed.items():
        if stated[name] != value:
            raise PublishedError(f"{beside.name}: {name} is {stated[name]!r}, the published network has {value!r}")
    return str(model)


def _resolved(value: Any, settings: Any) -> Any:
    """A setting, or the one that it points to by '${section.name}'."""
    if isinstance(value, str) and (pointer := re.fullmatch(r"\$\{([a-z_.]+)\}", value)):
        for key in pointer.group(1).split("."):
            settings = settings[key]
        return settings
    return value
