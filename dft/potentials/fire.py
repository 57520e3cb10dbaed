"""FIRE for cells and positions of many crystals at once, each with its own time step.

The algorithm of torch_sim.frechet_cell_fire (ASE's FIRE on ASE's FrechetCellFilter): the cell is
`cell0 @ expm(L)^T` with L free, positions are followed in the undeformed frame, and both move together.
What differs, and why:
- the derivative of the matrix exponential is one batched 6x6 exponential instead of nine per crystal in a loop, which
  took longer than the network;
- the cell coordinate is `L * sqrt(n_atoms) * CELL_LENGTH_ANG` instead of `L * n_atoms`: its stiffness is then that of
  the bonds whatever the number of atoms, and the cell no longer lags behind the atoms;
- crystals may enter and leave between steps.

Source: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), in ASE's form (positions move with the new velocity).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

CELL_LENGTH_ANG = 1.5
"""Strain times this times sqrt(n_atoms) is the cell's coordinate, angstrom."""
DT_START, DT_MAX = 0.2, 1.0
MAX_STEP_ANG = 0.2
N_MIN, F_INC, F_DEC, ALPHA_START, F_ALPHA = 2, 1.1, 0.7, 0.35, 0.99


@dataclass
class FireState:
    """Coordinates and velocities of B crystals, N atoms end to end. float64, rows.

    Attributes:
        n_atoms: per crystal, (B,), int64.
        atomic_numbers: (N,).
        cell0_ang: reference lattice rows, (B, 3, 3).
        flat_ang: positions in the undeformed frame, (N, 3).
        log_deform: L, (B, 3, 3).
        velocity: of flat_ang, (N, 3).
        cell_velocity: of L * cell length, (B, 3, 3).
        dt, alpha: (B,).
        n_positive: steps since the power was last negative, (B,).
    """

    n_atoms: Tensor
    atomic_numbers: Tensor
    cell0_ang: Tensor
    flat_ang: Tensor
    log_deform: Tensor
    velocity: Tensor
    cell_velocity: Tensor
    dt: Tensor
    alpha: Tensor
    n_positive: Tensor

    @classmethod
    def at_rest(cls, n_atoms: Tensor, atomic_numbers: Tensor, cell_ang: Tensor, cart_ang: Tensor) -> FireState:
        """Crystals that have not moved yet."""
        n_crystals, like = len(n_atoms), cell_ang
        return cls(
            n_atoms,
            atomic_numbers,
            cell_ang,
            cart_ang,
            torch.zeros_like(like),
            torch.zeros_like(cart_ang),
            torch.zeros_like(like),
            like.new_full((n_crystals,), DT_START),
            like.new_full((n_crystals,), ALPHA_START),
            torch.zeros_like(n_atoms),
        )

    @property
    def crystal(self) -> Tensor:
        """Each atom's crystal, (N,)."""
        return torch.repeat_interleave(torch.arange(len(self.n_atoms), device=self.n_atoms.device), self.n_atoms)

    def geometry(self) -> tuple[Tensor, Tensor]:
        """Positions (N, 3) and lattice rows (B, 3, 3), angstrom."""
        deform_t = torch.linalg.matrix_exp(self.log_deform).transpose(1, 2)
        cart = torch.bmm(self.flat_ang.unsqueeze(1), deform_t.index_select(0, self.crystal)).squeeze(1)
        return cart, self.cell0_ang @ deform_t

    def keep(self, crystals: Tensor) -> FireState:
        """Only these crystals, in this order of ascending index; this state stays as it was."""
        chosen = torch.zeros(len(self.n_atoms), dtype=torch.bool, device=self.n_atoms.device)
        chosen[crystals] = True
        atoms = chosen.index_select(0, self.crystal)
        rows = {"atomic_numbers": atoms, "flat_ang": atoms, "velocity": atoms}
        return FireState(*(getattr(self, f.name)[rows.get(f.name, chosen)] for f in fields(self)))

    def joined(self, other: FireState) -> FireState:
        """The crystals of both, these first."""
        return FireState(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


def fire_step(state: FireState, forces: Tensor, virial: Tensor) -> FireState:
    """One step.

    Args:
        state: where the crystals are.
        forces: on the atoms there, (N, 3), eV/A.
        virial: minus volume times (stress plus external pressure), (B, 3, 3), eV.
    """
    crystal, n_crystals = state.crystal, len(state.n_atoms)
    deform = torch.linalg.matrix_exp(state.log_deform)
    length = (CELL_LENGTH_ANG * state.n_atoms.sqrt()).view(-1, 1, 1)
    force = torch.bmm(forces.unsqueeze(1), deform.index_select(0, crystal)).squeeze(1)
    cell_force = _log_gradient(state.log_deform, deform, virial) / length

    def dot(a: Tensor, b: Tensor, cell_a: Tensor, cell_b: Tensor) -> Tensor:
        atoms = torch.zeros(n_crystals, dtype=a.dtype, device=a.device).index_add(0, crystal, (a * b).sum(dim=1))
        return atoms + (cell_a * cell_b).sum(dim=(1, 2))

    velocity, cell_velocity = state.velocity, state.cell_velocity
    power = dot(force, velocity, cell_force, cell_velocity)
    at_rest = dot(velocity, velocity, cell_velocity, cell_velocity) == 0.0
    uphill = (power <= 0.0) & ~at_rest
    downhill = power > 0.0
    faster = downhill & (state.n_positive > N_MIN)
    dt = torch.where(faster, (state.dt * F_INC).clamp(max=DT_MAX), torch.where(uphill, state.dt * F_DEC, state.dt))
    speed = dot(velocity, velocity, cell_velocity, cell_velocity).sqrt()
    strength = dot(force, force, cell_force, cell_force).sqrt().clamp(min=1e-300)
    keep = torch.where(downhill, 1.0 - state.alpha, 0.0)
    steer = torch.where(downhill, state.alpha * speed / strength, 0.0)
    push = steer + dt
    alpha = torch.where(faster, state.alpha * F_ALPHA, torch.where(uphill, ALPHA_START, state.alpha))
    n_positive = torch.where(downhill, state.n_positive + 1, 0)

    velocity = keep[crystal, None] * velocity + push[crystal, None] * force
    cell_velocity = keep.view(-1, 1, 1) * cell_velocity + push.view(-1, 1, 1) * cell_force
    reach = dt * dot(velocity, velocity, cell_velocity, cell_velocity).sqrt()
    stride = dt * (MAX_STEP_ANG / reach.clamp(min=MAX_STEP_ANG))
    return FireState(
        state.n_atoms,
        state.atomic_numbers,
        state.cell0_ang,
        state.flat_ang + stride[crystal, None] * velocity,
        state.log_deform + stride.view(-1, 1, 1) * cell_velocity / length,
        velocity,
        cell_velocity,
        dt,
        alpha,
        n_positive,
    )


def _log_gradient(log_deform: Tensor, deform: Tensor, virial: Tensor) -> Tensor:
    """Generalised force on L: the adjoint of the exponential's derivative, applied to the force on F = expm(L).

    The upper right block of expm([[A, G], [0, A]]) is the derivative of expm at A along G (Higham, Functions of
    Matrices, 2008, eq. 3.16); with A = L^T it is the adjoint of the derivative at L.
    """
    force_on_deform = virial @ torch.linalg.inv(deform).transpose(1, 2)
    a = log_deform.transpose(1, 2)
    block = torch.cat([torch.cat([a, force_on_deform], dim=2), torch.cat([torch.zeros_like(a), a], dim=2)], dim=1)
    exponential: Tensor = torch.linalg.matrix_exp(block)
    return exponential[:, :3, 3:]
