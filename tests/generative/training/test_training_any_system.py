"""The one training loop with systems it knows nothing of: recipes, interruption, validation, what is left out."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from pydantic import Field
from torch import nn

from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.crystals import Crystal
from generative.systems import registry
from generative.systems.registry import of_kind, system_type
from generative.systems.trainable import Loss, Trainable
from generative.training.config import TrainConfig
from generative.training.data import StepSampler, TrainingError, TrainingSet, split
from generative.training.loop import fit, new_system
from storage.settings import RoomConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and GPUs
SMALL = {
    "crystal-flow": {"width": 32, "n_layers": 1, "n_heads": 2, "pair_width": 16},
    # The crystals of these tests have no symmetry, which it trains on only where it is told to.
    "adaptive-cell": {"message_width": 8, "triplet_width": 4, "n_blocks": 1, "n_neighbours": 12, "low_symmetry": True},
}
"""Settings that make a system small, for those that have no size 'tiny'."""
PUBLISHED = {
    "optimiser": "adam",
    "schedule": "plateau",
    "clip": "value",
    "clip_limit": 0.5,
    "ema": 0,
    "precision": "32",
    "warmup_steps": 0,
}


class VolumeConfig(RoomConfig):
    width: int = Field(4, ge=1)
    atoms_max: int = Field(64, ge=1)
    bonds: bool = False
    total_falls_while_watched_rises: bool = False
    not_finite_from_step: int | None = None
    gradient: bool = False
    """What is not finite from then on is the gradient alone."""


class VolumeModel(Trainable):
    """Learns the logarithm of a cell's volume per atom from its elements, through noise."""

    name = "volume-model"
    config_type = VolumeConfig
    config: VolumeConfig
    calls: ClassVar[list[tuple[bool, int]]] = []
    """Of every call of loss(): whether in training, and the epoch."""
    mean: torch.Tensor

    def __init__(self, config: VolumeConfig) -> None:
        super().__init__(config)
        self.embed, self.out = nn.Embedding(104, config.width), nn.Linear(config.width, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.n_losses = 0

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        logs = [math.log(abs(np.linalg.det(c.lattice_ang)) / len(c.atomic_numbers)) for c in crystals]
        self.mean.fill_(float(np.mean(logs)))

    def refused(self, crystal: Crystal) -> str:
        n, limit = len(crystal.atomic_numbers), self.config.atoms_max
        return f"it has {n} atoms: at most {limit} are taken" if n > limit else ""

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        self.calls.append((self.training, epoch))
        self.n_losses += 1
        crystal = torch.repeat_interleave(batch.n_atoms)
        features = self.embed(batch.atomic_numbers)
        features = torch.zeros(len(batch), features.shape[1]).index_add(0, crystal, features) / batch.n_atoms[:, None]
        features = features + 0.1 * torch.randn(features.shape, generator=rng)
        truth = (batch.lattice_ang.det().abs() / batch.n_atoms).log() - self.mean
        volume = (self.out(features).squeeze(1) - truth).square().mean()
        weights = self.out.weight.square().mean()
        total, parts = volume + 1e-3 * weights, {"volume": volume, "weights": weights}
        if self.config.total_falls_while_watched_rises:
            parts["validation"] = 1 / (1e-3 + volume)
        limit = self.config.not_finite_from_step
        if self.training and limit is not None and self.n_losses > limit:
            total = total + (total - total.detach()).abs().sqrt() if self.config.gradient else total * math.nan
        return Loss(total, parts)


class BondedVolumeModel(VolumeModel):
    """The same, for crystals with bonds."""

    name = "bonded-volume-model"
    needs_bonds = True

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        assert batch.bonds is not None
        assert int(batch.bonds.source.max()) < len(batch.atomic_numbers)
        return super().loss(batch, rng, epoch)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for kind in (VolumeModel, BondedVolumeModel):
        monkeypatch.setitem(registry.places(), kind.name, f"{__name__}:{kind.__name__}")
    VolumeModel.calls.clear()
    yield
    VolumeModel.calls.clear()


def config(**changes: object) -> TrainConfig:
    base = {"kind": "volume-model", "batch_crystals": 16, "torch_threads": 1, "validation_fraction": 0.3}
    return TrainConfig.model_validate({**base, **changes})


def curve(folder: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for file in sorted(folder.glob("curves/from-*/metrics.csv")):
        with file.open(encoding="utf-8", newline="") as text:
            rows += csv.DictReader(text)
    return rows


class KilledError(Exception):
    pass


class KillAt(Callback):
    """Ends a training after this many steps and leaves it no time to save anything."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.steps_done == self.step:
            raise KilledError


class Watch(Callback):
    """Notes after every validation what must not depend on an interruption."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[object, ...]] = {}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        p = pl_module
        self.seen[p.steps_done] = (p.watched_loss, p.best_loss, p.validations_since_best, p.plateau, p.epoch_of(0))


def assert_same(a: Any, b: Any) -> None:
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True, msg=name)


RECIPES: dict[str, dict[str, object]] = {
    # A rate so high that the loss jumps about: the plateau lowers it, time and again.
    "published": {**PUBLISHED, "plateau_patience": 0, "adam_lr": 1.0},
    "averaged, best kept": {"ema": 0.9, "keep": "loss", "warmup_steps": 2, "precision": "32"},
    "langevin": {**PUBLISHED, "kind": "cdvae", "system": {"size": "tiny", "teacher_forcing_epochs": 2}},
    "diffusion": {**PUBLISHED, "kind": "dp-cdvae-na-gine", "system": {"size": "tiny", "teacher_forcing_epochs": 2}},
    "muon, random batches": {"kind": "crystal-flow", "system": SMALL["crystal-flow"], "batches": "random"},
}


@pytest.mark.parametrize(
    ("recipe", "kill"),
    [(recipe, kill) for recipe in RECIPES for kill in ([11] if recipe in ("langevin", "diffusion") else [6, 8, 9, 11])],
)
def test_a_killed_training_goes_on_to_the_very_same_end(
    data: TrainingSet, tmp_path: Path, recipe: str, kill: int
) -> None:
    # States are saved after steps 4, 8 ...; validations are at 3, 6, 9 ...: kills on, just after and between both.
    settings = config(max_steps=13, validation_every=3, save_every=4, **RECIPES[recipe])
    undisturbed, interrupted = Watch(), Watch()
    whole, record = fit(data, settings, tmp_path / "whole", [undisturbed])
    with pytest.raises(KilledError):
        fit(data, settings, tmp_path / "parts", [KillAt(kill), interrupted])
    parts, after = fit(data, settings, tmp_path / "parts", [interrupted])
    assert_same(whole, parts)
    assert interrupted.seen == undisturbed.seen
    assert {3, 6, 9, 12, 13} == set(undisturbed.seen)
    lowered = {plateau.factor for *_, plateau, _ in undisturbed.seen.values()}
    assert (len(lowered) > 2) == (recipe == "published")
    times = ("minutes", "crystals_per_s")
    assert {k: v for k, v in record.items() if k not in times} == {k: v for k, v in after.items() if k not in times}
    optimisers = [torch.load(tmp_path / f / "resume.ckpt")["optimizer_states"] for f in ("whole", "parts")]
    for a, b in zip(*optimisers, strict=True):
        assert a["param_groups"] == b["param_groups"]
        for i, state in a["state"].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(b["state"][i][k])) for k, v in state.items())


