"""From latent vectors to crystals: the cell and what it holds are read once, then the atoms are placed by denoising."""

from __future__ import annotations

import logging
import math
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from generative.crystal.batch import CrystalBatch
from generative.crystal.cell_parameters import cell_parameters
from generative.crystal.crystals import Crystal
from generative.processes import annealed_langevin, coordinate_ddpm
from generative.processes.annealed_langevin import Point
from generative.processes.coordinate_ddpm import Schedule
from generative.processes.type_noise import corrupted, initial_types, shared_out
from generative.systems.baselines.stored import failed_sample
from generative.systems.cdvae.config import CDVAESampler, LatentSampler
from generative.systems.cdvae.networks import DenoiserNetwork
from generative.systems.interface import Progress, of_steps

logger = logging.getLogger(__name__)

WIDEST_ANG, FINEST_ANG = 10.0, 0.01
"""Noise on Cartesian coordinates at the first and the last level."""

WIDEST_TYPE, FINEST_TYPE = 5.0, 0.01
"""Noise on types, likewise."""

N_TIMES = 1000

VOLUME_PER_ATOM_MIN_ANG3 = 0.1
"""A decoded cell with less room than this cannot hold atoms: its sample is given up before it is denoised."""


class Cells(NamedTuple):
    """The cells in which atoms are denoised.

    Attributes:
        lattice_ang: rows in pymatgen's orientation, (B, 3, 3).
        n_atoms: (B,).
        crystal: index of each atom's crystal, (A,).
    """

    lattice_ang: Tensor
    n_atoms: Tensor
    crystal: Tensor

    @classmethod
    def of(cls, lattice_ang: Tensor, n_atoms: Tensor, n_atoms_total: int) -> Cells:
        """Cells with these atoms; the total is asked for because reading it from a tensor would stall a GPU."""
        rows = torch.arange(len(n_atoms), device=n_atoms.device)
        return cls(lattice_ang, n_atoms, rows.repeat_interleave(n_atoms, output_size=n_atoms_total))

    def mean(self, per_atom: Tensor) -> Tensor:
        """Mean over atoms of each crystal, then over crystals: (A,) -> scalar."""
        summed = per_atom.new_zeros(len(self.n_atoms)).index_add(0, self.crystal, per_atom)
        return (summed / self.n_atoms).mean()

    def centred(self, frac: Tensor) -> Tensor:
        """Coordinates minus their plain mean in each crystal, (A, 3)."""
        summed = frac.new_zeros(len(self.n_atoms), 3).index_add(0, self.crystal, frac)
        return frac - (summed / self.n_atoms.unsqueeze(-1))[self.crystal]


def lattice_numbers(lattice_ang: Tensor, n_atoms: Tensor) -> Tensor:
    """Lengths / N^(1/3) in angstrom and angles in degrees, (B, 6)."""
    lengths, angles = cell_parameters(lattice_ang)
    return torch.cat([lengths / n_atoms.to(lengths).pow(1 / 3).unsqueeze(-1), angles], dim=-1)


class Decoder(Protocol):
    """What decoding takes of a system; see LatentModel.

    Attributes:
        process: langevin: score matching on Cartesian coordinates; ddpm: diffusion of fractional ones.
        recentre: whether coordinates are taken relative to their mean.
    """

    name: ClassVar[str]
    process: Literal["langevin", "ddpm"]
    recentre: bool
    to_composition: nn.Sequential
    to_lattice: nn.Sequential
    schedule: Schedule
    levels_ang: Tensor
    type_times: Tensor
    denoiser: DenoiserNetwork

    def lattice(self, numbers: Tensor, n_atoms: Tensor) -> Tensor:
        """Rows of the cells that decoded numbers stand for, (B, 3, 3), angstrom."""


