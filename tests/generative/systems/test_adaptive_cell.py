"""The adaptive-cell score model as a system: what it learns, what it answers, what it refuses."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import spglib
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice

from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.requests import Request
from generative.systems.adaptive_cell.config import AdaptiveCellConfig, AdaptiveCellSampler
from generative.systems.adaptive_cell.system import AdaptiveCell
from generative.systems.adaptive_cell.training_set import SiteBatch
from generative.systems.interface import Change
from generative.systems.registry import system_type
from generative.training.data import TrainingSet
from tests.real_crystals import built, in_space_group

TINY = AdaptiveCellConfig(
    message_width=32,
    output_width=32,
    triplet_width=16,
    n_blocks=2,
    n_spherical=4,
    n_levels=20,
    position_variance_max_ang2=9.0,
)
ROCK_SALT = in_space_group(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
PEROVSKITE = in_space_group(221, Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]])
QUICK = AdaptiveCellSampler(steps_per_level=2, attempts=1)


def set_of(*crystals: Crystal) -> TrainingSet:
    n = len(crystals)
    return TrainingSet(crystals, [None] * n, [None] * n, [f"made:{i}" for i in range(n)])


def batch_of(system: AdaptiveCell, *crystals: Crystal) -> SiteBatch:
    return system.arranged(set_of(*crystals))[list(range(len(crystals)))]


def new(config: AdaptiveCellConfig = TINY) -> AdaptiveCell:
    torch.manual_seed(0)
    return AdaptiveCell(config)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def group_of(crystal: Crystal) -> int:
    cell = crystal.lattice_ang.tolist(), crystal.frac.tolist(), crystal.atomic_numbers.tolist()
    found = spglib.get_symmetry_dataset(cell, 0.01)
    assert found is not None
    return int(found.number)


@lru_cache(maxsize=1)
def trained() -> AdaptiveCell:
    """A minute of one processor on two crystals; weights averaged as in a training."""
    system = new()
    averaged = copy.deepcopy(system).eval()
    batch = batch_of(system, *[ROCK_SALT, PEROVSKITE] * 3)
    optimiser = torch.optim.Adam(system.parameters(), lr=4e-3)
    n_steps = 1000
    for step in range(n_steps):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 20) * (1 - step / n_steps)
        optimiser.zero_grad()
        system.loss(batch, rng(step)).total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(system.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(0.98, 1 - 1 / (0.1 * step + 1))
            torch._foreach_lerp_(list(averaged.parameters()), list(system.parameters()), 1 - decay)
    return averaged


def test_rock_salt_and_perovskite_are_learned_and_come_in_the_group_that_is_asked_for() -> None:
    asked = [
        Request.for_sites({"Na": 1, "Cl": 1}, 225),
        Request.for_sites({"Sr": 1, "Ti": 1, "O": 1}, 221),
    ] * 20
    drawn = trained().sample(asked, rng(5), AdaptiveCellSampler(steps_per_level=30, at_once=True, batch_crystals=40))
    alive = [(c, request) for c, request in zip(drawn, asked, strict=True) if np.isfinite(c.lattice_ang).all()]
    assert [group_of(c) for c, _ in alive] == [request.spacegroup for _, request in alive]
    matcher = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5)
    truths = [ROCK_SALT.to_structure(), PEROVSKITE.to_structure()] * 20
    matches = [
        np.isfinite(c.frac).all() and matcher.fit(truth, c.to_structure())
        for c, truth in zip(drawn, truths, strict=True)
    ]
    # Of 120 samples 115 matched. What fails is another occupation of the group, such as Na2Cl for NaCl.
    assert np.mean(matches) > 0.9


def test_at_every_level_where_something_can_be_told_the_losses_lie_below_those_of_no_answer() -> None:
    system = trained()
    batch = batch_of(system, *[ROCK_SALT, PEROVSKITE] * 20)
    found = []
    with torch.no_grad():
        for level in range(TINY.n_levels):
            levels = torch.full((len(batch),), level)
            item = system.item_losses(batch.state, batch.site_numbers, levels, levels, rng(level))
            found.append((item.sites.mean().item(), item.cell[item.has_cell].mean().item()))
    sites, cell = np.array(found).T
    # Noise of 0.7 A and more leaves a site of rock salt nearly anywhere: nobody can tell where it came from.
    assert (sites[:12] < 0.3).all()
    assert sites.mean() < 0.6
    assert (cell < 0.4).all()


def test_a_template_comes_back_from_noise_in_its_group_and_composition_and_the_others_have_reasons(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = trained().modify(
        [PEROVSKITE, ROCK_SALT], [Change(), Change(spacegroup=62)], rng(1), AdaptiveCellSampler(steps_per_level=12)
    )
    assert "1 of 2 samples are no polymorphs: 1 because another space group" in caplog.text
    assert group_of(found[0]) == 221
    assert StructureMatcher().fit(PEROVSKITE.to_structure(), found[0].to_structure())
    assert np.isnan(found[1].frac).all()


def test_equal_seeds_give_equal_crystals() -> None:
    asked = [Request.for_sites({"K": 1, "Cl": 2}, 62), Request.for_sites({"K": 1}, 166)]
    once, again, other = (new().sample(asked, rng(seed), QUICK) for seed in (3, 3, 4))
    assert [c.digest for c in once] == [c.digest for c in again]
    assert [c.digest for c in once] != [c.digest for c in other]


def test_sites_of_one_element_stand_together_and_elements_ascend() -> None:
    (crystal,) = new().sample([Request.for_sites({"O": 2, "K": 1}, 62)], rng(), QUICK)
    assert crystal.atomic_numbers.tolist() == sorted(crystal.atomic_numbers.tolist())
    assert set(crystal.atomic_numbers.tolist()) == {8, 19}


def test_what_cannot_be_asked_for_is_refused_or_fails_in_its_place() -> None:
    system = new()
    with pytest.raises(ValueError, match="request 1 .*expected numbers of inequivalent sites"):
        system.sample([Request.for_sites({"K": 1}, 62), Request.of({"K": 1})], rng(), QUICK)
    with pytest.raises(ValueError, match="up to atomic number 95"):
        system.sample([Request.for_sites({"Cm": 1}, 62)], rng(), QUICK)
    low, fine = system.sample([Request.for_sites({"K": 1, "Cl": 2}, 14), Request.for_sites({"K": 1}, 62)], rng(), QUICK)
    assert low.atomic_numbers.tolist() == [17, 17, 19]
    assert np.isnan(low.frac).all()
    assert np.isfinite(fine.frac).all()
    assert system.sample([], rng()) == []


def test_a_known_crystal_is_asked_for_by_its_group_and_sites() -> None:
    assert AdaptiveCell.request_like(PEROVSKITE) == Request.for_sites({"Sr": 1, "Ti": 1, "O": 1}, 221)
    void = Crystal(np.zeros((3, 3)), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    assert AdaptiveCell.request_like(void) == Request.for_sites({"Na": 1}, 1)


def test_crystals_of_free_angles_are_refused_unless_their_positions_are_wanted() -> None:
    tilted = built(Lattice.monoclinic(4.0, 5.0, 6.0, 100.0), ["K", "Cl"], [[0.1, 0.2, 0.3], [0.6, 0.4, 0.8]])
    assert "monoclinic or triclinic" in new().refused(tilted)
    system = new(AdaptiveCellConfig(**{**TINY.model_dump(), "low_symmetry": True}))
    assert system.refused(tilted) == ""
    batch = batch_of(system, tilted, ROCK_SALT)
    levels = torch.zeros(2, dtype=torch.long)
    item = system.item_losses(batch.state, batch.site_numbers, levels, levels, rng())
    assert item.has_cell.tolist() == [False, True]
    assert item.cell[0] == 0
    assert (item.sites > 0).all()


def test_a_cell_that_its_noise_makes_too_small_is_left_out_alone() -> None:
    system = new()
    batch = batch_of(system, *[ROCK_SALT] * 64)
    widest = torch.full((64,), TINY.n_levels - 1)
    state = batch.state
    # Rock salt as if 30 sites had to fit into its cell: some draws of the widest noise leave no room for them.
    crowded = type(state)(state.frac, state.numbers - 8, state.group, state.angles_deg, state.sites)
    item = system.item_losses(crowded, batch.site_numbers, widest, widest, rng())
    assert 0 < int(item.has_cell.sum()) < 64
    assert (item.cell[~item.has_cell] == 0).all()
    assert item.cell.isfinite().all()
    assert item.sites.isfinite().all()


def test_a_new_network_has_the_loss_of_no_answer() -> None:
    system = new()
    batch = batch_of(system, *[ROCK_SALT, PEROVSKITE] * 100)
    loss = system.loss(batch, rng())
    assert loss.parts["sites"].item() == pytest.approx(1, abs=0.1)
    assert loss.parts["cell"].item() == pytest.approx(1, abs=0.3)
    assert loss.total.item() == pytest.approx((loss.parts["sites"] + loss.parts["cell"]).item() / 2)


def test_a_batch_without_sites_is_refused() -> None:
    with pytest.raises(AssertionError, match="take it from what `arranged` gives"):
        new().loss(CrystalBatch.pack([ROCK_SALT]), rng())


def test_a_checkpoint_is_read_by_the_systems_name(tmp_path: Path) -> None:
    assert system_type("adaptive-cell") is AdaptiveCell
    checkpoints.save(tmp_path / "one", new(), {}, torch.float32)
    loaded = checkpoints.load(str(tmp_path / "one")).generator
    asked = [Request.for_sites({"K": 1, "Cl": 1}, 123)]
    assert loaded.sample(asked, rng(), QUICK)[0].digest == new().eval().sample(asked, rng(), QUICK)[0].digest


def test_larger_requests_can_have_longer_walks() -> None:
    asked = [Request.for_sites({"K": n}, 62) for n in (1, 2)]
    told: list[float] = []
    how = AdaptiveCellSampler(steps_per_level=1, steps_per_site=1, attempts=1)
    new().sample(asked, rng(), how, told.append)
    assert told == [0.5, 1.0]
