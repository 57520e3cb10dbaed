"""A training of several phases and objectives: who is changed when, by which optimiser, and after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.systems import registry
from generative.systems.trainable import Loss, Objective, Phase, Trainable
from generative.training.config import TrainConfig
from generative.training.data import TrainingSet
from generative.training.learning_rates import learning_factor
from generative.training.loop import fit
from storage.settings import RoomConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and GPUs

SLOPE = 0.25
"""Of the follower's loss: its gradient is the same everywhere, so that each of its steps is known."""


class Adversaries(Trainable):
    """An encoder that is trained first, then kept; after it a critic at every step and a follower at every fifth."""

    name = "adversaries"
    config_type = RoomConfig
    seen: ClassVar[list[tuple[str, bool]]] = []

    def __init__(self, config: RoomConfig) -> None:
        super().__init__(config)
        self.encoder, self.critic, self.follower = (nn.Parameter(torch.zeros(())) for _ in range(3))
        self.frozen = nn.Parameter(torch.tensor(3.0))

    def phases(self) -> tuple[Phase, ...]:
        own = (torch.optim.SGD([self.follower], lr=0.1),)
        return (
            Phase((Objective(Adversaries.loss, [self.encoder]),), share=2, name="encoder"),
            Phase(
                (
                    Objective(Adversaries.criticise, [self.critic], "critic"),
                    Objective(Adversaries.follow, [self.follower], "follower", every=5, optimisers=own),
                )
            ),
        )

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        self.seen.append(("encoder", self.training))
        noise = torch.randn((), generator=rng)
        return Loss((self.encoder - 1 - 0.1 * noise).square() + 0 * self.frozen, {})

    def criticise(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        self.seen.append(("critic", self.training))
        # The gradient reaches the others too, and must leave no trace in them.
        total = (self.critic - self.encoder - self.follower).square()
        return Loss(total, {"distance": total})

    def follow(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        self.seen.append(("follower", self.training))
        return Loss(SLOPE * self.follower + 0 * self.critic, {})


class Weights(Callback):
    """The four weights after each step; ends the training, unsaved, before step `kill`."""

    def __init__(self, kill: int | None = None) -> None:
        self.after: dict[int, dict[str, float]] = {}
        self.kill = kill

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.steps_done == self.kill:
            raise KilledError

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        weights = {name: float(p.detach()) for name, p in pl_module.system.named_parameters()}
        self.after[pl_module.steps_done] = weights


class KilledError(Exception):
    pass


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.places(), Adversaries.name, f"{__name__}:Adversaries")
    Adversaries.seen.clear()


def config() -> TrainConfig:
    return TrainConfig(
        kind="adversaries", max_steps=30, batch_crystals=4, optimiser="adam", precision="32", warmup_steps=3, ema=0,
        torch_threads=1, validation_fraction=0.3, validation_every=15, save_every=1, split="crystal",
    )  # fmt: skip


@pytest.fixture
def data(crystals: list[Crystal]) -> TrainingSet:
    return TrainingSet(crystals, [None] * len(crystals), [None] * len(crystals), [str(i) for i in range(len(crystals))])


def test_each_objective_changes_its_own_weights_in_its_turn_and_nothing_else(data: TrainingSet, tmp_path: Path) -> None:
    weights = Weights()
    system, record = fit(data, config(), tmp_path, [weights])
    after = weights.after
    assert record["steps"] == 30
    in_training = [name for name, training in Adversaries.seen if training]
    assert [in_training.count(name) for name in ("encoder", "critic", "follower")] == [20, 10, 2]
    assert in_training[20:26] == ["critic"] * 5 + ["follower"]
    first, second = range(1, 21), range(21, 31)
    assert {after[step]["critic"] for step in first} == {0.0} == {after[step]["follower"] for step in first}
    assert len({after[step]["encoder"] for step in first}) == 20
    assert len({after[step]["encoder"] for step in (20, *second)}) == 1
    assert len({after[step]["critic"] for step in second}) == 10
    assert {weights["frozen"] for weights in after.values()} == {3.0}
    # Plain gradient steps of the follower's own optimiser, at rates that warm up and decay within the phase.
    expected = 0.0
    for step in range(10):
        if (step + 1) % 5 == 0:
            expected -= 0.1 * learning_factor(step, config(), 10) * SLOPE
        assert after[21 + step]["follower"] == pytest.approx(expected, abs=1e-7)
    assert float(system.follower.detach()) == pytest.approx(expected, abs=1e-7)


def test_validation_measures_the_objectives_of_the_phase_and_watches_the_last(
    data: TrainingSet, tmp_path: Path
) -> None:
    _, record = fit(data, config(), tmp_path)
    validated = [name for name, training in Adversaries.seen if not training]
    assert set(validated) == {"encoder", "critic", "follower"}
    assert {"val_loss", "val_critic_distance", "val_follower_loss"} <= set(record["metrics"])


@pytest.mark.parametrize("kill", [7, 20, 23, 26])
def test_an_interrupted_training_goes_on_in_its_phase_and_turn_to_the_same_weights(
    kill: int, data: TrainingSet, tmp_path: Path
) -> None:
    whole = Weights()
    fit(data, config(), tmp_path / "whole", [whole])
    with pytest.raises(KilledError):
        fit(data, config(), tmp_path / "killed", [Weights(kill)])
    rest = Weights()
    fit(data, config(), tmp_path / "killed", [rest])
    assert sorted(rest.after) == list(range(kill + 1, 31))
    assert rest.after == {step: whole.after[step] for step in rest.after}