def decode(
    system: Decoder,
    z: Tensor,
    n_atoms: Tensor,
    fixed: Tensor | None,
    rng: torch.Generator,
    how: LatentSampler,
    progress: Progress | None = None,
) -> list[Crystal]:
    """One crystal per latent vector.

    Args:
        system: whose heads and denoiser decode.
        z: (B, L).
        n_atoms: (B,).
        fixed: atomic numbers that atoms keep, 0 where free, (A,); None frees all.
        rng: draws types, coordinates and noise.
        how: settings of decoding.
        progress: told of the share of network calls done.
    """
    composition = system.to_composition(z).softmax(-1)
    lattice_ang = system.lattice(system.to_lattice(z), n_atoms)
    volume = torch.linalg.det(lattice_ang.double())
    # A negative length or an angle beyond 180 degrees shows on the diagonal; two leave the volume positive.
    sound = lattice_ang.isfinite().all(-1).all(-1) & (lattice_ang.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    sound &= volume > VOLUME_PER_ATOM_MIN_ANG3 * n_atoms
    # A cell that is none is exchanged for a cube, so that the others of the batch can be finished.
    cube = torch.eye(3).to(z) * 5.0
    cells = Cells.of(torch.where(sound[:, None, None], lattice_ang, cube), n_atoms, int(n_atoms.sum()))
    types = initial_types(composition, n_atoms, rng)
    if fixed is not None:
        types = torch.where(fixed > 0, fixed, types)
    end = _denoised(system, z, cells, composition, types, fixed, rng, how, progress)
    drawn = CrystalBatch(
        frac=end.frac,
        atomic_numbers=end.types,
        lattice_ang=cells.lattice_ang,
        n_atoms=n_atoms,
        spacegroup=torch.zeros_like(n_atoms),
        energy_ev_per_atom=torch.full_like(volume, torch.nan),
    ).unpack()
    lost = [i for i, whole in enumerate(sound.tolist()) if not whole]
    for i in lost:
        drawn[i] = failed_sample(drawn[i].atomic_numbers.tolist())
    if lost:
        logger.warning("%s: %d of %d decoded cells hold no atoms", system.name, len(lost), len(drawn))
    return drawn


def _denoised(
    system: Decoder,
    z: Tensor,
    cells: Cells,
    composition: Tensor,
    types: Tensor,
    fixed: Tensor | None,
    rng: torch.Generator,
    how: LatentSampler,
    progress: Progress | None,
) -> Point:
    """Atoms placed in their cells, types as last named."""
    crystal, pool = cells.crystal, types
    search = system.denoiser.neighbours(cells.lattice_ang, cells.n_atoms)

    def called(frac: Tensor, types: Tensor, time: Tensor | None) -> tuple[Tensor, Tensor]:
        vector, logits = system.denoiser(z, frac, types, crystal, search, time)
        named = shared_out(logits, pool, cells.n_atoms) if how.keep_composition else logits.argmax(-1) + 1
        return vector, named if fixed is None else torch.where(fixed > 0, fixed, named)

    def noisy(types: Tensor, sigma: float) -> Tensor:
        """Types as the network saw them in training beside coordinates of a level: some exchanged by chance."""
        level = composition.new_full((len(crystal),), how.type_noise * sigma)
        drawn = corrupted(types, composition[crystal], level, rng)
        return drawn if fixed is None else torch.where(fixed > 0, fixed, drawn)

    shape = (len(crystal), 3)
    if system.process == "langevin":
        levels = system.levels_ang.flip(0)[:: how.level_stride].flip(0)  # the finest always takes part
        levels_taken = annealed_langevin.levels_down_to(levels, how.stop_below_ang)
        frac = torch.rand(shape, generator=rng, device=rng.device).to(z)
        return annealed_langevin.langevin(
            lambda frac, types: called(frac, types, None),
            Point(frac, types),
            cells.lattice_ang,
            crystal,
            levels.to(z),
            rng,
            steps_per_level=how.steps_per_level,
            step_scale=how.step_scale,
            sigma_last_ang=FINEST_ANG,
            stop_below_ang=how.stop_below_ang,
            progress=of_steps(progress, len(levels_taken) * how.steps_per_level),
            shown=(lambda types, sigma_ang: noisy(types, _type_level(sigma_ang))) if how.type_noise else None,
        )
    assert isinstance(how, CDVAESampler), "only the CDVAE family diffuses fractional coordinates"
    n_crystals = len(cells.n_atoms)
    frac = coordinate_ddpm.centred_noise(crystal, n_crystals, rng, z.dtype)
    return coordinate_ddpm.denoise(
        lambda t, frac, types: called(frac, types, z.new_full((n_crystals,), t)),
        Point(frac, types),
        crystal,
        n_crystals,
        system.schedule,
        rng,
        kind=how.reverse,
        stride=how.stride,
        recentre=system.recentre,
        progress=of_steps(progress, -(-(N_TIMES - 1) // how.stride)),
        shown=(lambda types, t: noisy(types, float(system.type_times[t]))) if how.type_noise else None,
    )


def _type_level(sigma_ang: float) -> float:
    """The type noise whose place in the published ladder (5 to 0.01) is that of the coordinates' (10 to 0.01 A)."""
    place = math.log(sigma_ang / FINEST_ANG) / math.log(WIDEST_ANG / FINEST_ANG)
    return float(FINEST_TYPE * (WIDEST_TYPE / FINEST_TYPE) ** place)
