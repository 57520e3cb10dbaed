"""Potentials against the ASE calculators of their own packages, against finite differences, and against nonsense."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from torch_sim.io import structures_to_state

from dft.potentials.aggregation import Aggregation
from dft.potentials.check import check_model
from dft.potentials.errors import PotentialError, PotentialNotFoundError
from dft.potentials.graph_model import GraphModel
from dft.potentials.interface import fingerprint_of
from dft.potentials.loading import LoadedPotential, load_potential
from dft.potentials.matgl import HUB_TIMEOUT_S, build_network, find_matgl_folder, load_matgl
from tests.own_calculators import SEVENNET, own_calculator

REPOSITORY = Path(__file__).resolve().parents[3]
MODELS = Path(os.environ.get("HULLWARD_ASSETS", REPOSITORY.parent / "shared")) / "models"
M3GNET = "M3GNet-MP-2021.2.8-PES"
MATGL_NAMES = [M3GNET, "M3GNet-MatPES-PBE-v2025.1-PES", "TensorNet-MatPES-PBE-v2025.1-PES"]
IN_WHEELS = ("CHGNet", *SEVENNET)

needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason="needs HULLWARD_ASSETS/models, pretrained matgl folders")
by_name = pytest.mark.parametrize(
    "name", [*IN_WHEELS, *(pytest.param(name, marks=needs_models) for name in MATGL_NAMES)]
)


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], LoadedPotential]:
    known: dict[str, LoadedPotential] = {}

    def load(name: str) -> LoadedPotential:
        if name not in known:
            known[name] = load_potential(name, fallback=None, search=[MODELS])
        return known[name]

    return load


def shaken_crystals() -> list[Structure]:
    """Rock salt, perovskite and diamond, sheared and shaken, one of them with a single short cell vector."""
    rng = np.random.default_rng(7)
    perovskite = Structure(
        Lattice.cubic(3.9),
        ["Sr", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )
    crystals = [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        perovskite,
        Structure(Lattice.hexagonal(2.6, 6.7), ["C", "B"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.75]]),
        Structure(Lattice.cubic(2.9), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ]
    shaken = []
    for crystal in crystals:
        matrix = crystal.lattice.matrix @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3)))
        cart = crystal.frac_coords @ matrix + rng.normal(scale=0.08, size=(len(crystal), 3))
        shaken.append(Structure(Lattice(matrix), crystal.species, cart, coords_are_cartesian=True))
    return shaken


@by_name
def test_batch_agrees_with_the_ase_calculator_crystal_by_crystal(
    name: str, loaded: Callable[[str], LoadedPotential]
) -> None:
    potential = loaded(name)
    crystals = shaken_crystals()
    output = potential.model(structures_to_state(crystals, torch.device("cpu"), torch.float64))
    calculator = own_calculator(name, potential, MODELS)
    forces = torch.split(output["forces"], [len(c) for c in crystals])
    for i, crystal in enumerate(crystals):
        atoms = crystal.to_ase_atoms()
        atoms.calc = calculator
        assert abs(atoms.get_potential_energy() - output["energy"][i].item()) / len(crystal) < 1e-5
        np.testing.assert_allclose(forces[i].numpy(), atoms.get_forces(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(output["stress"][i].numpy(), atoms.get_stress(voigt=False), rtol=0, atol=1e-4)


@by_name
def test_forces_and_stress_are_the_energys_finite_differences(name: str) -> None:
    """Sign and unit included. The network runs in float64 here, so that rounding does not hide a wrong factor."""
    network = load_potential(name, fallback=None, search=[MODELS]).model.network
    model = GraphModel(network.double(), torch.device("cpu"))
    crystal = shaken_crystals()[1]
    rng = np.random.default_rng(3)
    direction, strain = rng.normal(size=(len(crystal), 3)), rng.normal(size=(3, 3))
    strain = strain + strain.T
    step = 1e-4

    def energy(shift: float, stretch: float) -> float:
        matrix = crystal.lattice.matrix @ (np.eye(3) + stretch * strain)
        cart = crystal.frac_coords @ matrix + shift * direction
        moved = Structure(Lattice(matrix), crystal.species, cart, coords_are_cartesian=True)
        return float(model(structures_to_state([moved], torch.device("cpu"), torch.float64))["energy"][0])

    output = model(structures_to_state([crystal], torch.device("cpu"), torch.float64))
    along = (energy(step, 0) - energy(-step, 0)) / (2 * step)
    assert -along == pytest.approx(float((output["forces"].numpy() * direction).sum()), abs=1e-3, rel=1e-4)
    under = (energy(0, step) - energy(0, -step)) / (2 * step)
    expected = crystal.volume * float((output["stress"][0].numpy() * strain).sum())
    assert under == pytest.approx(expected, abs=2e-3, rel=1e-4)


@needs_models
@pytest.mark.parametrize("name", MATGL_NAMES)
def test_stored_weights_are_corrected_and_it_is_said(name: str, loaded: Callable[[str], LoadedPotential]) -> None:
    potential = loaded(name)
    assert potential.method == f"{name} (destination aggregation)"
    assert any("source aggregation is wrong (MgO forms at" in note for note in potential.notes)
    assert any("destination aggregation" in note and "agrees" in note for note in potential.notes)
    assert len(potential.elements) == 89


@needs_models
def test_a_correction_is_one_short_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    load_potential(M3GNET, fallback=None, search=[MODELS])
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == f"{M3GNET} corrected: edges summed at their destination"


@needs_models
def test_correction_leaves_matgls_classes_alone(loaded: Callable[[str], LoadedPotential]) -> None:
    """A potential loaded the ordinary way after ours still computes what matgl computes."""
    from matgl.layers import _embedding

    for name in MATGL_NAMES:
        loaded(name)
    raw = load_matgl(MODELS / "TensorNet-MatPES-PBE-v2025.1-PES")
    assert type(raw.model.tensor_embedding) is _embedding.TensorEmbedding
    as_stored = build_network(raw, Aggregation.SOURCE)
    assert as_stored is not None
    assert not check_model(GraphModel(as_stored, torch.device("cpu"))).is_right


def test_weights_that_are_damaged_are_refused_with_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from dft.potentials import chgnet as potential_chgnet

    intact = potential_chgnet.load_chgnet

    def damaged() -> Any:
        model = intact()
        with torch.no_grad():
            model.bond_weights_ag.weight.mul_(3.0)
        return model

    monkeypatch.setattr(potential_chgnet, "load_chgnet", damaged)
    with pytest.raises(PotentialError, match=r"refused.*forms at .* eV/atom instead of"):
        load_potential("CHGNet", fallback=None, search=[])


def test_missing_potential_falls_back_aloud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    potential = load_potential("M3GNet-of-nowhere", fallback="CHGNet", search=[])
    assert potential.name == "CHGNet"
    assert potential.method == "CHGNet 0.3.0"
    assert "M3GNet-of-nowhere was not found" in potential.notes[0]
    assert "CHGNet is used instead" in potential.notes[0]
    assert potential.notes[0] in caplog.text


def test_missing_potential_without_fallback_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PotentialNotFoundError, match="M3GNet-of-nowhere was not found"):
        load_potential("M3GNet-of-nowhere", fallback=None, search=[])


def test_hub_that_does_not_answer_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts the connection and stays silent: the worst case for a timeout."""
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.perf_counter()
        folder, reason = find_matgl_folder("M3GNet-of-nowhere", [])
    assert folder is None
    assert "hub" in reason
    assert time.perf_counter() - started < HUB_TIMEOUT_S + 5


