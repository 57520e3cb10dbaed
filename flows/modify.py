"""modify: crystals go in, polymorphs of lower energy come out.

    propose -> relax (given crystals and polymorphs, one potential) -> rank

What was drawn and relaxed is kept, so an interrupted modification goes on.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from configs.modification import ModifyConfig
from tasks.discover.modification import propose_task, rank_task, relax_polymorphs_task


@flow(name="modify", flow_run_name="modify-{config.name}", validate_parameters=True)
def modify(config: ModifyConfig) -> Path:
    """Look for polymorphs of lower energy than given crystals.

    Args:
        config: crystals, modifier or generator, what is asked, potential.

    Returns:
        The folder of results, with polymorphs.parquet, modification.json and cifs/.
    """
    proposed = propose_task(config)
    relaxed = relax_polymorphs_task(config, proposed)
    path = rank_task(config, proposed, relaxed)
    get_run_logger().info("results: %s", path)
    return config.folder
