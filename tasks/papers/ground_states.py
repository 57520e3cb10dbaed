"""How near generated crystals are to rest: the first of them relaxed by a potential, as DP-CDVAE's Table 3 does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from configs.condition_reproduction import RelaxationsConfig
from configs.reproduction import GroundStateConfig
from tasks.papers.protocols import ground_state_metrics, relaxations
from tasks.papers.results import AnyComparison, Made, Progress, ResultKey
from tasks.papers.samples import Drawn, relaxed


def relaxation_inputs(test: GroundStateConfig | RelaxationsConfig, n_generate: int) -> dict[str, Any]:
    """What the metrics of relaxed crystals depend on, beside how they were drawn."""
    relax = test.relax.model_dump(mode="json", exclude={"chunk_size"})
    return {"n_generate": n_generate, "n": test.n, "relax": relax}


def relaxed_first(
    config: AnyComparison,
    test: GroundStateConfig | RelaxationsConfig,
    drawn: Drawn,
    key: ResultKey,
    progress: Progress,
) -> Made:
    """The first crystals relaxed: how many come to rest, in how many steps, and how they differ from what was drawn.

    Args:
        config: seed, and where the work is done.
        test: how many are relaxed, and how.
        drawn: crystals with their ids.
        key: of the result, whose folder keeps the relaxed ones.
        progress: told of every crystal.
    """
    first = replace(drawn, ids=drawn.ids[: test.n], crystals=drawn.crystals[: test.n])
    table = relaxed(config, test.relax, first, key.folder(config), progress)
    made = relaxations(first, table, test.relax.pressure_gpa)
    return Made(ground_state_metrics(made, config.workers, config.seed), {"potential": made.potential})