def test_a_finished_training_that_is_started_again_stays_as_it_is(data: TrainingSet, tmp_path: Path) -> None:
    settings = config(max_steps=5, **PUBLISHED)
    first, record = fit(data, settings, tmp_path)
    n_calls = len(VolumeModel.calls)
    again, same = fit(data, settings, tmp_path)
    assert_same(first, again)
    assert len(VolumeModel.calls) == n_calls
    assert same["metrics"] == record["metrics"]
    assert same["steps"] == 5


def test_starting_anew_forgets_state_and_best_weights_of_the_training_before(data: TrainingSet, tmp_path: Path) -> None:
    fit(data, config(max_steps=30, adam_lr=0.05, keep="loss"), tmp_path)
    poor = config(max_steps=1, keep="loss")
    _, record = fit(data, poor, tmp_path, resume=False)
    assert record["kept"]["step"] == record["steps"] == 1


def test_the_published_recipe_is_plain_adam_with_clipped_values(data: TrainingSet, tmp_path: Path) -> None:
    settings = config(max_steps=12, adam_lr=0.3, validation_every=100, **{**PUBLISHED, "clip_limit": 0.01})
    trained, record = fit(data, settings, tmp_path)
    train, held = split(data, 0.3, settings.seed)
    system = new_system(settings)
    system.fit_statistics(train.crystals, train.energies)
    adam = torch.optim.Adam(system.parameters(), lr=0.3)
    stream = iter(StepSampler(train, 16, settings.seed, 0))
    for step in range(12):
        state = np.random.SeedSequence((settings.seed, step, 0)).generate_state(1)[0]
        adam.zero_grad()
        rows = next(stream)
        packed = CrystalBatch.pack([train.crystals[i] for i in rows])
        system.loss(packed, torch.Generator().manual_seed(int(state)), 0).total.backward()
        for parameter in system.parameters():
            assert parameter.grad is not None
            parameter.grad.clamp_(-0.01, 0.01)
        adam.step()
    assert_same(trained, system)
    state = np.random.SeedSequence((settings.seed, 2**30, 0)).generate_state(1)[0]
    (rows,) = held.batches(16, None)
    expected = system.loss(held[rows], torch.Generator().manual_seed(int(state)), 0).total.item()
    assert record["metrics"]["val_loss"] == pytest.approx(expected, abs=1e-5)


