"""The pair transformer's symmetries, and its geometry against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.networks.pair_transformer import PairGeometry, Velocity, half_space_waves
from generative.systems.crystal_flow import CrystalFlow


def velocity(system: CrystalFlow, batch: CrystalBatch, shift: torch.Tensor | None = None) -> Velocity:
    """The network's answer at t = 0.3 for a batch, coordinates shifted by `shift` (B, 3)."""
    system = system.double()
    frac, numbers, mask = batch.dense()
    frac = frac.double() if shift is None else frac.double() + shift[:, None]
    b = len(batch)
    t = torch.full((b,), 0.3, dtype=torch.float64)
    lattice = torch.linspace(-1, 1, 6 * b, dtype=torch.float64).view(b, 6)
    none = torch.full((b,), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        return system.network(t, frac, lattice, batch.lattice_ang.double(), numbers, mask, batch.spacegroup, none)


def test_velocity_does_not_change_when_a_crystal_is_translated(system: CrystalFlow, crystals: list[Crystal]) -> None:
    batch = CrystalBatch.pack(crystals)
    shift = torch.linspace(-3.0, 2.0, 3 * len(batch), dtype=torch.float64).view(-1, 3)
    still, moved = velocity(system, batch), velocity(system, batch, shift)
    # the network ends in float32 heads, hence 1e-5 and not 1e-12
    torch.testing.assert_close(moved.frac, still.frac, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.lattice, still.lattice, atol=1e-5, rtol=0)
    assert still.frac.abs().max() > 1e-3


def test_velocity_is_permuted_with_the_atoms(
    system: CrystalFlow, crystals: list[Crystal], numpy_rng: np.random.Generator
) -> None:
    crystal = crystals[4]
    # off its special positions: there the velocities of like atoms are equal, and a wrong permutation would pass
    frac = np.mod(crystal.frac + 0.07 * numpy_rng.standard_normal(crystal.frac.shape), 1.0)
    order = numpy_rng.permutation(len(frac))
    plain = velocity(system, CrystalBatch.pack([Crystal(crystal.lattice_ang, frac, crystal.atomic_numbers)]))
    mixed = velocity(
        system, CrystalBatch.pack([Crystal(crystal.lattice_ang, frac[order], crystal.atomic_numbers[order])])
    )
    torch.testing.assert_close(mixed.frac[0], plain.frac[0][order], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.lattice, plain.lattice, atol=1e-5, rtol=0)
    assert (plain.frac[0] - plain.frac[0][order]).abs().max() > 1e-4


def test_padding_changes_nothing(system: CrystalFlow, crystals: list[Crystal]) -> None:
    small = crystals[0]
    alone = CrystalBatch.pack([small])
    beside = CrystalBatch.pack([small, crystals[4]])
    frac, numbers, mask = beside.dense()
    assert mask[0].sum() < mask.shape[1]
    system = system.double()
    t = torch.tensor([0.3], dtype=torch.float64)
    lattice = torch.linspace(-1, 1, 6, dtype=torch.float64)[None]
    none = torch.tensor([torch.nan], dtype=torch.float64)
    with torch.no_grad():
        padded = system.network(
            t,
            frac[:1].double(),
            lattice,
            beside.lattice_ang[:1].double(),
            numbers[:1],
            mask[:1],
            alone.spacegroup,
            none,
        )
        frac, numbers, mask = alone.dense()
        plain = system.network(
            t, frac.double(), lattice, alone.lattice_ang.double(), numbers, mask, alone.spacegroup, none
        )
    n = int(alone.n_atoms[0])
    torch.testing.assert_close(padded.frac[0, :n], plain.frac[0], atol=1e-6, rtol=0)
    assert padded.frac[0, n:].abs().max() == 0


def test_velocity_has_no_mean_drift(system: CrystalFlow, crystals: list[Crystal]) -> None:
    batch = CrystalBatch.pack(crystals)
    assert velocity(system, batch).frac.sum(1).abs().max() < 1e-5


def test_wave_vectors_hold_one_of_each_pair() -> None:
    waves = [tuple(int(x) for x in row) for row in half_space_waves()]
    assert len(set(waves)) == len(waves) == 16
    assert all(tuple(-x for x in n) not in waves for n in waves)
    cube = {n for n in itertools.product((-1, 0, 1), repeat=3) if any(n)}
    assert all(n in waves or tuple(-x for x in n) in waves for n in cube)


@pytest.mark.parametrize("index", [0, 3, 4])
def test_radial_shells_count_the_nearest_images_as_brute_force_does(crystals: list[Crystal], index: int) -> None:
    crystal = crystals[index]
    geometry = PairGeometry(n_radial=12).double()
    frac, lattice = torch.as_tensor(crystal.frac), torch.as_tensor(crystal.lattice_ang)
    shells = geometry(frac[None], lattice[None])[0, ..., 2 * len(geometry.waves) :]
    images = list(itertools.product((-1, 0, 1), repeat=3))
    for i, j in itertools.product(range(len(frac)), repeat=2):
        difference = crystal.frac[j] - crystal.frac[i]
        difference = difference - np.round(difference)
        distances = sorted(float(np.linalg.norm((difference + n) @ crystal.lattice_ang)) for n in images)
        near = [d for d in distances if 1e-3 < d < 8.0][:8]
        weight = [0.5 * (math.cos(math.pi * d / 8.0) + 1) for d in near]
        centres = np.linspace(0.8, 8.0, 12)
        expected = [
            sum(w * math.exp(-(((d - c) * 12 / 7.2) ** 2)) for d, w in zip(near, weight, strict=True)) for c in centres
        ]
        np.testing.assert_allclose(shells[i, j].numpy(), expected, atol=1e-6)  # centres are kept in float32
