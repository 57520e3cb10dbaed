"""Modifiers: periodic errors against the published cases, pairs, and a polymorph that is learned by heart."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal, reduced
from generative.crystal.structure_matrix import sorted_sites, to_matrix
from generative.datasets.polymorphs import PairSet
from generative.systems.interface import Change
from generative.systems.unet.config import StepsSampler
from generative.systems.unet.modifier import (
    MODIFIERS,
    DiffusionModifier,
    ModifierConfig,
    StructureModifier,
    periodic_error,
)
from generative.training.config import TrainConfig
from generative.training.data import TrainingError, TrainingSet
from generative.training.loop import fit
from tests.generative.asking import asked
from tests.generative.systems.by_heart import learn

QUICK = StepsSampler(n_steps=20)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(kind: type[StructureModifier], **settings: object) -> StructureModifier:
    torch.manual_seed(0)
    system = kind(ModifierConfig(size="tiny", drop_spacegroup=0, drop_energy=0, **settings))
    system.fit_statistics([], [-1.0, -2.0])
    return system


def polymorphs() -> TrainingSet:
    """Caesium chloride and rock salt of two compounds, the first the higher."""
    made, energies = [], []
    for one, two, a in (("Na", "Cl", 5.6), ("K", "Br", 6.6)):
        low = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [one, two], [[0, 0, 0], [0.5] * 3])
        high = Structure(Lattice.cubic(0.6 * a), [one, two], [[0, 0, 0], [0.5] * 3])
        made += [reduced(Crystal.from_structure(s)) for s in (high, low.get_primitive_structure())]
        energies += [-1.0, -2.0]
    return TrainingSet(made, [221, 225, 221, 225], energies, list("abcd"))


@pytest.mark.parametrize(
    ("target", "told", "image", "boundary"),
    [
        ((0, 0, 0), (0.9, 0.1, 0.95), 0.25, 0.25),
        ((1, 0, 0.3), (0.1, 0.9, 0.35), 0.25, 0.25),
        ((0, 0.4, 0.6), (0.9, 0.4, 0.6), 0.10, 0.10),
        ((0.2, 0.3, 0.4), (0.9, 0.3, 0.4), 0.30, 0.70),
    ],
)
def test_periodic_errors_are_those_of_the_published_cases(target, told, image, boundary) -> None:
    target, told = torch.tensor(target, dtype=torch.float64), torch.tensor(told, dtype=torch.float64)
    assert float(periodic_error(told, target, "image").sum()) == pytest.approx(image)
    assert float(periodic_error(told, target, "boundary").sum()) == pytest.approx(boundary)
    assert float(periodic_error(told, target, "none").sum()) == pytest.approx(float((told - target).abs().sum()))


def test_the_error_to_the_nearest_image_is_the_least_over_all_images() -> None:
    told, target = torch.rand(2, 200, 3, generator=rng(), dtype=torch.float64) * 3 - 1
    images = torch.tensor(list(itertools.product(range(-3, 4), repeat=3)), dtype=torch.float64)
    least = (told[:, None] - target[:, None] + images).abs().sum(-1).min(1).values
    torch.testing.assert_close(periodic_error(told, target, "image").sum(-1), least)
    moved = periodic_error(told + 2, target - 1, "image")
    torch.testing.assert_close(moved, periodic_error(told, target, "image"))


@pytest.mark.parametrize("kind", MODIFIERS, ids=lambda kind: kind.name)
def test_an_untrained_flow_returns_its_source_and_a_crystal_too_large_is_a_failed_sample(kind) -> None:
    system = built(kind, predicts="noise-velocity").eval()
    crystal = polymorphs().crystals[0]
    large = Crystal(20 * np.eye(3), np.random.default_rng(0).random((61, 3)), np.full(61, 6, dtype=np.int16))
    failed, found = system.modify([large, crystal], [Change(), Change(225, -0.5)], rng(), QUICK)
    assert np.isnan(failed.frac).all()
    assert found.atomic_numbers.tolist() == sorted(crystal.atomic_numbers.tolist(), key=[17, 11].index)
    if "flow" in kind.name:
        assert StructureMatcher(scale=False).fit(found.to_structure(), crystal.to_structure())
    if "regression" in kind.name:
        assert not found.lattice_ang.any()


def test_modifiers_learn_from_pairs_of_polymorphs() -> None:
    pairs = built(MODIFIERS[0]).arranged(polymorphs())
    assert isinstance(pairs, PairSet)
    assert pairs.batches(4, None) == [[0, 2, 1, 3]]


def test_the_loss_of_regression_is_the_error_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    data = polymorphs()
    system = built(MODIFIERS[0])
    batch = CrystalBatch.pack([data.crystals[i] for i in (0, 2, 1, 3)], [221, 221, 225, 225], [-1.0, -1.0, -2.0, -2.0])
    told = torch.zeros(2, 64, 3)
    told[:, 0], told[:, 1] = 0.9, 0.5  # chlorine or bromine, then the metal
    monkeypatch.setattr(system, "_told", lambda matrix, time, condition: told)
    parts = system.loss(batch, rng()).parts
    errors = []
    for crystal in (data.crystals[1], data.crystals[3]):
        by_symbol = crystal.frac[np.argsort([0 if z in (17, 35) else 1 for z in crystal.atomic_numbers], kind="stable")]
        shift = np.array([[0.9] * 3, [0.5] * 3]) - by_symbol
        errors.append(np.abs(shift - np.round(shift)).sum() / 2)
    assert float(parts["sites"]) == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_perfect_diffusion_arrives_at_the_polymorph(monkeypatch: pytest.MonkeyPatch) -> None:
    data = polymorphs()
    system = built(DiffusionModifier, predicts="noise-velocity").eval()
    wanted = CrystalBatch.pack([data.crystals[1]])
    target = to_matrix(sorted_sites(wanted)) / system.units

    def told(matrix, time, condition):  # noqa: ANN001, ANN202
        level = float(system.alpha_bar[int(time[0])])
        return (matrix - level**0.5 * target) / (1 - level) ** 0.5

    monkeypatch.setattr(system, "_told", told)
    (found,) = system.modify([data.crystals[0]], [Change(225, -1.0)], rng(), StepsSampler(n_steps=100))
    distance = StructureMatcher().get_rms_dist(found.to_structure(), data.crystals[1].to_structure())
    assert distance is not None
    assert distance[0] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODIFIERS, ids=lambda kind: kind.name)
def test_polymorphs_learned_by_heart_are_found_from_their_sources(kind) -> None:
    data = polymorphs()
    system = built(kind)
    rows = [0, 2] * 6 + [1, 3] * 6
    batch = CrystalBatch.pack(
        [data.crystals[i] for i in rows], [data.spacegroups[i] for i in rows], [data.energies[i] for i in rows]
    )
    learn(system, batch, n_steps=250)
    sources = [data.crystals[0], data.crystals[2]] * 6
    found = system.modify(sources, [Change(225, -1.0)] * 12, rng(1), StepsSampler(n_steps=25))
    targets = [data.crystals[1].to_structure(), data.crystals[3].to_structure()] * 6
    hits = [
        StructureMatcher().fit(crystal.to_structure(), target) for crystal, target in zip(found, targets, strict=True)
    ]
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize("kind", MODIFIERS, ids=lambda kind: kind.name)
def test_a_modifier_asked_for_a_composition_starts_from_what_it_keeps(kind, tmp_path, monkeypatch) -> None:
    data = polymorphs()
    system = built(kind)
    system.fit_statistics(data.crystals, data.energies)
    checkpoints.save(tmp_path / "modifier", system, {}, dtype=torch.float32)
    loaded = checkpoints.load(str(tmp_path / "modifier")).system
    started: list[tuple[Crystal, float | None]] = []

    def modify(crystals, changes, generator, settings, progress):  # noqa: ANN001, ANN202
        started.extend((c, change.energy_ev_per_atom) for c, change in zip(crystals, changes, strict=True))
        return crystals

    monkeypatch.setattr(loaded, "modify", modify)
    cells = [[11, 17], [11, 11, 17, 17], [9, 37], [8, 8, 22]]
    drawn = loaded.sample(asked(cells, None, [-2.5, None, -1.0, -1.0]), rng(), QUICK)
    assert [crystal.atomic_numbers.tolist() for crystal in drawn] == cells
    (own, change), (doubled, _), (substituted, unknown), (failed, _) = started
    energies = {data.crystals[i].digest: e for i, e in enumerate(data.energies)}
    kept = [c for c in data.crystals if StructureMatcher().fit(c.to_structure(), own.to_structure())]
    assert change == pytest.approx(-2.5 - energies[kept[0].digest])
    assert len(doubled.atomic_numbers) == 4
    assert np.isfinite(substituted.frac).all()
    assert unknown is None  # the energy of another compound says nothing about this one
    assert np.isnan(failed.frac).all()
    with pytest.raises(ValueError, match="keeps no crystals to start from"):
        built(kind).sample(asked([[17, 11]]), rng(), QUICK)


def test_a_held_out_part_without_polymorphs_is_named_as_such(tmp_path: Path) -> None:
    data = polymorphs()
    alone = data.subset([0])
    config = TrainConfig(
        kind="unet-modify-regression", system={"size": "tiny"}, max_steps=1, optimiser="adam", precision="32"
    )
    with pytest.raises(TrainingError, match="held out for validation: none of 1 crystals has polymorphs"):
        fit(data, config, tmp_path, held=alone)
