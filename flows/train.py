"""train: data and sizes go in, a checkpoint that `discover` can sample from comes out.

Training runs in the flow's own process: a network on several devices starts processes of its own, which a pool of task
workers would not allow.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from flows.changes import Changes, changed, run_name
from generative.training.config import TrainConfig
from tasks.train.progress import steps_told
from tasks.train.training import train as run_training


@flow(name="train", flow_run_name=run_name("train"), validate_parameters=True)
def train(config: TrainConfig, runs_folder: str = "runs", changes: Changes = ()) -> Path:
    """Train a generator; an interrupted training of the same name goes on where it stopped.

    Args:
        config: data, sizes and budget of the training.
        runs_folder: the training keeps its files in training/<name> below it.
        changes: what differs from it, as --set takes it: max_steps=1000, say.

    Returns:
        The checkpoint folder: model.safetensors and model.json.
    """
    config = changed(config, changes)
    logger = get_run_logger()
    folder = Path(runs_folder) / "training" / config.name
    from tasks.report.run.artifacts import Progress  # draws pictures too

    with Progress(f"training-{config.name}", f"training {config.name}", stays=True) as progress:
        checkpoint = run_training(config, folder, [steps_told(config, progress.update)])
    logger.info("checkpoint: %s", checkpoint)
    return checkpoint