def test_rates_at_a_plateau_are_those_of_torch() -> None:
    from generative.training.learning_rates import Plateau, learning_factor

    settings = config(**{**PUBLISHED, "adam_lr": 1e-3, "lr_min": 1e-4, "plateau_patience": 3, "max_steps": 10})
    rng = np.random.default_rng(0)
    losses = np.minimum.accumulate(rng.random(120)) + 1e-4 * rng.random(120)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.6, patience=3, min_lr=1e-4)
    ours, rates = Plateau(), []
    for loss in losses.tolist():
        ours = ours.after(loss, settings)
        torchs.step(loss)
        rates.append(settings.adam_lr * ours.factor)
        assert rates[-1] == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
    assert rates[0] == 1e-3
    assert rates[-1] == pytest.approx(1e-4)
    assert learning_factor(7, settings) == 1.0


def test_a_plateau_lowers_the_rate_that_is_used(data: TrainingSet, tmp_path: Path) -> None:
    stuck = {**PUBLISHED, "adam_lr": 1e-9, "lr_min": 1e-10, "plateau_patience": 2, "plateau_factor": 0.5}
    rates: list[float] = []

    class Note(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(data, config(max_steps=8, validation_every=1, **stuck), tmp_path, [Note()])
    assert rates == pytest.approx([1e-9] * 4 + [5e-10] * 3 + [2.5e-10])


def test_training_ends_when_the_best_validation_is_too_old(data: TrainingSet, tmp_path: Path) -> None:
    falling = {"total_falls_while_watched_rises": True}
    settings = config(
        max_steps=500, adam_lr=0.05, early_stop_validations=3, validation_every=2, keep="loss", system=falling
    )
    _, record = fit(data, settings, tmp_path)
    # The first validation is the best: the fourth after it makes it more than three validations old.
    assert record["steps"] == 10
    assert record["stopped_early"]
    assert record["kept"]["step"] == 2
    _, again = fit(data, settings, tmp_path)
    assert again["steps"] == 10


def test_what_a_system_names_validation_is_what_weights_are_kept_by(data: TrainingSet, tmp_path: Path) -> None:
    settings = config(max_steps=20, validation_every=4, keep="loss", adam_lr=0.05, warmup_steps=0)
    falling = settings.model_copy(update={"system": {"total_falls_while_watched_rises": True}})
    assert fit(data, settings, tmp_path / "total")[1]["kept"]["step"] > 4
    assert fit(data, falling, tmp_path / "watched")[1]["kept"]["step"] == 4


def test_a_system_is_told_the_epoch_and_whether_it_trains(data: TrainingSet, tmp_path: Path) -> None:
    train, held = split(data, 0.3, 0)
    per_epoch, in_validation = -(-len(train) // 16), -(-len(held) // 16)
    fit(data, config(max_steps=2 * per_epoch + 1, validation_every=per_epoch, precision="32"), tmp_path)
    calls = VolumeModel.calls
    assert [epoch for training, epoch in calls if training] == [0] * per_epoch + [1] * per_epoch + [2]
    # A validation belongs to the epoch that the next step is in.
    assert [epoch for training, epoch in calls if not training] == [1] * in_validation + [2] * 2 * in_validation
    assert calls[per_epoch] == (False, 1)


@pytest.mark.parametrize(("gradient", "what"), [(False, "loss is nan"), (True, "gradient is (nan|inf)")])
def test_what_is_not_finite_stops_any_training_before_it_reaches_the_weights(
    data: TrainingSet, tmp_path: Path, gradient: bool, what: str
) -> None:
    system = {"not_finite_from_step": 3, "gradient": gradient}
    settings = config(max_steps=9, save_every=1, **PUBLISHED, system=system)
    with pytest.raises(TrainingError, match=rf"{what} at step 3: its smallest cell is .* A\^3.*lower adam_lr, or"):
        fit(data, settings, tmp_path)
    saved = torch.load(tmp_path / "resume.ckpt")
    assert saved["global_step"] == 3
    assert all(v.isfinite().all() for v in saved["state_dict"].values())


def test_curves_hold_every_part_rate_and_throughput(data: TrainingSet, tmp_path: Path) -> None:
    _, record = fit(data, config(max_steps=60, validation_every=30), tmp_path)
    rows = curve(tmp_path)
    trained = [row for row in rows if row["train_loss"]]
    validated = [row for row in rows if row["val_loss"]]
    assert [int(row["step"]) for row in trained] == [0, 50]
    assert [int(row["step"]) for row in validated] == [30, 60]
    for row in trained:
        assert all(
            float(row[name]) > 0 for name in ("train_volume", "train_weights", "learning_rate", "crystals_per_s")
        )
    assert all(float(row[name]) > 0 for row in validated for name in ("val_volume", "val_weights"))
    assert float(trained[0]["learning_rate"]) == pytest.approx(1e-3 / 200)
    assert record["crystals_per_s"] > 0
    assert set(record["metrics"]) == {f"{a}_{b}" for a in ("train", "val") for b in ("loss", "volume", "weights")}
    assert record["epochs"] == pytest.approx(60 / data.batches_per_epoch(16), rel=0.5)


def test_crystals_of_one_formula_are_trained_on_when_split_by_crystal(
    crystals: list[Crystal], tmp_path: Path, numpy_rng: np.random.Generator
) -> None:
    strains = np.eye(3) + 0.02 * numpy_rng.standard_normal((50, 3, 3))
    diamond = crystals[2]
    copies = [Crystal(diamond.lattice_ang @ s, diamond.frac, diamond.atomic_numbers) for s in strains]
    data = TrainingSet(copies, [None] * 50, [None] * 50, [f"C{i}" for i in range(50)])
    with pytest.raises(TrainingError, match="split: crystal"):
        fit(data, config(max_steps=1), tmp_path)
    _, record = fit(data, config(max_steps=1, split="crystal"), tmp_path)
    assert record["crystals_trained"] + record["crystals_held_out"] == 50
    assert 5 <= record["crystals_held_out"] <= 25


def test_validation_crystals_can_be_given(data: TrainingSet, tmp_path: Path) -> None:
    held = data.subset(range(7))
    _, record = fit(data.subset(range(7, 60)), config(max_steps=2, validation_fraction=0.02), tmp_path, held=held)
    assert (record["crystals_trained"], record["crystals_held_out"]) == (53, 7)


def test_crystals_that_cannot_be_trained_on_are_counted_and_listed(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {data.crystals[i].digest for i in (3, 11)}

    def bonds(crystals: Sequence[Crystal], workers: int = 1, cache: Path | None = None) -> list[Any]:
        assert cache in (tmp_path / "bonds", tmp_path / "none" / "bonds")
        return [None if c.digest in broken else b for c, b in zip(crystals, crystal_nn_bonds(crystals), strict=True)]

    monkeypatch.setattr("generative.training.loop.crystal_nn_bonds", bonds)
    large = {i for i in range(60) if len(data.crystals[i].atomic_numbers) > 3}
    assert large
    assert not large & {3, 11}
    settings = config(kind="bonded-volume-model", max_steps=2, system={"atoms_max": 3})
    _, record = fit(data, settings, tmp_path)
    assert record["crystals_left_out"] == len(large) + 2
    assert record["crystals_trained"] + record["crystals_held_out"] == 60 - len(large) - 2
    with (tmp_path / "left_out.csv").open(encoding="utf-8", newline="") as text:
        listed = {row["id"]: row["reason"] for row in csv.DictReader(text)}
    assert set(listed) == {f"c{i}" for i in large | {3, 11}}
    assert "CrystalNN" in listed["c3"]
    assert listed[f"c{min(large)}"] == "it has 5 atoms: at most 3 are taken"
    with pytest.raises(TrainingError, match=r"10 left out \(it has 5 atoms: at most"):
        fit(data.subset(sorted(large)), settings, tmp_path / "none")


def test_a_wrong_kind_or_setting_is_refused_in_a_sentence(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="kind is 'training-copies': expected one of crystal-flow, "):
        fit(data, config(kind="training-copies"), tmp_path)
    with pytest.raises(TrainingError, match=r"system\.widht is no setting of volume-model: expected width, "):
        fit(data, config(system={"widht": 3}), tmp_path)
    with pytest.raises(TrainingError, match=r"system\.width is 0: .*greater than or equal to 1"):
        fit(data, config(system={"width": 0}), tmp_path)


def test_a_state_of_another_training_is_refused(data: TrainingSet, tmp_path: Path) -> None:
    fit(data, config(max_steps=1), tmp_path)
    for other in ({"system": {"width": 5}}, {"optimiser": "adam"}, {"kind": "bonded-volume-model"}):
        with pytest.raises(TrainingError, match="is the state of a training of volume-model by muon-adamw"):
            fit(data, config(max_steps=2, **other), tmp_path)


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"optimiser": "adam", "muon_lr": 0.1}, "muon_lr is 0.1, which does nothing"),
        ({"schedule": "plateau", "decay_fraction": 0.9}, "decay_fraction is 0.9, which does nothing"),
        ({"plateau_patience": 3}, "plateau_patience is 3, which does nothing"),
        (
            {"validation": "a.csv", "split": "crystal", "validation_fraction": 0.02},
            "split is 'crystal', which does not",
        ),
        ({"schedule": "plateau", "adam_lr": 1e-5}, "lr_min 0.0001 exceeds adam_lr 1e-05"),
    ],
)
def test_settings_without_an_effect_are_refused(stated: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config(**stated)


def test_the_former_name_of_the_gradients_limit_is_still_read() -> None:
    assert config(clip_norm=0.3).clip_limit == 0.3
    assert config(**config(clip_norm=0.3).model_dump(exclude={"data"})).clip_limit == 0.3


def tiny(kind: str) -> dict[str, Any]:
    fields = system_type(kind).config_type.model_fields
    return SMALL.get(kind, {"size": "tiny"} if "size" in fields else {})


@pytest.mark.parametrize("kind", of_kind(Trainable))
def test_every_system_that_can_be_trained_is_trained_by_its_name(data: TrainingSet, tmp_path: Path, kind: str) -> None:
    settings = config(kind=kind, system=tiny(kind), max_steps=2, **PUBLISHED, adam_lr=1e-3)
    system, record = fit(data.subset(range(30)), settings, tmp_path)
    assert system.name == kind
    assert record["steps"] == 2
    # Losses on held-out crystals are of the phase that came last; an adversary has none called val_loss.
    validated = {name: value for name, value in record["metrics"].items() if name.startswith("val_")}
    assert validated
    assert all(map(math.isfinite, validated.values()))
    checkpoints.save(tmp_path / "kept", system, record, dtype=torch.float32)
    assert_same(checkpoints.load(str(tmp_path / "kept")).system, system)
