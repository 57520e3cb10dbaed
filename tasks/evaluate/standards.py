"""What coverage compares by, as the settings say: cut-offs, and the standardisation of composition fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from configs.evaluation import JudgeConfig

if TYPE_CHECKING:
    from generative.metrics.coverage import Cutoffs
    from generative.metrics.magpie import Scaler


def cutoffs_of(config: JudgeConfig) -> Cutoffs:
    """Cut-offs of coverage: as set, or those of the data set; MP-20's where none is named."""
    from generative.metrics.coverage import CARBON_24, MP_20, PEROV_5, Cutoffs

    if config.cov_struct_cutoff is not None and config.cov_comp_cutoff is not None:
        return Cutoffs(config.cov_struct_cutoff, config.cov_comp_cutoff, "settings")
    return {"perov-5": PEROV_5, "carbon-24": CARBON_24}.get(config.dataset, MP_20)


def scaler_of(config: JudgeConfig, fingerprints: Callable[[], np.ndarray], name: str) -> Scaler:
    """CDVAE's constants, or mean and spread of the reference.

    Args:
        config: says which.
        fingerprints: gives those of the reference, (m, 132), if they are wanted.
        name: of the reference.

    Raises: ValueError: if they are wanted, and none is finite.
    """
    from generative.metrics.magpie import Scaler, cdvae_scaler

    return cdvae_scaler() if config.magpie_scaler == "cdvae" else Scaler.fit(fingerprints(), name)
