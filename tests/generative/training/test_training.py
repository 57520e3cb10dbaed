"""Training: it learns, resumes to the same numbers, and stops at a bad loss; checkpoints hold no code."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.systems.crystal_flow import CrystalFlow, CrystalFlowConfig, FlowSampler
from generative.training.config import TrainConfig
from generative.training.data import StepSampler, TrainingError, TrainingSet, split
from generative.training.learning_rates import learning_factor
from generative.training.loop import fit
from storage.documents import read_document, write_document
from tests.generative.asking import asked

SMALL = {"width": 32, "n_layers": 2, "n_heads": 4, "pair_width": 16}
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and GPUs


def config(**changes: object) -> TrainConfig:
    base = {"system": SMALL, "batch_crystals": 16, "torch_threads": 1, "warmup_steps": 2, "validation_fraction": 0.3}
    return TrainConfig.model_validate({**base, **changes})


class StopAt(Callback):
    """Ends the process's part of a training early, as a kill between two checkpoints' ends would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:  # type: ignore[no-untyped-def]
        trainer.should_stop = pl_module.steps_done >= self.step


def test_a_resumed_training_gives_the_same_weights_as_an_uninterrupted_one(data: TrainingSet, tmp_path: Path) -> None:
    settings = config(max_steps=8)
    whole, record = fit(data, settings, tmp_path / "whole")
    fit(data, settings, tmp_path / "parts", [StopAt(3)])
    parts, _ = fit(data, settings, tmp_path / "parts")
    assert record["steps"] == 8
    for (name, a), (_, b) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_training_lowers_the_loss_on_what_it_saw(data: TrainingSet, tmp_path: Path) -> None:
    settings = config(max_steps=60, precision="32", validation_fraction=0.1)
    trained, _ = fit(data, settings, tmp_path)
    seen, _ = split(data, 0.1, settings.seed)
    batch = seen[list(range(len(seen)))]
    torch.manual_seed(settings.seed)
    fresh = CrystalFlow(trained.config)
    fresh.fit_statistics(seen.crystals)
    before, after = (m.loss(batch, torch.Generator().manual_seed(5)).total.item() for m in (fresh, trained))
    assert after < 0.93 * before


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_batch(
    data: TrainingSet, system: CrystalFlow, tmp_path: Path
) -> None:
    train, _ = split(data, 0.3, seed=0)
    row = data.ids.index(train.ids[0])
    good = data.crystals[row]
    data.crystals[row] = Crystal(good.lattice_ang * 1e-30, good.frac, good.atomic_numbers)
    with pytest.raises(TrainingError, match=r"singular at step 0.*A\^3"):
        fit(data, config(max_steps=3, batch_crystals=60), tmp_path / "cell")
    data.crystals[row] = good
    torch.nn.init.constant_(system.network.pair_mid.bias, torch.inf)
    with pytest.raises(TrainingError, match=r"loss is nan at step 0.*A\^3"):
        fit(data, config(max_steps=3, batch_crystals=60), tmp_path / "weights", initial=system)


@pytest.mark.parametrize("rule", ["loss", "yield"])
def test_the_weights_kept_are_those_of_the_best_validation(data: TrainingSet, tmp_path: Path, rule: str) -> None:
    scores: list[tuple[float, int]] = []

    class Watch(Callback):
        def on_validation_end(self, trainer, pl_module) -> None:  # type: ignore[no-untyped-def]
            kept = checkpoints.about(str(tmp_path / "best"))["training"]
            scores.append((kept["score"], kept["step"]))

    system, record = fit(data, config(max_steps=4, keep=rule), tmp_path, [Watch()])
    assert [score for score, _ in scores] == sorted(score for score, _ in scores)
    assert record["kept"]["score"] == scores[-1][0]
    assert record["kept"]["rule"] == rule
    kept = checkpoints.load(str(tmp_path / "best")).system
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), system.parameters(), strict=True))


def test_batches_of_an_epoch_hold_every_crystal_once_and_follow_the_seed(data: TrainingSet) -> None:
    epoch = [row for batch in data.batches(16, np.random.default_rng((0, 3))) for row in batch]
    assert sorted(epoch) == list(range(len(data)))
    stream = iter(StepSampler(data, 16, seed=0, first_step=0))
    first = [next(stream) for _ in range(9)]
    late = iter(StepSampler(data, 16, seed=0, first_step=5))
    assert [next(late) for _ in range(4)] == first[5:]


