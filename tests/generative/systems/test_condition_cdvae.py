"""ConditionCDVAE+: what is fused, what heads and denoiser hear, what the GAN learns, and that a condition is met."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from torch import Tensor, nn

from generative import checkpoints
from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.crystals import Crystal, reduced
from generative.requests import FORMATION_ENERGY, Request
from generative.systems.cdvae.latent_search import misfit
from generative.systems.condition_cdvae.config import ConditionCDVAESampler
from generative.systems.condition_cdvae.fusion import Conditions, Embeddings, Gaussians, LowRankFusion, MeanElement
from generative.systems.condition_cdvae.latent_gan import LatentCritic, slope_penalty
from generative.systems.condition_cdvae.system import (
    VARIANTS,
    ConditionCDVAE,
    ConditionCDVAEEnergy,
    ConditionCDVAEFormula,
    _Fused,
)
from generative.systems.condition_cdvae.training_set import ConditionedCrystals
from generative.training.config import TrainConfig
from generative.training.data import TrainingSet
from generative.training.loop import fit
from tests.generative.asking import asked

QUICK = ConditionCDVAESampler(steps_per_level=1, level_stride=10, latent_steps=5, screening=7)
GAP = "band_gap_ev"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cell(lattice: Lattice, species: list[str], frac: list[list[float]]) -> Crystal:
    return reduced(Crystal.from_structure(Structure(lattice, species, frac)))


def caesium_chloride(a: float, species: list[str]) -> Crystal:
    return cell(Lattice.cubic(a), species, [[0, 0, 0], [0.5] * 3])


ROCKSALT = cell(Lattice.rhombohedral(3.96, 60), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
ALLOY = cell(Lattice.tetragonal(2.8, 3.7), ["Ti", "Al"], [[0, 0, 0], [0.5] * 3])
BORIDE = cell(Lattice.hexagonal(3.03, 3.23), ["Ti", "B", "B"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
CRYSTALS = [caesium_chloride(4.1, ["Cs", "Cl"]), ROCKSALT, ALLOY, BORIDE]
ENERGIES = [-2.2, -2.0, -0.4, None]
GAPS = [6.0, 5.0, None, 0.0]


def training_set(crystals: list[Crystal] = CRYSTALS, energies: list[float | None] = ENERGIES) -> TrainingSet:
    data = TrainingSet(
        crystals, [None] * len(crystals), energies, [f"c{i}" for i in range(len(crystals))], crystal_nn_bonds(crystals)
    )
    data.columns = {GAP: (GAPS * len(crystals))[: len(crystals)]}
    return data


def system_of(kind: type[ConditionCDVAE] = ConditionCDVAE, **settings: object) -> ConditionCDVAE:
    torch.manual_seed(0)
    system = kind(kind.config_type(size="tiny", **settings))
    system.measure(system.arranged(training_set()))
    return system


def several(**settings: object) -> ConditionCDVAE:
    return system_of(conditions=(FORMATION_ENERGY, "composition", GAP), **settings)


def batch_of(system: ConditionCDVAE, data: TrainingSet | None = None) -> ConditionedCrystals:
    data = training_set() if data is None else data
    batch = system.arranged(data)[list(range(len(data)))]
    assert isinstance(batch, ConditionedCrystals)
    return batch


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*VARIANTS, "several"], ids=lambda kind: getattr(kind, "name", kind))
def test_every_variant_learns_reconstructs_generates_and_comes_back_from_its_checkpoint(
    make: Any, tmp_path: Path
) -> None:
    system = several() if make == "several" else system_of(make)
    batch = batch_of(system)
    first, *second = system.phases()
    optimiser = torch.optim.Adam(list(first.objectives[0].parameters), lr=3e-3)
    losses = []
    for _step in range(12):
        optimiser.zero_grad()
        loss = system.train().loss(batch, rng(1), epoch=0)  # the same noise at each step: the loss must fall
        loss.total.backward()
        optimiser.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert ("property" in loss.parts) == bool(system.config.properties)
    assert all(p.grad is not None for p in first.objectives[0].parameters)
    trained = {id(p) for phase in (first, *second) for one in phase.objectives for p in one.parameters}
    assert trained == {id(p) for p in system.parameters()}
    assert bool(second) == bool(system.config.conditions)
    checkpoints.save(tmp_path / "model", system, {}, dtype=torch.float32)
    loaded = checkpoints.load(str(tmp_path / "model")).system
    assert type(loaded) is type(system)
    assert loaded.heeds >= {"composition", *system.config.conditions}
    assert checkpoints.heeds_of(str(tmp_path / "model")) == loaded.heeds  # told without the weights
    assert [c.digest for c in system.eval().reconstruct(CRYSTALS, rng(), QUICK, batch_crystals=3)] == [
        c.digest for c in loaded.reconstruct(CRYSTALS, rng(), QUICK, batch_crystals=3)
    ]
    drawn = loaded.generate(5, rng(), QUICK)
    assert all(1 <= len(c.atomic_numbers) <= 20 for c in drawn)
    cells = [[5, 5, 22], [], [11, 17]]
    done: list[float] = []
    made = loaded.sample(asked(cells, None, [-1.0, None, -2.0]), rng(), QUICK, progress=done.append)
    assert [c.atomic_numbers.tolist() for c in made[::2]] == cells[::2]
    assert done[-1] == 1


def test_a_toy_set_learned_by_heart_is_reconstructed() -> None:
    system = system_of(drop_alpha=0, drop_path=0)
    batch = batch_of(system, training_set(CRYSTALS * 2, ENERGIES * 2))
    optimiser = torch.optim.Adam(system.parameters(), lr=1e-2)
    n_steps = 300
    for step in range(n_steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * min(1, (step + 1) / 20) * (1 - step / n_steps)
        optimiser.zero_grad()
        system.train().loss(batch, rng(step), epoch=0).total.backward()
        torch.nn.utils.clip_grad_value_(system.parameters(), 0.5)
        optimiser.step()
    true = CRYSTALS * 4
    found = system.eval().reconstruct(true, rng(), ConditionCDVAESampler(steps_per_level=5), crystal_nn_bonds(true))
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    pairs = [(c.to_structure(), t.to_structure()) for c, t in zip(found, true, strict=True)]
    rms = [distance[0] for one, other in pairs if (distance := matcher.get_rms_dist(one, other)) is not None]
    assert len(rms) / len(true) > 0.9
    assert np.median(rms) < 0.05


def test_heads_and_denoiser_hear_the_fused_vector_and_the_first_latent_vector_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = system_of(ConditionCDVAEEnergy).eval()
    heard: list[Tensor] = []

    def watched(latent: Tensor, frac: Tensor, types: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        heard.append(latent)
        return torch.zeros_like(frac), torch.zeros(len(types), 100)

    monkeypatch.setattr(system.denoiser, "forward", watched)
    monkeypatch.setattr(system, "_drawn", lambda conditions, n, rng, how: torch.ones(n * 2, system.latent_width))
    system.sample([Request((), None, -1.0), Request((), None, -2.0)], rng(), QUICK)
    values = (torch.tensor([[-1.0], [-2.0]]) - system.property_mean) / system.property_scale
    expected = system.fused(torch.ones(2, system.latent_width), Conditions(torch.zeros(2, 100), values))
    assert not torch.allclose(expected[0], expected[1])
    for one in heard:
        torch.testing.assert_close(one, expected)
    heard.clear()
    batch = batch_of(system)
    system.train().loss(batch, rng(), epoch=0)
    z = system.eval().encode(batch)  # without dropping
    assert heard[0].shape == z.mean.shape
    monkeypatch.setattr(system, "fused", lambda z, conditions: torch.full_like(z, 3.0))
    heard.clear()
    system.loss(batch, rng(), epoch=0)
    assert (heard[0] == 3).all()


def test_statistics_are_those_of_the_training_crystals() -> None:
    system = several()
    data = system.arranged(training_set())
    assert system.property_mean.tolist() == pytest.approx([np.mean(ENERGIES[:3]), np.mean([6.0, 5.0, 0.0])], rel=1e-6)
    assert system.property_scale.tolist() == pytest.approx([np.std(ENERGIES[:3]), np.std([6.0, 5.0, 0.0])], rel=1e-6)
    n_atoms = sum(len(c.atomic_numbers) for c in CRYSTALS)
    assert data.bonds is not None
    n_bonds = sum(len(b.source) for b in data.bonds)
    assert float(system.encoder.equiformer.trunk.mean_degree) == pytest.approx(n_bonds / n_atoms)
    assert float(system.encoder.atoms_per_crystal) == pytest.approx(n_atoms / 4)
    # Twelve or more at 7 A in all of these, of which tiny keeps eight; made symmetric, some more or less.
    assert 6 < float(system.denoiser.equiformer.trunk.mean_degree) < 12
    boride = system.example_fractions[3]
    assert boride[[4, 21]].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert float(boride.sum()) == pytest.approx(1)


def test_the_latent_vector_does_not_depend_on_how_a_crystal_is_written() -> None:
    system = system_of().double().eval()
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    order = [2, 0, 1]
    other = Crystal(BORIDE.lattice_ang @ turn, (BORIDE.frac[order] + [0.3, 0.6, 0.9]) % 1, BORIDE.atomic_numbers[order])
    means = []
    for crystal in (BORIDE, other):
        batch = system.pack([crystal], crystal_nn_bonds([crystal]))
        means.append(
            system.encode(batch.replace(frac=batch.frac.double(), lattice_ang=batch.lattice_ang.double())).mean
        )
    torch.testing.assert_close(means[0], means[1], atol=1e-4, rtol=1e-4)  # single precision, and the grid's


# --- conditions -------------------------------------------------------------------------------------------------------


def test_low_rank_fusion_is_the_full_tensor_product_with_its_weights_taken_apart() -> None:
    """Eqs. 5 and 6 of the paper, for two conditions, by brute force."""
    system = system_of(conditions=(FORMATION_ENERGY, "composition"), rank=3)
    fusion = system.fusion
    assert fusion is not None
    with torch.no_grad():
        fusion.bias.normal_()
    z = torch.randn(4, system.latent_width, generator=rng())
    conditions = Conditions(torch.rand(4, 100, generator=rng(1)), torch.randn(4, 1, generator=rng(2)))
    one = torch.ones(4, 1)
    parts = [torch.cat([one, part], dim=1) for part in (z, *fusion.embeddings(conditions))]
    weights = torch.einsum("r,rzo,rao,rbo->zabo", fusion.weights[0], *fusion.factors)
    expected = torch.einsum("nz,na,nb,zabo->no", *parts, weights) + fusion.bias
    torch.testing.assert_close(fusion(z, conditions), expected, atol=1e-4, rtol=1e-4)


def test_a_number_is_expanded_in_gaussians_and_a_formula_is_a_mean_that_knows_no_size() -> None:
    config = system_of(ConditionCDVAEEnergy).config
    found = Gaussians(0, config)(Conditions(torch.zeros(1, 100), torch.tensor([[0.3]])))
    centres = np.linspace(-2, 2, 50)
    np.testing.assert_allclose(found[0], np.exp(-((0.3 - centres) ** 2) / (2 * (4 / 49) ** 2)), atol=1e-6)
    mean = MeanElement(5)
    fractions = torch.zeros(1, 100)
    fractions[0, [21, 4]] = torch.tensor([1 / 3, 2 / 3])
    expected = (mean.table.weight[21] + 2 * mean.table.weight[4]) / 3
    torch.testing.assert_close(mean(Conditions(fractions, torch.zeros(1, 0)))[0], expected)
    assert not list(Gaussians(0, config).parameters())
    learned = system_of(ConditionCDVAEEnergy, learn_gaussians=True)
    assert learned.fusion is not None
    assert "embeddings.parts.0.centres" in dict(learned.fusion.named_parameters())


def test_what_is_not_known_is_what_the_head_reads_and_what_is_not_asked_a_training_crystals() -> None:
    system = several().eval()
    batch = batch_of(system)
    z = torch.randn(4, system.latent_width, generator=rng())
    values = system.conditions_of(batch, z).values
    read = system.properties(z)
    assert values[3, 0] == read[3, 0]  # the boride has no energy
    assert values[2, 1] == read[2, 1]  # the alloy no gap
    assert values[0, 0] == pytest.approx(
        (ENERGIES[0] - float(system.property_mean[0])) / float(system.property_scale[0])
    )
    conditions = system._completed(system.wanted([Request.of({"Na": 2}, targets={GAP: 1.0}), Request()]), rng())
    assert conditions.fractions[0].nonzero().flatten().tolist() == [10]
    assert float(conditions.values[0, 1]) == pytest.approx(
        float((1.0 - system.property_mean[1]) / system.property_scale[1])
    )
    assert (conditions.fractions[1] == system.example_fractions).all(1).any()
    assert not conditions.values.isnan().any()


def test_screening_keeps_of_each_crystals_vectors_the_nearest_and_counts_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    system = several().eval()
    requests = [Request.of({"Ti": 1, "B": 2}, None, -1.0, {GAP: 2.0}), Request((), None, -2.0)]
    wanted = system.wanted(requests)
    conditions = system._completed(wanted, rng())
    z = torch.randn(2 * 20, system.latent_width, generator=rng(1))
    with caplog.at_level(logging.INFO):
        found = system._nearest(z, conditions, wanted, 20)
    assert "2 of 40 latent vectors accepted" in caplog.text
    for i in range(2):
        alone = [
            float(misfit(_Fused(system, Conditions(*(part[i : i + 1] for part in conditions))), one[None], type(wanted)(
                *(part[i : i + 1] for part in wanted))))
            for one in z[20 * i : 20 * (i + 1)]
        ]  # fmt: skip
        assert torch.equal(found[i], z[20 * i + int(np.argmin(alone))])


def test_conditions_are_names_each_once_and_columns_of_the_data() -> None:
    with pytest.raises(ValueError, match="expected names, each once"):
        ConditionCDVAE.config_type(conditions=(GAP, GAP))
    config = ConditionCDVAE.config_type(conditions=(FORMATION_ENERGY, GAP, "composition"))
    assert ConditionCDVAE.columns(config) == (GAP,)
    assert ConditionCDVAEFormula.columns(ConditionCDVAEFormula.config_type()) == ()


# --- the GAN ----------------------------------------------------------------------------------------------------------


def test_the_slope_of_a_linear_critic_is_punished_by_its_distance_from_one() -> None:
    config = system_of(ConditionCDVAEEnergy).config
    critic = LatentCritic(Embeddings(config, 8), 6, (), 0.5)
    conditions = Conditions(torch.zeros(5, 100), torch.randn(5, 1, generator=rng()))
    real, fake = torch.randn(2, 5, 6, generator=rng(1)).unbind()
    slope = float(critic.out.weight[0, :6].norm())
    found = slope_penalty(critic, real, fake, conditions, rng(), drop=True)
    assert float(found.detach()) == pytest.approx((slope - 1) ** 2, rel=1e-4)
    found.backward()
    assert critic.out.weight.grad is not None
    with torch.no_grad():
        assert float(slope_penalty(critic, real, fake, conditions, rng(), drop=False)) == pytest.approx(float(found))


def test_the_generator_is_told_of_the_numbers_until_they_are_near_enough() -> None:
    system = system_of(ConditionCDVAEEnergy, generator_property_floor=1e6).train()
    near = system_of(ConditionCDVAEEnergy).train()
    batch = batch_of(system)
    one, other = (s.generator_loss(batch, rng(), 0) for s in (system, near))
    assert float(one.total) == pytest.approx(-float(one.parts["score"]))
    assert float(other.total) == pytest.approx(
        10 * float(other.parts["property"]) - float(other.parts["score"]), rel=1e-5
    )


def test_a_batch_of_one_crystal_trains_the_gan_too() -> None:
    system = system_of(ConditionCDVAEEnergy).train()
    batch = system.arranged(training_set())[[0]]
    for loss in (system.critic_loss(batch, rng(), 0), system.generator_loss(batch, rng(), 0)):
        assert math.isfinite(float(loss.total.detach()))


TARGETS = [caesium_chloride(a, species) for a in np.linspace(3.6, 4.8, 25) for species in (["Cs", "Cl"], ["K", "Br"])]
"""Crystals whose property is the edge of their cell, angstrom: 3.6 to 4.8."""


def edge_of(crystal: Crystal) -> float:
    return float(abs(np.linalg.det(crystal.lattice_ang)) * 2 / len(crystal.frac)) ** (1 / 3)


def toy(**changes: Any) -> TrainConfig:
    """Without the denoiser, which has no say in a cell."""
    system = {"size": "tiny", "drop_alpha": 0, "drop_path": 0, "gan_share": 1, "gan_rate": 2e-3,
              "denoiser_from_epoch": 10**6, **changes.pop("system", {})}  # fmt: skip
    settings: dict[str, Any] = {
        "kind": "condition-cdvae-energy", "system": system, "max_steps": 600, "batch_crystals": 16,
        "optimiser": "adam", "adam_lr": 0.01, "clip": "value", "clip_limit": 0.5, "precision": "32",
        "torch_threads": 1, "device": "cpu", "split": "crystal", "validation_fraction": 0.1, "validation_every": 200,
        "warmup_steps": 20, "decay_fraction": 1, "ema": 0.98,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def targets() -> TrainingSet:
    n = len(TARGETS)
    return TrainingSet(TARGETS, [None] * n, [edge_of(c) for c in TARGETS], [f"c{i}" for i in range(n)])


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and GPUs
def test_crystals_drawn_for_a_number_have_it_on_average_to_a_tenth_of_its_range(tmp_path: Path) -> None:
    system, record = fit(targets(), toy(), tmp_path)
    assert isinstance(system, ConditionCDVAE)
    how = ConditionCDVAESampler(steps_per_level=1, level_stride=25, latent_steps=0, screening=20)
    for target in (3.7, 4.1, 4.6):
        edges = [edge_of(c) for c in system.sample([Request((), None, target)] * 24, rng(), how)]
        assert np.mean(edges) == pytest.approx(target, abs=0.1 * 1.2)
    metrics = record["metrics"]
    assert {"val_loss", "val_critic_distance", "val_critic_penalty", "val_generator_moments"} <= set(metrics)
    with (tmp_path / "curves" / "from-0000000" / "metrics.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert all(
        row["train_loss"] and not row.get("train_critic_loss")
        for row in rows
        if int(row["step"]) < 300 and row["train_loss"]
    )
    assert [row for row in rows if row.get("train_critic_loss") and row["train_generator_loss"]]


class KilledError(Exception):
    pass


class Watch(Callback):
    """All weights after each step; ends the training, unsaved, before step `kill`."""

    def __init__(self, kill: int | None = None) -> None:
        self.kill, self.after = kill, dict[int, dict[str, Tensor]]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.steps_done == self.kill:
            raise KilledError

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.after[pl_module.steps_done] = {n: v.clone() for n, v in pl_module.system.state_dict().items()}


@pytest.mark.filterwarnings("ignore")
def test_the_gan_trains_beside_a_frozen_model_and_goes_on_after_an_interruption_to_the_same_weights(
    tmp_path: Path,
) -> None:
    config = toy(max_steps=12, save_every=1, validation_every=4, schedule="plateau", plateau_patience=0, lr_min=1e-4,
                 decay_fraction=0.4, system={"drop_alpha": 0.1, "drop_path": 0.1})  # fmt: skip
    whole, killed, rest = Watch(), Watch(9), Watch()
    fit(targets(), config, tmp_path / "whole", [whole])
    with pytest.raises(KilledError):
        fit(targets(), config, tmp_path / "killed", [killed])
    fit(targets(), config, tmp_path / "killed", [rest])
    assert sorted(rest.after) == [10, 11, 12]
    for step in rest.after:
        assert all(torch.equal(rest.after[step][name], value) for name, value in whole.after[step].items())

    def changed(first: int, last: int) -> set[str]:
        before, after = whole.after[first], whole.after[last]
        return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}

    assert {"encoder", "fusion", "to_properties"} <= changed(1, 6)
    assert not {"critic", "generator"} & changed(1, 6)
    assert changed(6, 10) == {"critic", "generator"}  # normalisation is measured while the critic learns
    weights = [name for name, _ in system_of(ConditionCDVAEEnergy).named_parameters() if name.startswith("generator")]
    assert all(torch.equal(whole.after[6][n], whole.after[10][n]) for n in weights)  # its turn is the fifth
    assert any(not torch.equal(whole.after[10][n], whole.after[11][n]) for n in weights)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_published_sizes_have_the_published_numbers_of_parameters() -> None:
    """Fact sheets count 0.38 M, 2.66 M and 0.68 M with a layer of the fusion that the code defines and never calls."""

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    system = ConditionCDVAEEnergy(ConditionCDVAEEnergy.config_type(size="paper"))
    assert system.generator is not None
    assert system.critic is not None
    assert isinstance(system.fusion, LowRankFusion)
    assert count(system.fusion) == 4 * 256 * (257 + 51) + 4 + 256 == 381_444 - (256 * 256 + 256)
    widths = [306, 512, 512, 1024, 1024, 512, 256]
    linear = sum(a * b + b for a, b in zip(widths[:-1], widths[1:], strict=True))
    assert count(system.generator) == linear + 2 * (512 + 1024 + 1024 + 512)
    assert count(system.generator) == pytest.approx(2.66e6, rel=2e-3)
    assert count(system.critic) == 306 * 512 + 512 + 2 * (512 * 512 + 512) + 513
    assert count(system.critic) == pytest.approx(0.68e6, rel=0.01)
    assert count(system) == pytest.approx(63e6 + 0.32e6 + 2.66e6 + 0.68e6, rel=0.01)
