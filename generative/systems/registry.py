"""Every system by name, loaded when it is named: a line here, or an entry point of another package.

A package of somebody else's adds a system by an entry point of the group `hullward.systems`:

    [project.entry-points."hullward.systems"]
    random-gas = "their_package.random_gas:RandomGas"

Its checkpoints, trainings and candidates are then like those of the systems here.
"""

from __future__ import annotations

from generative.systems.interface import System
from storage.registry import Registry

GROUP = "hullward.systems"
"""Entry points of other packages."""

SYSTEMS: dict[str, str] = {
    "crystal-flow": "generative.systems.crystal_flow:CrystalFlow",
    "wyckoff": "generative.systems.wyckoff.system:Wyckoff",
    "adaptive-cell": "generative.systems.adaptive_cell.system:AdaptiveCell",
    "training-copies": "generative.systems.baselines.training_copies:TrainingCopies",
    "prototype-substitution": "generative.systems.baselines.substitution:PrototypeSubstitution",
    "random-symmetric": "generative.systems.baselines.random_symmetric:RandomSymmetric",
    "cdvae": "generative.systems.cdvae.system:CDVAE",
    "cdvae-fourier": "generative.systems.cdvae.family:CDVAEFourier",
    "dp-cdvae": "generative.systems.cdvae.family:DPCDVAE",
    "dp-cdvae-na": "generative.systems.cdvae.family:DPCDVAENa",
    "dp-cdvae-gine": "generative.systems.cdvae.family:DPCDVAEGine",
    "dp-cdvae-na-gine": "generative.systems.cdvae.family:DPCDVAENaGine",
    "condition-cdvae": "generative.systems.condition_cdvae.system:ConditionCDVAE",
    "condition-cdvae-energy": "generative.systems.condition_cdvae.system:ConditionCDVAEEnergy",
    "condition-cdvae-formula": "generative.systems.condition_cdvae.system:ConditionCDVAEFormula",
    "unet-ddpm": "generative.systems.unet.generator:UNetDDPM",
    "unet-ddim": "generative.systems.unet.generator:UNetDDIM",
    "unet-flow-normal": "generative.systems.unet.generator:UNetFlowNormal",
    "unet-flow-uniform": "generative.systems.unet.generator:UNetFlowUniform",
    "unet-modify-regression": "generative.systems.unet.modifier:RegressionModifier",
    "unet-modify-diffusion": "generative.systems.unet.modifier:DiffusionModifier",
    "unet-modify-flow": "generative.systems.unet.modifier:FlowModifier",
    "dimenet-regressor": "generative.systems.cdvae.property_regressor:PropertyRegressor",
    "cgcnn-features": "generative.systems.cgcnn_features:CGCNNFeatures",
}
"""Name -> 'module:Class'. Names are stored in checkpoints: one that was given stays."""


class UnknownSystemError(ValueError):
    """A name that no system has."""


REGISTRY = Registry("system", GROUP, SYSTEMS, UnknownSystemError)


def places() -> dict[str, str]:
    """Name -> 'module:Class' of every system, those of other packages included."""
    return REGISTRY.places


def system_type(name: str) -> type[System]:
    """The class of a system.

    Raises: UnknownSystemError: if there is none of that name, or its package cannot be loaded.
    """
    found = REGISTRY.load(name)
    if not (isinstance(found, type) and issubclass(found, System)) or found.name != name:
        raise UnknownSystemError(
            f"{name!r} is registered as {places()[name]}: expected a subclass of System with this name"
        )
    return found


def of_kind(kind: type) -> list[str]:
    """Names of all systems that are of this kind, such as Generator; loads every one of them."""
    return [name for name in places() if issubclass(system_type(name), kind)]
