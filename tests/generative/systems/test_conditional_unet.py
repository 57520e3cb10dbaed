"""The conditional UNet: losses against closed forms, what it is asked reaches it, a toy set learned by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.standard_setting import in_standard_setting
from generative.crystal.structure_matrix import sorted_sites, to_matrix
from generative.systems.unet.config import ConditionalUNetConfig, UNetSampler
from generative.systems.unet.generator import (
    GENERATORS,
    ConditionalUNet,
    UNetDDIM,
    UNetDDPM,
    UNetFlowNormal,
    UNetFlowUniform,
)
from tests.generative.asking import asked
from tests.generative.systems.by_heart import learn

QUICK = UNetSampler(n_steps=5)
PUBLISHED = {"predicts": "noise-velocity", "lattice_unit_ang": 1.0}


def rocksalt(one: str, two: str, edge_ang: float) -> Crystal:
    frac = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.5] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    return Crystal.from_structure(Structure(Lattice.cubic(edge_ang), [one] * 4 + [two] * 4, frac))


TOY = [rocksalt("Na", "Cl", 5.6), rocksalt("K", "Br", 6.6), rocksalt("Mg", "O", 4.2), rocksalt("Li", "F", 4.0)]
CAESIUM_CHLORIDE = Crystal.from_structure(Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3]))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(kind: type[ConditionalUNet], **settings: object) -> ConditionalUNet:
    torch.manual_seed(0)
    system = kind(ConditionalUNetConfig(size="tiny", **settings))
    system.fit_statistics(TOY, [-1.0, -2.0, -3.0, None])
    return system


def moved(system: ConditionalUNet) -> ConditionalUNet:
    """With weights that are not zero anywhere, so that conditions reach the answer."""
    generator = rng(3)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return system.eval()


@pytest.mark.parametrize("kind", [UNetDDIM, UNetFlowNormal, UNetFlowUniform], ids=lambda kind: kind.name)
def test_an_untrained_generator_ends_where_its_start_leads_without_a_network(kind) -> None:
    """Zero noise predicted: DDIM stretches the start by 1 / sqrt(abar); zero velocity: the flow stays."""
    system = built(kind, mask_padding=False, **PUBLISHED).eval()
    cells = [CAESIUM_CHLORIDE.atomic_numbers.tolist()] * 50
    (first, *_) = system.sample(asked(cells), rng(1), UNetSampler(n_steps=100))
    start = system._start(50, rng(1))
    factor = 71.298 if kind is UNetDDIM else 1.0
    np.testing.assert_allclose(first.lattice_ang, factor * start[0, 61:], rtol=1e-4)


@pytest.mark.parametrize(("kind", "expected"), [(UNetDDPM, 0.798), (UNetFlowUniform, None)])
def test_the_loss_of_a_silent_network_is_the_mean_size_of_its_target(kind, expected) -> None:
    """E|n| of a unit normal is sqrt(2 / pi); three numbers per row, half sites and half lattice."""
    system = built(kind, predicts="noise-velocity", lattice_unit_ang=10.0)
    batch = CrystalBatch.pack(TOY * 50)
    parts = {name: float(part.detach()) for name, part in system.loss(batch, rng()).parts.items()}
    if expected is not None:
        assert parts["sites"] == pytest.approx(3 * expected, rel=0.02)
        assert parts["lattice"] == pytest.approx(3 * expected, rel=0.05)
        return
    # |x - u| with u uniform: (x^2 + (1 - x)^2) / 2 for coordinates x; edges of 0.4 to 0.66 and zeros of the lattice
    x = np.concatenate([c.frac for c in TOY])
    assert parts["sites"] == pytest.approx(3 * np.mean((x**2 + (1 - x) ** 2) / 2), rel=0.03)
    x = np.concatenate([c.lattice_ang for c in TOY]) / 10
    assert parts["lattice"] == pytest.approx(3 * np.mean((x**2 + (1 - x) ** 2) / 2), rel=0.05)


def test_padding_costs_as_published_where_it_is_not_masked() -> None:
    """Two atoms and 58 rows of noise: 30 times the loss per site."""
    batch = CrystalBatch.pack([CAESIUM_CHLORIDE] * 100)
    masked, published = (
        built(UNetDDPM, mask_padding=masks, **PUBLISHED).loss(batch, rng()).parts["sites"] for masks in (True, False)
    )
    assert float(published.detach() / masked.detach()) == pytest.approx(30, rel=0.05)


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.name)
def test_a_network_that_knows_the_crystal_arrives_at_it_by_either_prediction(kind, monkeypatch) -> None:
    """The noise and the velocity that lead to a crystal, and the crystal itself, give the same path."""
    for predicts in ("crystal", "noise-velocity"):
        system = built(kind, predicts=predicts).eval()
        batch = sorted_sites(CrystalBatch.pack([CAESIUM_CHLORIDE]))
        target = to_matrix(batch) / system.units

        def told(matrix, time, condition, system=system, target=target, predicts=predicts):  # noqa: ANN001, ANN202
            if predicts == "crystal":
                return target
            if system.way.process == "flow":
                return (target - matrix) / (1 - float(time[0]) / system.config.time_scale)
            level = float(system.alpha_bar[int(time[0])])
            return (matrix - level**0.5 * target) / (1 - level) ** 0.5

        monkeypatch.setattr(system, "_told", told)
        (found,) = system.sample(asked([batch.atomic_numbers.tolist()]), rng(), UNetSampler(n_steps=50))
        distance = StructureMatcher(scale=False).get_rms_dist(found.to_structure(), CAESIUM_CHLORIDE.to_structure())
        assert distance is not None
        assert distance[0] < 1e-3


def test_a_trained_diffusion_is_walked_without_noise_on_request() -> None:
    ddpm, ddim = moved(built(UNetDDPM)), moved(built(UNetDDIM))
    ddim.load_state_dict(ddpm.state_dict())
    requests, plain = asked([[11, 17]]), UNetSampler(n_steps=20)
    found = ddpm.sample(requests, rng(), UNetSampler(n_steps=20, deterministic=True))[0]
    assert found.digest == ddim.sample(requests, rng(), plain)[0].digest
    assert found.digest != ddpm.sample(requests, rng(), plain)[0].digest


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds", [(UNetDDPM, UNetDDIM), (UNetFlowNormal,), (UNetFlowUniform,)], ids=lambda k: k[0].name
)
def test_a_prototype_of_a_few_compositions_is_learned_by_heart(kinds) -> None:
    compounds = [("Cs", "Cl", 4.1), ("Cs", "Br", 4.3), ("Cs", "I", 4.6), ("Tl", "Cl", 3.8), ("Al", "Ni", 2.9)]
    toy = [
        in_standard_setting(Crystal.from_structure(Structure(Lattice.cubic(edge), [one, two], [[0, 0, 0], [0.5] * 3])))
        for one, two, edge in compounds
    ]
    trained = built(kinds[0])
    learn(trained, CrystalBatch.pack(toy * 5, [221] * 25, [-1.0] * 25), n_steps=200)
    targets = [c.to_structure() for c in toy] * 4
    for kind in kinds:  # DDIM walks with the weights of DDPM
        system = built(kind).eval()
        system.load_state_dict(trained.state_dict())
        cells = [c.atomic_numbers.tolist() for c in toy] * 4
        found = system.sample(asked(cells, [221] * 20), rng(5), UNetSampler(n_steps=25))
        hits = [
            StructureMatcher().fit(crystal.to_structure(), target)
            for crystal, target in zip(found, targets, strict=True)
        ]
        assert np.mean(hits) > 0.9, kind.name


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.name)
def test_what_is_asked_reaches_the_crystal_and_what_is_left_open_need_not_be_named(kind) -> None:
    system = moved(built(kind))
    cells = [[11, 17], [12, 8], [11, 17], [11, 17]]
    groups, energies = [225, 225, 62, 225], [-1.0, -1.0, -1.0, -3.0]
    one, element, group, energy = system.sample(asked(cells, groups, energies), rng(), QUICK)
    again = system.sample(asked(cells, groups, energies), rng(), QUICK)
    assert [c.digest for c in again] == [c.digest for c in (one, element, group, energy)]
    free = system.sample(asked(cells[:1]), rng(), QUICK)[0]
    bound = system.sample(asked(cells[:1], [225], [-1.0]), rng(), QUICK)[0]
    assert not np.allclose(free.lattice_ang, bound.lattice_ang)
    start = system._start(4, rng())
    same = [c.lattice_ang for c in _from_one_start(system, cells, groups, energies, start[:1].expand(4, -1, -1))]
    for other in same[1:]:
        assert not np.allclose(same[0], other)


def _from_one_start(system, cells, groups, energies, start):  # noqa: ANN001, ANN202
    original = system._start
    system._start = lambda n, rng: start
    try:
        return system.sample(asked(cells, groups, energies), rng(), QUICK)
    finally:
        system._start = original


def test_sites_come_back_ascending_by_atomic_number_and_progress_ends_at_one() -> None:
    system = moved(built(UNetFlowUniform))
    done: list[float] = []
    drawn = system.sample(asked([[38, 8, 22, 8, 8], [14]]), rng(), QUICK, progress=done.append)
    assert drawn[0].atomic_numbers.tolist() == [8, 8, 8, 22, 38]
    assert drawn[1].atomic_numbers.tolist() == [14]
    assert done == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert system.sample([], rng(), QUICK) == []


@pytest.mark.parametrize("cell", [[], [6] * 61])
def test_compositions_that_have_no_matrix_are_refused_by_number(cell: list[int]) -> None:
    with pytest.raises(ValueError, match=f"request 1 is .* with {len(cell)} atoms: expected a cell of 1 to 60"):
        built(UNetDDPM).sample(asked([[11, 17], cell]), rng(), QUICK)


def test_crystals_that_cannot_be_learned_are_refused_with_the_reason() -> None:
    system = built(UNetDDPM)
    large = Crystal(20 * np.eye(3), np.random.default_rng(0).random((61, 3)), np.full(61, 6, dtype=np.int16))
    assert "61 atoms" in system.refused(large)
    assert system.refused(TOY[0]) == ""


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.name)
def test_a_generator_comes_back_from_its_checkpoint(kind, tmp_path) -> None:
    system = moved(built(kind, spacegroup_as="number"))
    checkpoints.save(tmp_path / "unet", system, {}, dtype=torch.float32)
    loaded = checkpoints.load(str(tmp_path / "unet")).system
    assert type(loaded) is kind
    drawn = [which.sample(asked([[11, 17]], [225], [-1.0]), rng(), QUICK)[0].digest for which in (system, loaded)]
    assert drawn[0] == drawn[1]
