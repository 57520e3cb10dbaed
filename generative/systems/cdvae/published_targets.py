"""What the property regressors of CDVAE's authors predict, and by what they are known. Free of torch.

Source: prop_scaler.pt of each folder of cdvae/prop_models, github.com/txie-93/cdvae (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Target(NamedTuple):
    """A published regressor: the property it predicts, its mean and deviation (eV/atom), its data set, its digest.

    The digest is that of published_regressors.digest_of, over the tensors.
    """

    property_name: str
    mean: float
    scale: float
    dataset: str
    digest: str


TARGETS: Mapping[str, Target] = {
    "carbon": Target(
        "energy_per_atom",
        -154.2510223388672,
        0.13738815486431122,
        "carbon-24",
        "e704d463ec392815ae31760da3555eaade6766ca46178aea252b56345bb63a68",
    ),
    "perovskite": Target(
        "heat_ref",
        1.4032213687896729,
        0.6802186965942383,
        "perov-5",
        "57012f3948466d773a6b6dc3f8547f0faf2ab1b18495f4161bc4dcdac9b6880e",
    ),
    "mp20": Target(
        "formation_energy_per_atom",
        -1.219802737236023,
        1.0293837785720825,
        "mp-20",
        "767aaaae51d87d160af40f67f18a442d31ef2186793df526b7adac93c91a1db7",
    ),
}
"""eval_model_name of the authors' settings -> what it predicts."""


def published_name(model: str) -> str:
    """What figures say of the authors' own weights."""
    target = TARGETS[model]
    return f"CDVAE's own regressor {model} of {target.property_name} ({target.digest[:12]})"