def test_two_devices_share_the_batches_without_overlap(data: TrainingSet) -> None:
    streams = [iter(StepSampler(data, 16, 0, 0, rank, 2)) for rank in (0, 1)]
    both = [next(stream) for _ in range(2) for stream in streams]
    single = iter(StepSampler(data, 16, 0, 0))
    assert both == [next(single) for _ in range(4)]


def test_validation_shares_no_formula_with_training(data: TrainingSet) -> None:
    train, held = split(data, 0.3, seed=0)

    def formulas(part: TrainingSet) -> set[str]:
        return {c.to_structure().composition.reduced_formula for c in part.crystals}

    assert len(train) + len(held) == len(data)
    assert held.crystals
    assert not formulas(train) & formulas(held)


def test_crystals_of_one_shape_give_a_finite_loss(crystals: list[Crystal]) -> None:
    torch.manual_seed(0)
    system = CrystalFlow(CrystalFlowConfig.model_validate(SMALL))
    system.fit_statistics([crystals[0]] * 5)
    loss = system.loss(CrystalBatch.pack([crystals[0]] * 5), torch.Generator().manual_seed(0)).total
    assert torch.isfinite(loss)


def test_fine_tuning_starts_from_the_given_weights_and_statistics(
    data: TrainingSet, system: CrystalFlow, tmp_path: Path
) -> None:
    tuned, _ = fit(data, config(max_steps=1, adam_lr=1e-9, muon_lr=1e-9), tmp_path, initial=system)
    assert torch.equal(tuned.lattice_mean, system.lattice_mean)
    for (name, a), (_, b) in zip(tuned.named_parameters(), system.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=name)


def test_learning_rate_rises_holds_and_falls() -> None:
    settings = config(max_steps=100, warmup_steps=10, decay_fraction=0.5)
    factors = [learning_factor(step, settings) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:51] == [1.0] * 41
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_a_checkpoint_comes_back_with_the_same_samples(system: CrystalFlow, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "flow", system, {"note": "test"}, dtype=torch.float32)
    loaded = checkpoints.load(str(tmp_path / "flow"))
    settings = FlowSampler(n_steps=3)
    pair = [s.sample(asked([[12, 8]]), torch.Generator().manual_seed(0), settings)[0] for s in (system, loaded.system)]
    assert pair[0].digest == pair[1].digest
    assert loaded.training == {"note": "test"}
    assert loaded.digest == checkpoints.digest(str(tmp_path / "flow"))


def test_half_precision_halves_the_file_and_keeps_weights_to_a_thousandth(system: CrystalFlow, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "flow", system, {})
    loaded = checkpoints.load(str(tmp_path / "flow")).system
    for (name, a), (_, b) in zip(system.named_parameters(), loaded.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6, msg=name)


def test_a_checkpoint_that_hides_a_pickle_is_refused_and_runs_nothing(system: CrystalFlow, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "flow", system, {})
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(marker), "w")  # type: ignore[return-value]

    (tmp_path / "flow" / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    about = read_document(tmp_path / "flow" / "model.json", "")
    del about["weights_sha256"]  # which would refuse any other file
    write_document(tmp_path / "flow" / "model.json", about)
    with pytest.raises(checkpoints.CheckpointError, match="not a readable checkpoint"):
        checkpoints.load(str(tmp_path / "flow"))
    assert not marker.exists()


def test_a_missing_or_unknown_checkpoint_says_what_is_there(system: CrystalFlow, tmp_path: Path) -> None:
    with pytest.raises(checkpoints.CheckpointError, match="package:hullward-flow"):
        checkpoints.load("package:nothing")
    checkpoints.save(tmp_path / "flow", system, {})
    about = read_document(tmp_path / "flow" / "model.json", "")
    write_document(tmp_path / "flow" / "model.json", {**about, "system": "cubic-gan"})
    with pytest.raises(checkpoints.CheckpointError, match="cubic-gan"):
        checkpoints.load(str(tmp_path / "flow"))
