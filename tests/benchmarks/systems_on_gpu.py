"""The adaptive-cell model and ConditionCDVAE+ on a GPU in single precision beside the processor in double.

What on_gpu.py checks of them; see there. Inputs are made on the processor and moved, so both sides see the same.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import WyckoffCrystal
from generative.networks.edge_dimenet import EdgeDimeNet, EdgeDimeNetConfig
from generative.requests import Request
from generative.systems.adaptive_cell.multigraph import multigraph
from generative.systems.adaptive_cell.site_crystal import SiteCrystal
from generative.systems.adaptive_cell.training_set import packed, state_of
from generative.systems.cdvae.decoding import Cells
from generative.systems.condition_cdvae.config import ConditionCDVAEConfig, ConditionCDVAESampler
from generative.systems.condition_cdvae.system import ConditionCDVAE
from generative.training.data import TrainingSet
from tests.benchmarks.family_on_gpu import is_sound, relative_error, strained_crystals, with_all_layers

SMALL = EdgeDimeNetConfig(message_width=32, output_width=32, triplet_width=16, n_blocks=2, n_spherical=4)


def check_adaptive_cell(device: str, size: str) -> dict[str, float]:
    """Relative errors of the network's answers, and of noise of positions and of cells that its samplers are told."""
    crystals = [
        Structure.from_spacegroup(number, Lattice.cubic(a), symbols, places)
        for number, a, symbols, places in (
            (225, 5.7, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
            (221, 3.9, ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
            (227, 5.4, ["Si"], [[0.125, 0.125, 0.125]]),
        )
    ]
    described = [SiteCrystal.of(WyckoffCrystal.of(Crystal.from_structure(one))) for one in crystals]
    given = packed(described)
    state = state_of(given["group"], given["n_sites"], given["site_frac"], given["cell"])
    state = state.moved(0.3 * torch.randn(state.frac.shape, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    network = EdgeDimeNet(EdgeDimeNetConfig() if size == "paper" else SMALL, 2).eval()
    with_all_layers(network)
    level = torch.full_like(given["site_numbers"], 3)

    def answer(where: str, dtype: torch.dtype) -> torch.Tensor:
        moved = state.to(where)
        graph = multigraph(moved.frac, moved.lattice_ang, moved.sites)
        graph = replace(graph, **{
            name: value.to(dtype)
            for name, value in vars(graph).items()
            if isinstance(value, torch.Tensor) and value.is_floating_point()
        })  # fmt: skip
        with torch.no_grad():
            told: torch.Tensor = copy.deepcopy(network).to(where, dtype)(
                given["site_numbers"].to(where), level.to(where), graph
            )
        return torch.cat([told.abs().sum(0), told.square().sum(0)])  # edges need not come in one order

    return {"answers of the edges": relative_error(answer(device, torch.float32), answer("cpu", torch.float64))}


def check_condition_cdvae(device: str, size: str) -> dict[str, float]:
    """Relative errors of latent means, vectors and type logits, and how many crystals it reconstructs and draws."""
    crystals = strained_crystals()
    bonds = [bond for bond in crystal_nn_bonds(crystals) if bond is not None]
    energies = [0.1 * i for i in range(len(crystals))]
    data = TrainingSet(crystals, [None] * len(crystals), energies, [""] * len(crystals), bonds)
    torch.manual_seed(0)
    config = ConditionCDVAEConfig.model_validate({"size": size, "conditions": ["formation_energy_ev_per_atom"]})
    system = ConditionCDVAE(config).eval()
    arranged = system.arranged(data)
    system.fit_statistics(crystals, energies)
    system.measure(arranged)
    draws = torch.Generator().manual_seed(1)
    z = torch.randn(len(crystals), system.latent_width, generator=draws)
    noisy = torch.rand(sum(len(one.frac) for one in crystals), 3, generator=draws)

    def outputs(where: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        there = copy.deepcopy(system).to(where, dtype)
        batch = arranged[list(range(len(crystals)))].to(where)
        batch = batch.replace(frac=batch.frac.to(dtype), lattice_ang=batch.lattice_ang.to(dtype))
        cells = Cells.of(batch.lattice_ang, batch.n_atoms, len(batch.frac))
        with torch.no_grad():
            latent = there.encode(batch).mean
            heard = there.heard_of(batch, z.to(where, dtype))
            search = there.denoiser.neighbours(cells.lattice_ang, cells.n_atoms)
            vectors, logits = there.denoiser(
                heard, noisy.to(where, dtype), batch.atomic_numbers, cells.crystal, search, rng=None
            )
        return {"latent": latent, "heard": heard, "vectors": vectors, "types": logits}

    expected = outputs("cpu", torch.float64)
    errors = {name: relative_error(value, expected[name]) for name, value in outputs(device, torch.float32).items()}
    there = copy.deepcopy(system).to(device)
    rng = torch.Generator(device=device).manual_seed(0)
    quick = ConditionCDVAESampler(steps_per_level=1, level_stride=10, latent_steps=2, screening=4)
    asked = [Request(formation_energy_ev_per_atom=0.4)] * len(crystals)
    drawn = {
        "reconstructed": there.reconstruct(crystals, rng, quick, bonds, batch_crystals=8),
        "asked": there.answered(asked, rng, quick, batch_crystals=8),
    }
    return errors | {name: float(sum(map(is_sound, made))) for name, made in drawn.items()}
