"""Files in the form of CDVAE's published regressors, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from generative.systems.cdvae.property_regressor import PropertyRegressor, PropertyRegressorConfig
from generative.systems.cdvae.published_regressors import NAMES
from generative.systems.cdvae.published_targets import TARGETS


def settings_of(model: str) -> dict[str, Any]:
    encoder = {
        "num_targets": "${data.num_targets}", "hidden_channels": 128, "num_blocks": 4, "int_emb_size": 64,
        "basis_emb_size": 8, "out_emb_channels": 256, "num_spherical": 7, "num_radial": 6,
        "otf_graph": "${data.otf_graph}", "cutoff": 7.0, "max_num_neighbors": 20, "envelope_exponent": 5,
        "num_before_skip": 1, "num_after_skip": 2, "num_output_layers": 3, "readout": "${data.readout}",
    }  # fmt: skip
    data = {
        "prop": TARGETS[model].property_name, "num_targets": 1, "graph_method": "crystalnn", "readout": "mean",
        "otf_graph": False, "eval_model_name": model,
    }  # fmt: skip
    return {"data": data, "model": {"encoder": encoder}}


def written(folder: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "any.safetensors")
    (folder / "any.hparams.yaml").write_text(yaml.safe_dump(settings))
    return folder / "any.safetensors"


def random_tensors() -> dict[str, Tensor]:
    """Random weights by the authors' names; the last layers too, which start at zero."""
    rng = torch.Generator().manual_seed(3)
    ours = {ours: theirs for theirs, ours in NAMES.items()}
    made = {}
    for name, value in PropertyRegressor(PropertyRegressorConfig(size="paper")).named_parameters():
        begin = next(begin for begin in ours if name.startswith(begin))
        scale = value.shape[-1] ** -0.5 if value.ndim > 1 else 0.1
        drawn = torch.randn(value.shape, generator=rng) * scale
        made[ours[begin] + name.removeprefix(begin)] = value.detach() if name.endswith("freq") else drawn
    return made
