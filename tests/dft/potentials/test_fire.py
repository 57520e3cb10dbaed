"""The optimiser against ASE's FIRE on its Frechet cell filter, and its cell force against finite differences."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from dft.potentials import fire
from dft.potentials.fire import FireState, fire_step


def argon(lattice_ang: float, seed: int) -> Atoms:
    """Four atoms, shaken and sheared, with a Lennard-Jones calculator."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Ar", "fcc", a=lattice_ang, cubic=True)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
    atoms.calc = LennardJones(sigma=3.405, epsilon=0.0104 * 20, rc=5.8, ro=4.8, smooth=True)
    return atoms


def state_of(crystals: list[Atoms]) -> FireState:
    return FireState.at_rest(
        torch.tensor([len(c) for c in crystals]),
        torch.cat([torch.from_numpy(c.numbers) for c in crystals]),
        torch.from_numpy(np.stack([c.cell.array for c in crystals])),
        torch.from_numpy(np.concatenate([c.positions for c in crystals])),
    )


def forces_and_virial(state: FireState) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Forces, virials and energies of the crystals where they are."""
    cart, cells = state.geometry()
    forces, virials, energies, start = [], [], [], 0
    for n_atoms, cell in zip(state.n_atoms.tolist(), cells.numpy(), strict=True):
        atoms = argon(5.0, 0)
        atoms.set_cell(cell)
        atoms.set_positions(cart[start : start + n_atoms].numpy())
        start += n_atoms
        forces.append(atoms.get_forces())
        virials.append(-atoms.get_volume() * atoms.get_stress(voigt=False))
        energies.append(atoms.get_potential_energy())
    return torch.from_numpy(np.concatenate(forces)), torch.from_numpy(np.stack(virials)), torch.tensor(energies)


def test_steps_are_those_of_ase(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ASE's constants and cell factor (the number of atoms: 2 sqrt(4)) both take the same path."""
    constants = {"DT_START": 0.1, "N_MIN": 5, "F_DEC": 0.5, "ALPHA_START": 0.1, "CELL_LENGTH_ANG": 2.0}
    for name, value in constants.items():
        monkeypatch.setattr(fire, name, value)
    crystals = [argon(5.0, 1), argon(5.7, 2)]
    ours = state_of(crystals)
    for _ in range(15):
        forces, virial, _ = forces_and_virial(ours)
        ours = fire_step(ours, forces, virial)
    for crystal in crystals:
        FIRE(FrechetCellFilter(crystal), logfile=None).run(fmax=0.0, steps=15)
    cart, cell = ours.geometry()
    np.testing.assert_allclose(cell, np.stack([c.cell.array for c in crystals]), rtol=0, atol=1e-7)
    np.testing.assert_allclose(cart, np.concatenate([c.positions for c in crystals]), rtol=0, atol=1e-7)


def test_cell_force_is_the_gradient_in_the_logarithm_of_the_deformation() -> None:
    """Central differences of the energy in L, with the undeformed positions held."""
    rng = torch.Generator().manual_seed(0)
    state = state_of([argon(5.2, 3)])
    base = 0.1 * torch.randn(1, 3, 3, generator=rng, dtype=torch.float64)
    state.log_deform = base
    _, virial, _ = forces_and_virial(state)
    gradient = fire._log_gradient(base, torch.linalg.matrix_exp(base), virial)
    for i in range(3):
        for j in range(3):
            step = torch.zeros(1, 3, 3, dtype=torch.float64)
            step[0, i, j] = 1e-4
            state.log_deform = base + step
            up = forces_and_virial(state)[2]
            state.log_deform = base - step
            down = forces_and_virial(state)[2]
            torch.testing.assert_close(gradient[:, i, j], -(up - down).double() / 2e-4, rtol=1e-5, atol=1e-6)


def test_a_crystal_moves_the_same_whether_others_come_and_go() -> None:
    both = state_of([argon(5.0, 4), argon(5.6, 5)])
    alone = both.keep(torch.tensor([1]))
    for step in range(8):
        both = fire_step(both, *forces_and_virial(both)[:2])
        alone = fire_step(alone, *forces_and_virial(alone)[:2])
        if step == 4:
            both = both.keep(torch.tensor([1]))
    torch.testing.assert_close(both.geometry()[1], alone.geometry()[1], rtol=0, atol=1e-8)
    torch.testing.assert_close(both.geometry()[0], alone.geometry()[0], rtol=0, atol=1e-8)
