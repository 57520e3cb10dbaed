"""A potential of somebody else's package, known by its entry point alone, relaxes and is keyed like those here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from tests.outside_packages import install, run

ROOT = Path(__file__).resolve().parents[3]
MODULE = """
from ase.calculators.lj import LennardJones
from dft.potentials.ase_model import AseModel
from dft.potentials.foreign_model import ForeignModel
from dft.potentials.interface import Reading, fingerprint_of
from toy_potential.numbers import SIGMA_ANG


def readings(asked):
    calculator = LennardJones(sigma=SIGMA_ANG, epsilon=0.5, rc=6.0)
    model = ForeignModel(AseModel(calculator, asked.device), ("Si",), cutoff_ang=6.0)
    return [Reading(model, "toy 1", fingerprint_of(model.atomic_numbers, "toy 1"), "MIT")]


not_a_function = 3
"""
NUMBERS = "SIGMA_ANG = 2.15\n"
ENTRIES = """[hullward.potentials]
toy-lj = toy_potential.lj:readings
broken = toy_potential.absent:readings
number = toy_potential.lj:not_a_function
CHGNet = toy_potential.lj:readings
"""
RELAX = """
import json, sys
from pathlib import Path
import pyarrow as pa
from pymatgen.core.structure import Structure
from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, structure_columns
from tasks.discover.relax import relax_chunk_file
from tasks.files import FileRef, write_table
from tasks.loading import identify

folder = Path(sys.argv[1])
config = DiscoverConfig(
    name="toy", elements=("Si",), conditions={"n_elements_min": 1, "n_elements_max": 1},
    relax={"potential": "toy-lj", "fmax_ev_per_ang": 0.005},
)
crystal = Crystal.from_structure(Structure.from_file(folder / "si.json"))
table = pa.table({"id": ["si"], "formula": ["Si"], **structure_columns([crystal])})
write_table(table, folder / "given.parquet")
identity = identify(config.relax, config.execution)
ref = relax_chunk_file(config, folder, identity, FileRef.of(folder / "given.parquet"), 0, shared=False)
(row,) = ref.read().to_pylist()
print(json.dumps([identity.model_dump(mode="json"), row, ref.reused]))
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with an installed package of two modules."""
    return install(tmp_path / "site", "toy_potential", {"lj.py": MODULE, "numbers.py": NUMBERS}, ENTRIES)


def told(code: str, folder: Path, *arguments: str) -> Any:
    return json.loads(run(code, folder, *arguments).splitlines()[-1])


def test_a_stage_relaxes_with_a_potential_of_another_package(outside: Path, tmp_path: Path) -> None:
    crystal = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.7), ["Si"], [[0, 0, 0]]).get_primitive_structure()
    crystal.to(str(tmp_path / "si.json"))
    identity, row, reused = told(RELAX, outside, str(tmp_path))
    assert (identity["name"], identity["method"], identity["licence"]) == ("toy-lj", "toy 1", "MIT")
    assert identity["notes"][0].startswith("toy 1 agrees with the known crystals")
    assert (row["relax_status"], row["energy_method"], reused) == ("converged", "toy 1", False)
    atoms = crystal.to_ase_atoms()
    atoms.calc = LennardJones(sigma=2.15, epsilon=0.5, rc=6.0)
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.001, steps=200)
    assert row["energy_ev_per_atom"] == pytest.approx(atoms.get_potential_energy() / 2, abs=1e-4)
    volume_ang3 = abs(np.linalg.det(np.reshape(row["relaxed_lattice_ang"], (3, 3))))
    assert volume_ang3 == pytest.approx(atoms.get_volume(), rel=2e-3)
    assert told(RELAX, outside, str(tmp_path))[2]  # nothing has changed, so nothing is computed again
    # Nor does its fingerprint change with a helper of the other package; the key does.
    (outside / "toy_potential" / "numbers.py").write_text(NUMBERS.replace("2.15", "2.12"))
    changed, smaller, reused = told(RELAX, outside, str(tmp_path))
    assert changed["fingerprint"] == identity["fingerprint"]
    assert not reused
    assert smaller["energy_ev_per_atom"] != row["energy_ev_per_atom"]


def test_a_name_of_ours_cannot_be_taken_and_what_cannot_be_loaded_is_named(outside: Path) -> None:
    code = (
        "import json\nfrom dft.potentials.loading import load_potential\n"
        "said = [load_potential('CHGNet', fallback=None, search=[]).method]\n"
        "for name in ('broken', 'number'):\n"
        "    try:\n        load_potential(name, fallback='CHGNet', search=[])\n"
        "    except RuntimeError as error:\n        said.append(str(error))\n"
        "print(json.dumps(said))\n"
    )
    ours, broken, number = told(code, outside)
    assert ours == "CHGNet 0.3.0"
    assert broken.startswith(
        "'broken' is registered as toy_potential.absent:readings, which cannot be loaded: No module"
    )
    assert number == (
        "'number' is registered as toy_potential.lj:not_a_function: expected a function that loads a potential"
    )


STAND_IN = """
from types import SimpleNamespace
from ase.calculators.lj import LennardJones


class MACECalculator(LennardJones):
    def __init__(self, model_paths, device, default_dtype):
        super().__init__(sigma=float(open(model_paths).read()), epsilon=0.5, rc=6.0)
        self.z_table, self.r_max = SimpleNamespace(zs=[14]), 6.0
"""


def test_the_example_with_weights_of_the_users_own_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (example,) = (code for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "MACECalculator" in code)
    site = install(tmp_path / "site", "mace", {"calculators.py": STAND_IN}, "")
    entries = "[hullward.potentials]\nMACE-MPA-0 = their_package.mace:readings\n"
    install(site, "their_package", {"mace.py": example}, entries)
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom pymatgen.core.structure import Structure\n"
        "from dft.potentials.errors import PotentialError\nfrom dft.potentials.loading import load_potential\n"
        "from dft.potentials.relaxation import evaluate\nfolder = Path(sys.argv[1])\n"
        "try:\n    load_potential('MACE-MPA-0', fallback=None, search=[folder])\n"
        "except PotentialError as error:\n    said = str(error)\n"
        "found = []\nfor sigma in ('2.15', '2.12'):\n"
        "    (folder / 'mace-mpa-0-medium.model').write_text(sigma)\n"
        "    potential = load_potential('MACE-MPA-0', fallback=None, search=[folder])\n"
        "    (energy,) = evaluate([Structure.from_file(folder / 'si.json')], potential)\n"
        "    found.append([potential.fingerprint, energy])\n"
        "print(json.dumps([said, potential.elements, found]))\n"
    )
    crystal = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.5), ["Si"], [[0, 0, 0]])
    crystal.to(str(tmp_path / "si.json"))
    said, elements, found = told(code, site, str(tmp_path))
    assert said == "potential MACE-MPA-0 was not found: no mace-mpa-0-medium.model in the search folders"
    assert elements == ["Si"]
    assert found[0][0] != found[1][0]
    for sigma, (_, energy) in zip((2.15, 2.12), found, strict=True):
        atoms = crystal.to_ase_atoms()
        atoms.calc = LennardJones(sigma=sigma, epsilon=0.5, rc=6.0)
        assert energy == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=1e-6)
