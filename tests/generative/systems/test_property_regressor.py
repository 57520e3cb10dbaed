"""The energy regressor: it learns a property, leaves out what it cannot read, and is kept like any other system."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import Bonds, crystal_nn_bonds, pack_bonds
from generative.crystal.crystals import Crystal
from generative.systems.baselines.stored import failed_sample
from generative.systems.cdvae.property_regressor import PropertyRegressor, PropertyRegressorConfig


def rock_salt(edge_ang: float, first: int = 11, second: int = 17) -> Crystal:
    lattice = edge_ang / 2 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Crystal(lattice, np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), np.array([first, second], dtype=np.int16))


@pytest.fixture(scope="module")
def crystals() -> list[Crystal]:
    return [rock_salt(edge, first) for first in (3, 11, 19) for edge in np.linspace(4.6, 6.4, 8)]


@pytest.fixture(scope="module")
def bonds(crystals: list[Crystal]) -> list[Bonds]:
    return [found for found in crystal_nn_bonds(crystals) if found is not None]


def packed(crystals: list[Crystal], bonds: list[Bonds], values: list[float | None]) -> CrystalBatch:
    batch = CrystalBatch.pack(crystals, energies_ev_per_atom=values)
    return batch.replace(bonds=pack_bonds(bonds, [len(c.atomic_numbers) for c in crystals]))


def new(size: str = "tiny") -> PropertyRegressor:
    torch.manual_seed(0)
    return PropertyRegressor(PropertyRegressorConfig.model_validate({"size": size}))


def test_a_property_of_cell_and_elements_is_learnt_and_given_back_in_its_own_unit(
    crystals: list[Crystal], bonds: list[Bonds]
) -> None:
    values = [-3.0 + 0.1 * float(c.atomic_numbers[0]) + 0.02 * float(np.linalg.det(c.lattice_ang)) for c in crystals]
    system, rng = new(), torch.Generator().manual_seed(0)
    system.fit_statistics(crystals, values)
    batch = packed(crystals, bonds, list(values))
    adam = torch.optim.Adam(system.parameters(), lr=3e-3)
    first = float(system.loss(batch, rng, 0).total.detach())
    for _ in range(60):
        adam.zero_grad()
        system.loss(batch, rng, 0).total.backward()  # type: ignore[no-untyped-call]
        adam.step()
    assert first == pytest.approx(
        1.0, abs=0.3
    )  # the last layer starts at zero: the mean is predicted, one variance off
    error = np.abs(system.predict(crystals, bonds) - values).mean()
    assert error < 0.2 * np.std(values)


def test_crystals_without_a_value_do_not_enter_the_loss(crystals: list[Crystal], bonds: list[Bonds]) -> None:
    system, rng = new(), torch.Generator()
    system.fit_statistics(crystals, [1.0, 3.0, None])
    assert (float(system.target_mean), float(system.target_scale)) == (2.0, 1.0)
    some = packed(crystals[:3], bonds[:3], [1.0, None, 4.0])
    known = packed([crystals[0], crystals[2]], [bonds[0], bonds[2]], [1.0, 4.0])
    torch.testing.assert_close(system.loss(some, rng, 0).total, system.loss(known, rng, 0).total)
    nothing = packed(crystals[:2], bonds[:2], [None, math.nan])
    assert float(system.loss(nothing, rng, 0).total.detach()) == 0.0
    with pytest.raises(ValueError, match="none of the 2 training crystals has a value"):
        system.fit_statistics(crystals[:2], [None, math.nan])


def test_what_cannot_be_read_has_no_prediction_and_batches_change_none(
    crystals: list[Crystal], bonds: list[Bonds]
) -> None:
    system = new()
    odd = [crystals[0], failed_sample([11, 17]), rock_salt(5.6, 96), crystals[1]]
    found = system.predict(odd, [bonds[0], None, bonds[0], bonds[1]], batch_crystals=1)
    assert np.isnan(found).tolist() == [False, True, True, False]
    together = system.predict(crystals[:2], bonds[:2])
    np.testing.assert_allclose(found[[0, 3]], together, rtol=1e-5)
    assert "knows 1 to 94" in system.refused(odd[2])


def test_the_published_size_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in new("paper").parameters()) == pytest.approx(1.89e6, rel=0.005)


def test_it_is_saved_and_loaded_and_draws_no_crystals(
    crystals: list[Crystal], bonds: list[Bonds], tmp_path: Path
) -> None:
    system = new()
    system.fit_statistics(crystals, [-1.0, -3.0])
    checkpoints.save(tmp_path / "regressor", system.eval(), {"note": "untrained"}, dtype=torch.float32)
    checkpoint = checkpoints.load(str(tmp_path / "regressor"))
    loaded = checkpoint.regressor
    np.testing.assert_allclose(loaded.predict(crystals, bonds), system.predict(crystals, bonds), rtol=1e-6)
    for asked_for, what in (("generator", "draws no crystals"), ("modifier", "modifies no crystals")):
        with pytest.raises(checkpoints.CheckpointError, match=f"dimenet-regressor.*{what}"):
            getattr(checkpoint, asked_for)
