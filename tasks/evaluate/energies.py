"""Energies of samples and reference by one model, for the distance of their distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.evaluation import JudgeConfig
from configs.paths import AssetError, resolve
from configs.schema import ExecutionConfig
from generative.crystal.crystals import Crystal
from generative.metrics.generation import Energies
from tasks.evaluate.relaxation import static_energies
from tasks.evaluate.samples import EvaluationError
from tasks.loading import checkpoint, device_of

if TYPE_CHECKING:
    from generative.crystal.bonds import Bonds


@dataclass(frozen=True)
class Regressor:
    """A loaded regressor and what metrics say of it.

    Attributes:
        system: a PropertyRegressor.
        name: with its digest.
    """

    system: Any
    name: str


def energies_of(
    config: JudgeConfig, samples: Sequence[Crystal | None], reference: Sequence[Crystal], cache: Path | None
) -> Energies | None:
    """Energies of both sides by what the settings name, a regressor or the potential; None if they name neither."""
    if config.regressor is not None:
        regressor = load_regressor(config.regressor, config.execution)
        return regressed_energies(regressor, samples, reference, config.workers, cache)
    if not config.energies:
        return None
    found, model = static_energies(list(samples), config)
    return Energies(found, static_energies(list(reference), config)[0], model)


def load_regressor(path: str, execution: ExecutionConfig) -> Regressor:
    """The regressor that a path names: CDVAE's own as NAME.safetensors, or a checkpoint of `hullward train`.

    Raises: EvaluationError: if it is neither, or cannot be read.
    """
    from generative.checkpoints import CheckpointError
    from generative.systems.cdvae.published_regressors import PublishedError, load_published

    try:
        if path.endswith(".safetensors"):
            published = load_published(resolve(path), device_of(execution))
            return Regressor(published.system, published.name)
        loaded = checkpoint(path if path.startswith("package:") else str(resolve(path)), execution)
        return Regressor(loaded.regressor, f"{loaded.system.name} {loaded.digest[:12]}")
    except (AssetError, CheckpointError, PublishedError) as error:
        raise EvaluationError(f"regressor {path}: {error}") from None


def regressed_energies(
    regressor: Regressor,
    samples: Sequence[Crystal | None],
    reference: Sequence[Crystal],
    workers: int = 1,
    cache: Path | None = None,
    reference_bonds: Sequence[Bonds | None] | None = None,
) -> Energies:
    """Energies of both sides; NaN where a crystal has none.

    Only samples of sound structure have an energy: others do not enter the comparison, and cost the most bonds.

    Args:
        regressor: for both sides.
        samples: None is a sample that is no crystal.
        reference: the test set.
        workers: processes for bonds.
        cache: folder that keeps bonds.
        reference_bonds: bonds of the reference, if they are made already.
    """
    from generative.crystal.bonds import crystal_nn_bonds
    from generative.metrics.validity import verdicts

    sound = [i for i, good in enumerate(verdicts(samples).structure) if good]
    kept = [crystal for i in sound if (crystal := samples[i]) is not None]
    energies = np.full(len(samples), np.nan)
    energies[sound] = regressor.system.predict(kept, crystal_nn_bonds(kept, workers, cache))
    bonds = crystal_nn_bonds(reference, workers, cache) if reference_bonds is None else reference_bonds
    return Energies(energies, regressor.system.predict(reference, bonds), regressor.name)