def test_fingerprint_follows_the_weights(loaded: Callable[[str], LoadedPotential]) -> None:
    potential = loaded("CHGNet")
    again = load_potential("CHGNet", fallback=None, search=[])
    assert again.fingerprint == potential.fingerprint
    network = again.model.network
    assert fingerprint_of(network.atomic_numbers, "as stored", network.state_dict()) == potential.fingerprint
    assert fingerprint_of(network.atomic_numbers, "other", network.state_dict()) != potential.fingerprint
    with torch.no_grad():
        next(network.parameters()).add_(1e-3)
    assert fingerprint_of(network.atomic_numbers, "as stored", network.state_dict()) != potential.fingerprint


STORED = {
    "CHGNet": ("CHGNet 0.3.0", "2ad5e0e888621b6ba4f3d53b8a809185d2eb22abeb38939b037de842de361497"),
    "SevenNet-0": (
        "SevenNet-0 (July 2024)",
        "cbfd4764a21246fbf7eb2ac6360ff0bf798dd739be246b374b6d356a31ac9a29",
    ),
    "SevenNet-l3i5": (
        "SevenNet-l3i5 (December 2024)",
        "603cb2b545d05ecf1aecb974387686732dc240f106cb0f57d8a2b1c9c65a6b99",
    ),
    M3GNET: (
        "M3GNet-MP-2021.2.8-PES (destination aggregation)",
        "4e66e348e3b41654d6d760f2e300f3a40fe539df24b59af15d25f5e7801d35f8",
    ),
    "M3GNet-MatPES-PBE-v2025.1-PES": (
        "M3GNet-MatPES-PBE-v2025.1-PES (destination aggregation)",
        "6c159f0d78c9701d093d2fd47c1a75fd7244672dbfe4a3349b4b9c6713e129f3",
    ),
    "TensorNet-MatPES-PBE-v2025.1-PES": (
        "TensorNet-MatPES-PBE-v2025.1-PES (destination aggregation)",
        "aa18adc2248c6a4ec971fc5ba8b01e1ef764ad45329ba84d1775268f12ccba0f",
    ),
}
"""Label and fingerprint that relaxations have been stored under."""


@by_name
def test_a_potential_keeps_the_label_and_the_fingerprint_that_results_are_stored_under(
    name: str, loaded: Callable[[str], LoadedPotential]
) -> None:
    potential = loaded(name)
    assert (potential.method, potential.fingerprint) == STORED[name]
    assert potential.name == name
    assert f"{potential.elements[0]} to {potential.elements[-1]}" == "H to Pu"
    agrees = potential.method if name in IN_WHEELS else f"{name} computed with destination aggregation, the end of each"
    assert potential.notes[-1].startswith(agrees)
    assert "agrees with the known crystals (formation energies in eV/atom: MgO -" in potential.notes[-1]
    assert len(potential.notes) == {"CHGNet": 1, **dict.fromkeys(SEVENNET, 2)}.get(name, 3)
    assert ("MIT" if name in SEVENNET else "BSD") in potential.licence
    assert len(potential.elements) == 89


def test_the_names_of_potentials_are_known_whatever_their_case() -> None:
    assert load_potential("chgnet", fallback=None, search=[]).name == "CHGNet"


def test_a_name_that_nobody_has_is_one_sentence_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        PotentialNotFoundError,
        match=r"^potential TensorNet-MatPES was .*; did you mean 'TensorNet-MatPES-PBE-v2025.1-PES'\?",
    ):
        load_potential("TensorNet-MatPES", fallback=None, search=[])
    with pytest.raises(
        PotentialNotFoundError, match=r"^potential xyz was .*; the registered ones are CHGNet, M3GNet-MP"
    ):
        load_potential("xyz", fallback=None, search=[])
