"""`import hullward`: the commands' own tables from Python, crystals of pymatgen and ASE in and out, runs as objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

import hullward
from configs.schema import ConfigError
from flows.cli.main import app
from storage.digests import file_digest
from tasks.discover.finished import RunUnfinishedError
from tasks.discover.own_files import OwnFileError
from tasks.discover.run import OtherRunError
from tests.flows.conftest import Campaign, Run

FEW = {"relax": {"max_steps": 6}, "execution": {"torch_threads": 1}}
"""A few steps of a relaxation are as good as many to compare two ways to it."""
FEW_SET = ("--set", "relax.max_steps=6", "--set", "execution.torch_threads=1")

runner = CliRunner()


def rock_salt(a_ang: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a_ang), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def titanium() -> Structure:
    return Structure(Lattice.hexagonal(2.94, 4.64), ["Ti", "Ti"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])


def nitrogen() -> Structure:
    return Structure(Lattice.cubic(6.0), ["N", "N"], [[0.5, 0.5, 0.4], [0.5, 0.5, 0.5833]])


def caesium_chloride() -> Structure:
    return Structure(Lattice.cubic(2.7), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def disordered() -> Structure:
    return Structure(Lattice.cubic(4.0), [{"Ti": 0.5, "Al": 0.5}], [[0, 0, 0]])


def by_command(*arguments: str) -> list[dict[str, Any]]:
    """The rows that a command gives as JSON."""
    done = runner.invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["crystals"]
    return rows


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A data frame's rows as JSON has them."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return found


def assert_same_rows(ours: pd.DataFrame, theirs: list[dict[str, Any]]) -> None:
    rows = rows_of(ours)
    assert [list(row) for row in rows] == [list(row) for row in theirs]
    for one, other in zip(rows, theirs, strict=True):
        for name, value in other.items():
            assert one[name] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), name


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """known/: a nitride and its elements; new/: one that is known, one that is not, a file that is no crystal."""
    folder = tmp_path_factory.mktemp("files")
    listed = {"known/TiN": rock_salt(4.25), "known/Ti": titanium(), "known/N2": nitrogen()}
    listed |= {"new/again": rock_salt(4.3), "new/other": caesium_chloride()}
    for name, structure in listed.items():
        (folder / name).parent.mkdir(exist_ok=True)
        structure.to(str(folder / f"{name}.cif"))
    (folder / "new" / "broken.cif").write_text("data_broken\n_cell_length_a 4\n")
    return folder


def test_sample_draws_what_the_command_draws(campaign: Campaign, tmp_path: Path) -> None:
    drawn = hullward.sample(
        "Al-Ni-Ti", n=3, seed=5, checkpoint=campaign.checkpoint, changes=["sample.sampler.n_steps=2"]
    )
    options = ["--number", "3", "--seed", "5", "--checkpoint", str(campaign.checkpoint)]
    out = tmp_path / "drawn.parquet"
    steps = ["--set", "sample.sampler.n_steps=2", "--out", str(out)]
    assert_same_rows(drawn.to_pandas(), by_command("sample", "--elements", "Al-Ni-Ti", *options, *steps))
    drawn.save(tmp_path / "ours.parquet")
    assert (tmp_path / "ours.parquet").read_bytes() == out.read_bytes()
    assert list(drawn.structures) == drawn.to_pandas()["id"].tolist()
    with pytest.raises(ConfigError, match="nothing to generate"):
        hullward.sample()


def test_screen_says_of_the_same_files_what_the_command_says(files: Path) -> None:
    screened = hullward.screen(files / "new", files / "known")
    assert_same_rows(
        screened.to_pandas(), by_command("screen", str(files / "new"), "--reference", str(files / "known"))
    )
    said = screened.to_pandas().set_index("formula")["rejected_by"]
    assert said["TiN"].tolist() == ["known", None] or said["TiN"].tolist() == [None, "known"]
    assert "1 of them are valid, novel and unique" in screened.notes
    assert "lists no atom" in repr(screened)
    assert "lists no atom" in screened._repr_html_()


def test_relax_and_hull_give_the_commands_tables_of_the_same_files(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "relaxed.parquet"
    options = ["--potential", "CHGNet", *FEW_SET]
    theirs = by_command("relax", str(files / "new"), "--out", str(out), *options)
    ours = hullward.relax(files / "new", potential="CHGNet", settings=FEW)
    assert_same_rows(ours.to_pandas(), theirs)
    assert theirs[-1]["relax_status"] == "failed"

    placed = by_command("hull", str(out), "--reference", str(files / "known"), *options)
    on_hull = hullward.hull(ours, files / "known", potential="CHGNet", settings=FEW)
    assert_same_rows(on_hull.to_pandas(), placed)
    assert placed[0]["e_above_hull_ev_per_atom"] is not None
    assert on_hull.phases["formula"].tolist() == ["N2", "Ti", "TiN"] or len(on_hull.phases) == 3
    assert set(on_hull.structures) == {row["id"] for row in placed if row["relax_status"] != "failed"}
    shown = on_hull.draw_hull()._repr_mimebundle_()
    assert {"image/png", "application/vnd.plotly.v1+json"} < set(shown)


def test_crystals_of_pymatgen_and_ase_go_in_and_come_out_in_their_own_cells() -> None:
    conventional = rock_salt(4.3)
    atoms = Atoms(
        numbers=[site.specie.Z for site in conventional],
        positions=conventional.cart_coords,
        cell=conventional.lattice.matrix,
        pbc=True,
    )
    primitive = conventional.get_primitive_structure()
    given = {"pymatgen": conventional, "ase": atoms, "primitive": primitive}
    relaxed = hullward.relax(given, potential="CHGNet", settings=FEW)
    frame = relaxed.to_pandas().set_index("id")
    assert frame.index.tolist() == list(given)
    energies = frame["energy_ev_per_atom"]
    assert energies["pymatgen"] == pytest.approx(energies["ase"], abs=1e-6)
    assert energies["pymatgen"] == pytest.approx(energies["primitive"], abs=1e-4)
    assert [len(one) for one in relaxed.structures.values()] == [8, 8, 2]
    out = relaxed.atoms["ase"]
    assert out.get_chemical_symbols() == atoms.get_chemical_symbols()
    moved = out.get_scaled_positions() - atoms.get_scaled_positions()
    np.testing.assert_allclose(moved, np.round(moved), atol=1e-3)
    assert StructureMatcher().fit(relaxed.structures["primitive"], primitive)


def test_what_is_no_crystal_stays_in_the_table_with_the_reason() -> None:
    given = {"good": bulk("Ti"), "mixed": disordered(), "molecule": molecule("N2")}
    screened = hullward.screen(given, [titanium()])
    frame = screened.to_pandas().set_index("id")
    assert frame["rejected_by"].to_dict() == {"good": "known", "mixed": "reading", "molecule": "reading"}
    assert "disordered" in frame["reason"]["mixed"]
    assert "expected a crystal, periodic" in frame["reason"]["molecule"]
    assert list(screened.structures) == ["good"]
    with pytest.raises(OwnFileError, match="no crystal among the 1 given"):
        hullward.relax(disordered())
    with pytest.raises(OwnFileError, match="no crystal among the 0 given"):
        hullward.relax([])
    with pytest.raises(OwnFileError, match="int is no crystal: expected a pymatgen Structure or ASE Atoms"):
        hullward.relax([3])  # type: ignore[list-item]
    twice = screened.table.take([0, 0])
    with pytest.raises(OwnFileError, match="'good' more than once"):
        hullward.screen(twice, [titanium()])


def test_samples_from_memory_are_judged_as_those_of_a_file(files: Path, tmp_path: Path) -> None:
    structures = {"a": caesium_chloride(), "b": rock_salt(4.3), "c": disordered()}
    judged = {"reference": files / "known" / "TiN.cif", "settings": {"targets": "index"}}
    out = tmp_path / "of-memory"
    with pytest.raises(ValueError, match="3 samples beside 1 true crystals"):
        hullward.evaluate(structures, out=out, **judged)
    found = hullward.evaluate(structures, files / "known", out=out)
    values = found.to_pandas().set_index("figure")["value"]
    assert values["structural validity"] == pytest.approx(200 / 3)
    assert found.report.is_file()
    assert found.samples["id"].tolist() == ["a", "b", "c"]
    crystals = hullward.screen({"a": caesium_chloride(), "b": rock_salt(4.3)}, [titanium()])
    crystals.save(tmp_path / "samples.parquet")
    judged_by = ["--reference", str(files / "known"), "--out", str(tmp_path / "of-file"), "--json"]
    theirs = runner.invoke(app, ["evaluate", str(tmp_path / "samples.parquet"), *judged_by])
    assert theirs.exit_code == 0, theirs.stderr
    rows = rows_of(hullward.evaluate(crystals, files / "known", out=tmp_path / "of-memory-again").to_pandas())
    stated = json.loads(theirs.stdout)["figures"]
    assert [row["figure"] for row in rows] == [metric["name"] for metric in stated]
    for row, metric in zip(rows, stated, strict=True):
        assert row["value"] == (None if metric["value"] is None else pytest.approx(metric["value"]))


def test_a_run_is_read_as_tables_crystals_and_pictures(finished: Run) -> None:
    run = hullward.load_run(finished.folder)
    table = pq.read_table(finished.folder / "candidates.parquet")
    frame = run.to_pandas()
    assert frame["id"].tolist() == table.column("id").to_pylist()
    assert rows_of(frame)[-1]["rejected_by"] == table.column("rejected_by").to_pylist()[-1]
    ranked = [row for row in table.to_pylist() if row["rank"] is not None]
    best = run.best(2)
    assert best.to_pandas()["rank"].tolist() == [row["rank"] for row in ranked[:2]]
    relaxed = run.structures()
    assert set(relaxed) == {row["id"] for row in table.to_pylist() if row["relaxed_lattice_ang"] is not None}
    assert len(run.structures(generated=True)) == sum(row["lattice_ang"] is not None for row in table.to_pylist())
    np.testing.assert_allclose(relaxed[ranked[0]["id"]].lattice.matrix.ravel(), ranked[0]["relaxed_lattice_ang"])
    assert len(run.phases) == len(pq.read_table(finished.folder / "phases.parquet"))
    assert run.manifest["settings"]["name"] == finished.config.name
    assert run.report.is_file()
    assert {"image/png", "application/vnd.plotly.v1+json"} < set(run.hull._repr_mimebundle_())
    assert run.hull.figure("space").data
    with pytest.raises(ValueError, match="no figure 'map': there is plane, space"):
        run.hull.figure("map")
    assert run.draw(1).png == run.draw(ranked[0]["id"]).png
    with pytest.raises(ValueError, match="no relaxed candidate of rank 999"):
        run.draw(999)
    for text in (repr(run), run._repr_html_()):
        assert ranked[0]["formula"] in text
        assert "of 8 candidates ranked" in text


def test_a_folder_that_holds_no_run_is_said_to_hold_none(tmp_path: Path) -> None:
    with pytest.raises(RunUnfinishedError, match="holds no finished run: expected the folder of one"):
        hullward.load_run(tmp_path)


def test_discover_makes_the_run_of_the_command(
    campaign: Campaign,
    finished: Run,
    prefect_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in prefect_environment.items():
        monkeypatch.setenv(name, value)
    settings = tmp_path / "settings.yaml"
    settings.write_text(campaign.config(tmp_path / "ignored").model_dump_json())
    run = hullward.discover(settings, runs_folder=tmp_path, quiet=True)
    assert run.folder == tmp_path / "tiny"
    assert file_digest(run.folder / "candidates.parquet") == file_digest(finished.folder / "candidates.parquet")
    assert capsys.readouterr().err == ""
    with pytest.raises(OtherRunError, match="seed is 0 there, 1 here"):
        hullward.discover(settings, runs_folder=tmp_path, seed=1)
    with pytest.raises(hullward.RunFailedError, match=r"model\.safetensors not found"):
        hullward.discover(
            settings, name="other", runs_folder=tmp_path, quiet=True, settings={"sample": {"checkpoint": "none"}}
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"what": "Ta-Xx"}, "'Xx' is not a chemical element"),
        ({"what": "nowhere"}, "nowhere: no such settings file"),
        ({"what": "Ta-B", "elements": "Ta-W"}, "two chemical systems, Ta-B and Ta-W"),
        ({"settings": {"sample": {"n_candidate": 3}}}, "did you mean 'n_candidates'"),
        ({"changes": ["sample.n_candidate=3"]}, "did you mean 'n_candidates'"),
        ({"n_candidates": 0}, "sample.n_candidates is 0"),
    ],
)
def test_wrong_settings_of_a_run_are_said_before_it_begins(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        hullward.discover(**arguments)
