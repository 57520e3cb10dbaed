"""Relaxation of many crystals at once with a potential: cell and positions, a status for every crystal.

Crystals wait in the order given, enter the batch when there is room and leave it when they are done, so no step is
spent on a finished one. Everything is deterministic: the same list gives the same result, bit for bit, on one machine.
Units: angstrom, eV; pressures in GPa at the border.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from torch import Tensor
from torch_sim.state import SimState

from dft.config import RelaxConfig
from dft.potentials.crystal_batch import (
    BatchCrystal,
    admitted,
    in_plane_of,
    isolation_of,
    sim_state,
    take_from,
    vacuum_fault,
    with_vacuum_held,
)
from dft.potentials.fire import FireState, fire_step
from dft.potentials.interface import CrystalModel
from dft.potentials.loading import LoadedPotential
from dft.potentials.neighbours import NeighbourLists
from dft.potentials.release import HeldCrystal, in_the_group, judged, nudged
from dft.potentials.symmetry import Projection, in_its_group
from dft.results import GPA_PER_EV_ANG3, NoEnergy, Relaxation, RelaxStatus, SinglePoint
from storage.progress import Progress

logger = logging.getLogger(__name__)

GRACE_STEPS = 10
"""Generated crystals may start with atoms too close; their forces get this many steps to come down."""
EVALUATE_ATOMS_MAX = 512


@dataclass(frozen=True)
class _Forces:
    """What the model says of the batch, and the measures of convergence."""

    energy_ev: Tensor
    forces: Tensor
    stress: Tensor
    virial: Tensor
    fmax: Tensor
    cell_fmax: Tensor
    volume: Tensor
    n_neighbours: Tensor
    n_isolated: Tensor


def relax(
    structures: Sequence[Structure],
    potential: LoadedPotential,
    config: RelaxConfig,
    progress: Progress | None = None,
) -> list[Relaxation]:
    """Relax crystals; one bad crystal never costs its neighbours.

    Converged means: the largest force on an atom and the largest row of the cell force
    -V (stress + pressure) / n_atoms (ASE's cell force) are both below `config.fmax_ev_per_ang`, and every atom has a
    neighbour within the potential's cut-off. A crystal in which one has none at the end is isolated
    (dft.potentials.isolation); on the way there it may have some, as when pressure or the other atoms bring it
    together.

    With `config.symmetry` "kept" each crystal relaxes in its space group first and is then released
    (dft.potentials.release); one without symmetry, or of which spglib makes nothing, relaxes freely at once.

    With `config.vacuum` "held" a cell with vacuum (storage.vacuum) is strained within its plane alone, and its height
    across the plane stays as it is. One whose layers move apart until no vacuum is left has exploded.

    Args:
        structures: ordered crystals, any size; one with more atoms than `config.batch_atoms_max` runs alone.
        potential: from load_potential.
        config: criteria and guards.
        progress: called each time crystals finish.

    Returns:
        One record per crystal, in the order given.
    """
    return _Relaxer(structures, potential.model, config, progress).run()


def evaluate(structures: Sequence[Structure], potential: LoadedPotential) -> list[float | None]:
    """Potential energy of each crystal as it is, eV/atom; None, with the reason logged, where it has none."""
    return [None if point is None else point.energy_ev_per_atom for point in single_points(structures, potential)]


def single_points(structures: Sequence[Structure], potential: LoadedPotential) -> list[SinglePoint | None]:
    """Energy, forces and stress of each crystal as it is; None, with the reason logged, where it has none."""
    points: list[SinglePoint | None] = []
    for index, point in enumerate(points_or_reasons(structures, potential)):
        if isinstance(point, NoEnergy):
            logger.warning("crystal %d has no energy: %s", index, point.reason)
        points.append(None if isinstance(point, NoEnergy) else point)
    return points


def points_or_reasons(structures: Sequence[Structure], potential: LoadedPotential) -> list[SinglePoint | NoEnergy]:
    """Energy, forces and stress of each crystal as it is, or why it has none; one with an isolated atom has none."""
    points: dict[int, SinglePoint | NoEnergy] = {}
    waiting: list[BatchCrystal] = []
    for index, structure in enumerate(structures):
        crystal = admitted(index, structure, potential.model)
        if isinstance(crystal, str):
            points[index] = NoEnergy(crystal)
        else:
            waiting.append(crystal)
    # crystals of like size share a batch, so that memory is used evenly; ties keep their order
    waiting.sort(key=lambda crystal: len(crystal.numbers))
    while waiting:
        batch = take_from(waiting, EVALUATE_ATOMS_MAX, 0)
        for crystal, point in _points(batch, potential.model):
            points[crystal.index] = point
    return [points[index] for index in range(len(structures))]


def _points(batch: list[BatchCrystal], model: CrystalModel) -> list[tuple[BatchCrystal, SinglePoint | NoEnergy]]:
    """Single points of a batch; on an exception each half is tried alone."""
    try:
        output = model(sim_state(batch, [c.cart_ang for c in batch], [c.cell_ang for c in batch]))
    except (RuntimeError, ValueError, IndexError) as error:
        if len(batch) == 1:
            return [(batch[0], NoEnergy(str(error)))]
        middle = len(batch) // 2
        return _points(batch[:middle], model) + _points(batch[middle:], model)
    found: list[tuple[BatchCrystal, SinglePoint | NoEnergy]] = []
    sizes = [len(c.numbers) for c in batch]
    per_atom = zip(output["forces"].cpu().split(sizes), output["n_neighbours"].split(sizes), strict=True)
    rows = zip(batch, output["energy"].tolist(), per_atom, output["stress"].cpu(), strict=True)
    for crystal, energy, (force, neighbours), stress in rows:
        point: SinglePoint | NoEnergy
        if not math.isfinite(energy):
            point = NoEnergy(f"the potential gives {energy}")
        elif reason := isolation_of(crystal, crystal.cart_ang, crystal.cell_ang, neighbours, model):
            point = NoEnergy(reason, is_isolated=True)
        else:
            point = SinglePoint(energy / len(crystal.numbers), force.numpy(), stress.numpy() * GPA_PER_EV_ANG3)
        found.append((crystal, point))
    return found


class _Relaxer:
    """The batch, its queue and its results."""

    def __init__(
        self, structures: Sequence[Structure], model: CrystalModel, config: RelaxConfig, progress: Progress | None
    ) -> None:
        self.structures, self.model, self.config, self.progress = structures, model, config, progress
        self.pressure = config.pressure_gpa / GPA_PER_EV_ANG3
        self.results: list[Relaxation | None] = [None] * len(structures)
        self.waiting: list[BatchCrystal] = []
        for index, structure in enumerate(structures):
            crystal = self._admitted(index, structure)
            if isinstance(crystal, str):
                self.results[index] = Relaxation(RelaxStatus.FAILED, None, None, None, None, None, 0, crystal)
            else:
                self.waiting.append(crystal)
        self.batch: list[BatchCrystal] = []
        self.projection: Projection | None = None
        self.in_plane: Tensor | None = None
        self.state: FireState | None = None
        self.neighbours: NeighbourLists = model.neighbour_lists()

    def _entering(self, index: int, structure: Structure) -> BatchCrystal | str:
        """The crystal as tensors, its vacuum held if that is asked for; or the reason why there is none."""
        crystal = admitted(index, structure, self.model)
        if self.config.vacuum == "free" or isinstance(crystal, str):
            return crystal
        return with_vacuum_held(crystal)

    def _admitted(self, index: int, structure: Structure) -> BatchCrystal | str:
        """The crystal as it enters: as it is, or on the sites of its group, if that is to be kept."""
        crystal = self._entering(index, structure)
        if self.config.symmetry == "free" or isinstance(crystal, str):
            return crystal
        found = in_its_group(structure, self.config.symprec_ang, self.model.device)
        if found is None:
            return crystal
        group, symmetric = found
        crystal = self._entering(index, symmetric)
        return crystal if isinstance(crystal, str) else replace(crystal, group=group)

    def run(self) -> list[Relaxation]:
        self._report()
        while self.waiting or self.batch:
            self._fill()
            forces = self._forces()
            if forces is None or self.state is None:
                continue
            done = self._finish(forces)
            if done:
                self._report()
            staying = [i for i in range(len(self.batch)) if i not in done]
            if not staying:
                self._keep(staying)
                continue
            # crystals that leave take the step too: cheaper than cutting the forces, and nobody sees it
            self.state = fire_step(self.state, forces.forces, forces.virial)
            for crystal in self.batch:
                crystal.n_steps += 1
            if done:
                self._keep(staying)
        return [result for result in self.results if result is not None]

    def _fill(self) -> None:
        n_atoms = sum(len(c.numbers) for c in self.batch)
        taken = take_from(self.waiting, self.config.batch_atoms_max, n_atoms)
        if not taken:
            return
        entering = FireState.at_rest(
            torch.tensor([len(c.numbers) for c in taken], device=self.model.device),
            torch.cat([c.numbers for c in taken]),
            torch.stack([c.cell_ang for c in taken]),
            torch.cat([c.cart_ang for c in taken]),
        )
        self.state = entering if self.state is None else self.state.joined(entering)
        self.batch += taken
        self.neighbours.extend(len(taken))
        self._project()

    def _keep(self, crystals: list[int]) -> None:
        self.batch = [self.batch[i] for i in crystals]
        self.neighbours.keep(crystals)
        self._project()
        if not crystals or self.state is None:
            self.state = None
        else:
            self.state = self.state.keep(torch.tensor(crystals, device=self.model.device))

    def _project(self) -> None:
        groups = [crystal.group for crystal in self.batch]
        self.projection = Projection(groups, [len(c.numbers) for c in self.batch]) if any(groups) else None
        self.in_plane = in_plane_of(self.batch)

    def _forces(self) -> _Forces | None:
        """The model on the batch; None if crystals had to be thrown out, which leaves the others for another try."""
        assert self.state is not None
        cart, cell = self.state.geometry()
        state = SimState(
            positions=cart,
            masses=torch.ones_like(cart[:, 0]),
            cell=cell.transpose(1, 2),
            pbc=True,
            atomic_numbers=self.state.atomic_numbers,
            system_idx=self.state.crystal,
        )
        try:
            output = self.model(state, neighbours=self.neighbours)
        except (RuntimeError, ValueError, IndexError) as error:
            self._throw_out(cart, cell, error)
            return None
        return self._measured(cell, output)

    def _measured(self, cell: Tensor, output: dict[str, Tensor]) -> _Forces:
        assert self.state is not None
        forces, stress = output["forces"], output["stress"]
        if self.projection is not None:
            forces, stress = self.projection.forces(forces), self.projection.stress(stress)
        volume = torch.linalg.det(cell).abs()
        pressure = self.pressure * torch.eye(3, dtype=cell.dtype, device=cell.device)
        if self.in_plane is not None:
            stress = self.in_plane @ stress @ self.in_plane
            pressure = self.pressure * self.in_plane
        virial = -volume.view(-1, 1, 1) * (stress + pressure)
        per_atom = forces.square().sum(dim=1).sqrt()
        # scatter_reduce's maximum passes NaN on, which the guards below look for
        fmax = torch.zeros_like(volume).scatter_reduce(0, self.state.crystal, per_atom, "amax")
        cell_rows = (virial / self.state.n_atoms.view(-1, 1, 1)).square().sum(dim=2).sqrt()
        neighbours = output["n_neighbours"]
        alone = torch.zeros_like(self.state.n_atoms).index_add(0, self.state.crystal, (neighbours == 0).long())
        return _Forces(
            output["energy"],
            forces,
            stress,
            virial,
            fmax,
            cell_rows.amax(dim=1),
            volume,
            neighbours,
            alone,
        )

    def _throw_out(self, cart: Tensor, cell: Tensor, error: Exception) -> None:
        """Find the crystals that make the model fail by asking for each alone, and fail them."""
        carts = torch.split(cart, [len(c.numbers) for c in self.batch])
        staying: list[int] = []
        for i, crystal in enumerate(self.batch):
            if len(self.batch) > 1:
                try:
                    self.model(sim_state([crystal], [carts[i]], [cell[i]]))
                    staying.append(i)
                    continue
                except (RuntimeError, ValueError, IndexError) as own:
                    error = own
            status = RelaxStatus.EXPLODED if crystal.n_steps else RelaxStatus.FAILED
            self._record(crystal, status, None, f"the potential failed after {crystal.n_steps} steps: {error}")
        if len(staying) == len(self.batch):
            # each runs alone but not together: run the first half now, the rest later from where it started
            half = max(1, len(staying) // 2)
            self.waiting[:0] = [_restarted(c) for c in self.batch[half:]]
            staying = staying[:half]
            logger.warning("a batch of %d crystals failed as a whole (%s): halved", len(self.batch), error)
        self._keep(staying)
        self._report()

    def _finish(self, forces: _Forces) -> set[int]:
        """Record every crystal that has come to an end; return their places in the batch."""
        config = self.config
        energy, fmax = forces.energy_ev.tolist(), forces.fmax.tolist()
        cell_fmax, volume = forces.cell_fmax.tolist(), forces.volume.tolist()
        n_isolated = forces.n_isolated.tolist()
        done: set[int] = set()
        for i, crystal in enumerate(self.batch):
            per_atom = energy[i] / len(crystal.numbers)
            if crystal.n_steps == 0 and math.isfinite(per_atom) and not n_isolated[i]:
                crystal.initial_energy_ev_per_atom = per_atom
            growth = volume[i] / crystal.volume_ang3
            at = f"after {crystal.n_steps} steps"
            if not (math.isfinite(per_atom) and math.isfinite(fmax[i]) and math.isfinite(cell_fmax[i])):
                status = RelaxStatus.EXPLODED if crystal.n_steps else RelaxStatus.FAILED
                self._record(
                    crystal, status, None, f"energy or forces are not numbers {at}: atoms coincide or flew apart"
                )
            elif not 1.0 / config.explode_volume_ratio <= growth <= config.explode_volume_ratio:
                self._record(
                    crystal, RelaxStatus.EXPLODED, None, f"its volume changed by a factor of {growth:.3g} {at}"
                )
            elif fmax[i] > config.explode_force_ev_per_ang and crystal.n_steps >= min(GRACE_STEPS, config.max_steps):
                self._record(crystal, RelaxStatus.EXPLODED, None, f"the largest force is {fmax[i]:.3g} eV/A {at}")
            elif n_isolated[i] and self._is_at_its_end(crystal, fmax[i], cell_fmax[i]):
                self._record(crystal, RelaxStatus.ISOLATED, None, f"{at}, {self._isolation(i, crystal, forces)}")
            elif self._is_at_its_end(crystal, fmax[i], cell_fmax[i]) and (fault := self._vacuum_fault(i, crystal)):
                self._record(crystal, RelaxStatus.EXPLODED, None, f"{at} {fault}")
            elif max(fmax[i], cell_fmax[i]) < self._limit(crystal):
                self._record(crystal, RelaxStatus.CONVERGED, (i, forces), "")
            elif crystal.n_steps >= config.max_steps:
                self._record(
                    crystal,
                    RelaxStatus.STEP_CAP,
                    (i, forces),
                    f"{at} the largest force is {fmax[i]:.3f} and the largest cell force {cell_fmax[i]:.3f} eV/A",
                )
            else:
                continue
            done.add(i)
        return done

    def _is_at_its_end(self, crystal: BatchCrystal, fmax: float, cell_fmax: float) -> bool:
        return max(fmax, cell_fmax) < self._limit(crystal) or crystal.n_steps >= self.config.max_steps

    def _limit(self, crystal: BatchCrystal) -> float:
        """The force below which the crystal is at rest, eV/A."""
        config, at_cap = self.config, crystal.n_steps >= self.config.max_steps
        if at_cap or (crystal.group is None and crystal.held is None):
            return config.fmax_ev_per_ang
        return min(config.fmax_ev_per_ang, config.symmetric_fmax_ev_per_ang)

    def _isolation(self, place: int, crystal: BatchCrystal, forces: _Forces) -> str:
        own, cart, cell = self._geometry(place, crystal)
        return isolation_of(crystal, cart, cell, forces.n_neighbours[own], self.model)

    def _vacuum_fault(self, place: int, crystal: BatchCrystal) -> str:
        _, cart, cell = self._geometry(place, crystal)
        return vacuum_fault(crystal, cart, cell)

    def _geometry(self, place: int, crystal: BatchCrystal) -> tuple[slice, Tensor, Tensor]:
        """Its atoms' places in the batch, their positions (n, 3), and its lattice rows."""
        assert self.state is not None
        cart, cell = self.state.geometry()
        start = int(self.state.n_atoms[:place].sum())
        own = slice(start, start + len(crystal.numbers))
        return own, cart[own], cell[place]

    def _record(
        self, crystal: BatchCrystal, status: RelaxStatus, final: tuple[int, _Forces] | None, reason: str
    ) -> None:
        structure, energy, fmax, stress = None, None, None, None
        if final is not None:
            i, forces = final
            structure = self._structure(i, crystal)
            energy = float(forces.energy_ev[i]) / len(crystal.numbers)
            fmax = float(forces.fmax[i])
            pressure = self.pressure * torch.eye(3, dtype=torch.float64, device=forces.stress.device)
            if self.in_plane is not None:
                pressure = self.pressure * self.in_plane[i]
            stress = float((forces.stress[i] + pressure).abs().max()) * GPA_PER_EV_ANG3
        self._settle(
            crystal,
            Relaxation(
                status, structure, energy, crystal.initial_energy_ev_per_atom, fmax, stress, crystal.n_steps, reason
            ),
        )

    def _settle(self, crystal: BatchCrystal, end: Relaxation) -> None:
        """Keep a result, or send a crystal that has converged in its group on its way out of it."""
        if crystal.held is not None:
            end = judged(crystal.held, end, self.config)
        elif crystal.group is not None and end.structure is not None and end.status is RelaxStatus.CONVERGED:
            start = self._entering(crystal.index, nudged(end.structure, self.config.release_displacement_ang))
            assert not isinstance(start, str)
            self.waiting.append(replace(start, held=HeldCrystal(crystal.group, end)))
            return
        elif crystal.group is not None:
            end = in_the_group(crystal.group, end)
        self.results[crystal.index] = end

    def _structure(self, place: int, crystal: BatchCrystal) -> Structure:
        _, cart, cell = self._geometry(place, crystal)
        species = [site.specie.symbol for site in self.structures[crystal.index]]
        rows, lattice = cart.cpu().numpy(), Lattice(cell.cpu().numpy())
        return Structure(lattice, species, rows, coords_are_cartesian=True, to_unit_cell=True)

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(sum(result is not None for result in self.results), len(self.results))


def _restarted(crystal: BatchCrystal) -> BatchCrystal:
    return replace(crystal, n_steps=0, initial_energy_ev_per_atom=None)
