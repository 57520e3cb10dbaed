"""The command line: fast help, results alone on standard output, one sentence per failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from configs.paths import project_version
from flows.cli.main import app
from generative import checkpoints
from generative.crystal.crystals import Crystal, crystals_of
from generative.systems.adaptive_cell.config import AdaptiveCellConfig
from generative.systems.adaptive_cell.system import AdaptiveCell
from generative.systems.crystal_flow import CrystalFlow, CrystalFlowConfig
from generative.systems.wyckoff.config import WyckoffConfig
from generative.systems.wyckoff.system import Wyckoff
from tasks.discover.input_notes import shared_notes

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    *("discover", "ingest", "train", "sample", "screen", "relax", "hull", "inputs"),
    *("report", "evaluate", "baseline", "export", "serve-optimade", "deploy"),
)
MODELS = Path(os.environ.get("HULLWARD_ASSETS", ROOT.parent / "shared")) / "models"
M3GNET = "M3GNet-MP-2021.2.8-PES"
HEAVY = ("torch", "prefect", "pymatgen", "matgl", "chgnet", "pandas", "pyarrow")

runner = CliRunner()


def rock_salt(a_ang: float) -> Structure:
    cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a_ang), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return cubic.get_primitive_structure()


def caesium_chloride(a_ang: float) -> Structure:
    return Structure(Lattice.cubic(a_ang), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """A folder of CIFs: the elements and a nitride, and a file that is no CIF."""
    folder = tmp_path / "known"
    folder.mkdir()
    rock_salt(4.25).to(str(folder / "TiN.cif"))
    Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(2.94, 4.64), ["Ti"], [[1 / 3, 2 / 3, 0.25]]).to(
        str(folder / "Ti.cif")
    )
    Structure(Lattice.cubic(6.0), ["N", "N"], [[0.5, 0.5, 0.4], [0.5, 0.5, 0.5833]]).to(str(folder / "N2.cif"))
    (folder / "cut.cif").write_text("data_x\n_cell_length_a 3\n")
    return folder


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Two crystals: one known, one not."""
    folder = tmp_path / "new"
    folder.mkdir()
    rock_salt(4.3).to(str(folder / "again.cif"))
    caesium_chloride(2.7).to(str(folder / "other.cif"))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of the smallest size that has learnt nothing but the scale of two cells."""
    torch.manual_seed(0)
    system = CrystalFlow(CrystalFlowConfig(width=32, n_layers=1))
    system.fit_statistics([Crystal.from_structure(rock_salt(4.25)), Crystal.from_structure(caesium_chloride(2.7))])
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    checkpoints.save(folder, system, {"steps": 0})
    return folder


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from flows.cli.main import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    arguments = [sys.executable, "-c", code, *filter(None, [command]), "--help"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr.strip() == "[]"


def test_the_app_lists_every_command_and_its_version() -> None:
    listed = runner.invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    assert all(f" {command} " in listed for command in COMMANDS)
    assert runner.invoke(app, ["--version"]).stdout.strip() == f"hullward {project_version()}"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["discover", "nowhere"], 2, "nowhere: no such settings file; shipped with Hullward: benchmark-generators"),
        (["discover", "quickstart", "--set", "sample.n_candidate=3"], 2, "did you mean 'n_candidates'"),
        (["discover", "quickstart", "--elements", "Ta-Xx"], 2, "'Xx' is not a chemical element"),
        (["discover", "quickstart", "--seed", "x"], 2, "valid int"),
        (["sample", "--out", "x"], 2, "--formula, such as TaBW, or --elements"),
        (["sample", "--out", "x", "--formula", "TaB", "--checkpoint", "none"], 1, "model.safetensors not found"),
        (["sample", "--out", "x", "--sites", "TaB"], 2, "--sites TaB counts the sites of a space group: add --spaceg"),
        (["sample", "--out", "x", "--sites", "TaB", "--formula", "TaB"], 2, "--formula and --sites are both given"),
        (["ingest", "prototypes", "--out", "x"], 2, "add --elements"),
        (["ingest", "absent.csv", "--out", "x"], 1, "absent.csv: no such file or folder"),
        (["screen", "absent.cif", "--reference", "absent"], 1, "absent.cif: no such file or folder"),
        (["inputs", "absent.cif", "--out", "x", "--preset", "mp"], 2, "inputs.preset is 'mp'"),
        (["report", "absent"], 1, "absent holds no finished run"),
        (["deploy"], 1, "no prefect.yaml"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_a_failure_is_one_sentence_and_an_exit_code(
    arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


def test_debug_shows_where_a_failure_came_from(tmp_path: Path) -> None:
    done = runner.invoke(app, ["report", str(tmp_path), "--debug"])
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert "RunUnfinishedError" in done.stderr


def test_ingest_accounts_for_every_file(known: Path, tmp_path: Path) -> None:
    done = runner.invoke(app, ["ingest", str(known), "--out", str(tmp_path / "data"), "--json"])
    manifest = json.loads(done.stdout)
    assert manifest["n_rows"] == 3
    assert [(s["n_read"], s["n_kept"], s["n_rejected"]) for s in manifest["sources"]] == [(4, 3, 1)]
    assert len(pq.read_table(tmp_path / "data" / "dataset.parquet")) == 3
    inside = runner.invoke(app, ["ingest", str(known), "--out", str(tmp_path / "ti"), "--elements", "Ti", "--json"])
    assert json.loads(inside.stdout)["n_rows"] == 1


def test_sample_draws_the_same_crystals_from_the_same_seed(checkpoint: Path, tmp_path: Path) -> None:
    options = [
        "--formula",
        "TiN",
        "-n",
        "3",
        "--seed",
        "7",
        "--checkpoint",
        str(checkpoint),
        "--set",
        "sample.sampler.n_steps=3",
    ]
    first = runner.invoke(app, ["sample", *options, "--out", str(tmp_path / "a.parquet"), "--json"])
    assert first.exit_code == 0, first.stderr
    runner.invoke(app, ["sample", *options, "--out", str(tmp_path / "b.parquet")])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    rows = json.loads(first.stdout)["crystals"]
    assert [row["formula"] for row in rows] == ["TiN"] * 3
    runner.invoke(app, ["sample", *options, "--out", str(tmp_path / "cifs")])
    drawn = crystals_of(pq.read_table(tmp_path / "a.parquet"))
    for crystal, cif in zip(drawn, sorted((tmp_path / "cifs").glob("*.cif")), strict=True):
        assert crystal is not None
        assert Structure.from_file(str(cif)).volume == pytest.approx(crystal.to_structure().volume, rel=1e-4)


def test_sample_draws_crystals_with_the_sites_that_are_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    known = [Crystal.from_structure(rock_salt(4.25)), Crystal.from_structure(caesium_chloride(2.7))]
    system = Wyckoff(WyckoffConfig(width=8, hidden=16))
    system.fit_statistics(known, [None, None])
    checkpoints.save(tmp_path / "made", system, {"steps": 0})
    out = tmp_path / "asked.parquet"
    asked = ["sample", "--sites", "TaB", "--spacegroup", "221", "-n", "2", "--out", str(out), "--json"]
    done = runner.invoke(app, [*asked, "--checkpoint", str(tmp_path / "made")])
    assert done.exit_code == 0, done.stderr
    assert [(row["formula"], row["n_atoms"]) for row in json.loads(done.stdout)["crystals"]] == [("TaB", 2)] * 2
    for crystal in crystals_of(pq.read_table(out)):
        assert crystal is not None
        assert crystal.to_structure().get_space_group_info() == ("Pm-3m", 221)
    refused = runner.invoke(app, [*asked, "--checkpoint", str(checkpoint)])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "does not heed numbers of inequivalent sites" in refused.stderr


def test_sample_asks_the_adaptive_cell_model_for_sites_and_for_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoints.save(tmp_path / "made", AdaptiveCell(AdaptiveCellConfig(message_width=8, n_blocks=1)), {"steps": 0})
    out = tmp_path / "asked.parquet"
    options = ["-n", "2", "--out", str(out), "--json", "--checkpoint", str(tmp_path / "made")]
    options += ["--set", "sample.sampler.steps_per_level=1"]
    done = runner.invoke(app, ["sample", "--sites", "TaB", "--spacegroup", "62", *options])
    assert done.exit_code == 0, done.stderr
    for crystal in crystals_of(pq.read_table(out)):
        assert crystal is not None
        assert crystal.to_structure().get_space_group_info() == ("Pnma", 62)
    refused = runner.invoke(app, ["sample", "--formula", "TaB", "--spacegroup", "62", *options])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "is asked for inequivalent sites, not for compositions: expected policy 'sites'" in refused.stderr


def test_screen_finds_the_known_crystal_and_keeps_all_others_with_reasons(
    known: Path, new: Path, tmp_path: Path
) -> None:
    out = tmp_path / "screened.parquet"
    (new / "broken.cif").write_text("data_broken\n_cell_length_a 4\n")
    (new / "notes.txt").write_text("of the group")
    done = runner.invoke(app, ["screen", str(new), "--reference", str(known), "--out", str(out), "--json"])
    rows = {row["id"]: row for row in json.loads(done.stdout)["crystals"]}
    assert rows["new:again.cif"]["known_match"] == "known:TiN.cif"
    assert rows["new:other.cif"]["rejected_by"] is None
    assert rows["new:other.cif"]["min_distance_ang"] == pytest.approx(2.7 * 3**0.5 / 2, abs=1e-4)
    assert len(pq.read_table(out)) == 3
    broken = rows["new:broken.cif"]
    assert broken["rejected_by"] == "reading"
    assert "lists no atom" in broken["reason"]
    assert "1 file of a folder was not read, the first: notes.txt: not read" in done.stderr
    assert "1 record could not be read" in done.stderr


def test_inputs_are_written_for_each_crystal_with_its_lineage(new: Path, tmp_path: Path) -> None:
    done = runner.invoke(app, ["inputs", str(new), "--out", str(tmp_path / "vasp"), "--json"])
    outcomes = json.loads(done.stdout)["inputs"]
    assert [outcome["formula"] for outcome in outcomes] == ["TiN", "TiN"]
    for outcome in outcomes:
        names = {file.name for file in Path(outcome["folder"]).iterdir()}
        assert {"INCAR", "KPOINTS", "POSCAR", "flow.json", "lineage.json"} <= names


def test_notes_on_inputs_are_on_the_terminal_each_once_with_the_crystals_it_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PMG_VASP_PSP_DIR", raising=False)
    crystals = ROOT / "tests" / "data" / "cases" / "poscar"
    command = ["inputs", str(crystals), "--preset", "mp-relax", "--out", str(tmp_path / "vasp")]
    said = runner.invoke(app, command).stderr
    assert (
        "Inputs of poscar:YbN.vasp: The structure contains Ytterbium (Yb) and this InputSet uses the Yb_2 PSP." in said
    )
    assert "Inputs of poscar:MoS2_slab.vasp: 16.9 A of vacuum along c" in said
    assert said.count("POTCAR.spec in place of POTCAR") <= 1
    poscar = next((tmp_path / "vasp").glob("*interleaved*/POSCAR")).read_text().splitlines()
    assert poscar[5].split() == ["Ti", "Al", "O"]


def test_a_note_that_many_crystals_share_is_said_once_and_they_are_counted() -> None:
    notes = {f"c-{place}": ["no POTCAR.", *(["Yb_2"] if place == 3 else [])] for place in range(5)}
    assert shared_notes(notes) == ["Inputs of c-0, c-1, c-2 and 2 more: no POTCAR.", "Inputs of c-3: Yb_2."]
    assert shared_notes({}) == []


@pytest.mark.slow
@pytest.mark.skipif(not (MODELS / M3GNET).is_dir(), reason="needs HULLWARD_ASSETS/models, pretrained matgl folders")
def test_relax_says_once_in_one_line_that_weights_were_corrected_and_why_a_crystal_is_isolated(
    new: Path, tmp_path: Path
) -> None:
    """A command in a process of its own, since a potential is loaded once per process."""
    for old in new.iterdir():
        old.unlink()
    rock_salt(4.25).to(str(new / "dense.cif"))
    caesium_chloride(9.0).to(str(new / "sparse.cif"))
    out = tmp_path / "relaxed.parquet"
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "relax", str(new), "--out", str(out), "--potential", M3GNET],
        cwd=ROOT,
        env={**os.environ, "HULLWARD_ASSETS": str(MODELS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "M3GNet" in line]
    corrected = [line for line in said if "corrected" in line]
    assert len(corrected) == 1
    assert len(corrected[0]) <= 120
    assert [line for line in said if line not in corrected] == [
        f"energies by {M3GNET} (destination aggregation), a machine-learned potential: screening energies, not DFT"
    ]
    assert "aggregation is wrong" not in done.stderr + done.stdout
    dense, sparse = pq.read_table(out).to_pylist()
    assert dense["relax_status"] == "converged"
    assert (sparse["relax_status"], sparse["energy_ev_per_atom"]) == ("isolated", None)
    assert "cut-off of 5 A" in sparse["relax_reason"]
    assert "7.79 A" in sparse["relax_reason"]
    assert "isolated" in done.stdout
    assert "cut-off of 5 A" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_relax_and_hull_go_on_from_each_others_files(known: Path, new: Path, tmp_path: Path) -> None:
    relaxed = tmp_path / "relaxed.parquet"
    settings = ["--potential", "CHGNet", "--json"]
    done = runner.invoke(app, ["relax", str(new), "--out", str(relaxed), *settings])
    assert done.exit_code == 0, done.stderr
    assert {row["relax_status"] for row in json.loads(done.stdout)["crystals"]} == {"converged"}
    before = relaxed.read_bytes()
    placed = runner.invoke(app, ["hull", str(relaxed), "--reference", str(known), *settings])
    assert placed.exit_code == 0, placed.stderr
    first, second = json.loads(placed.stdout)["crystals"]
    # Rock salt is the known phase itself; the caesium-chloride form of TiN lies far above it (0.85 eV/atom by CHGNet).
    assert first["id"] == "new:again.cif"
    assert first["e_above_hull_ev_per_atom"] == pytest.approx(0.0, abs=2e-3)
    assert second["e_above_hull_ev_per_atom"] == pytest.approx(
        second["energy_ev_per_atom"] - first["energy_ev_per_atom"], abs=2e-3
    )
    assert first["formation_energy_ev_per_atom"] < -1.0
    assert relaxed.read_bytes() == before


def test_hull_keeps_the_stable_phase_of_a_long_list_and_says_what_it_left_out(new: Path, tmp_path: Path) -> None:
    def chloride(first: str, second: str) -> Structure:
        return Structure(Lattice.cubic(2.7), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])

    phases = [(rock_salt(4.25), -1.89), (Structure(Lattice.cubic(2.5), ["N"], [[0, 0, 0]]), 0.0)]
    phases.append((Structure(Lattice.cubic(2.6), ["Ti"], [[0, 0, 0]]), 0.0))
    # Their formulas come before TiN in the alphabet, and there are more of them than may be relaxed.
    chains = [["N"] * n + ["Ti"] for n in (2, 3, 4)]
    decoys = [Structure(Lattice.cubic(7.0), chain, [[0, 0, k / 5] for k in range(len(chain))]) for chain in chains]
    phases += [(decoy, 0.4) for decoy in decoys] + [(chloride("Ti", "N"), -1.0)]
    table = pd.DataFrame(
        {
            "material_id": [f"p{n}" for n in range(len(phases))],
            "cif": [str(structure.to(fmt="cif")) for structure, _ in phases],
            "formation_energy_per_atom": [energy for _, energy in phases],
        }
    )
    table.to_csv(tmp_path / "known.csv", index=False)
    few = ["--potential", "CHGNet", "--set", "relax.max_steps=1", "--set", "hull.references_max=3", "--json"]
    done = runner.invoke(app, ["hull", str(new / "other.cif"), "--reference", str(tmp_path / "known.csv"), *few])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["competing_phases"]["n_cut"] == len(phases) - 3
    (placed,) = found["crystals"]
    assert placed["decomposition"] == "1.00 TiN"
    assert placed["e_above_hull_ev_per_atom"] > 0.3  # above rock salt, which a cut by name would have dropped
    note = found["competing_phases"]["note"]
    assert note.startswith("4 of 7 competing phases were left out of the hull (hull.references_max 3); the nearest of")
    assert note in done.stderr


def test_json_stands_alone_even_where_a_library_writes_to_the_terminal(known: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "import tasks.ingest.stages as room\n"
        "from flows.cli.main import app\n"
        "real = room.ingest_dataset\n"
        "def noisy(*a):\n    os.write(1, b'from C\\n'); print('from Python'); return real(*a)\n"
        "room.ingest_dataset = noisy\n"
        "app()"
    )
    arguments = [sys.executable, "-c", code, "ingest", str(known), "--out", str(tmp_path / "data"), "--json"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ.copy())
    assert json.loads(done.stdout)["n_rows"] == 3
    assert "from C" in done.stderr
    assert "from Python" in done.stderr
