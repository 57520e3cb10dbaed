"""The settings that reach VASP are the preset's: generated updates of the user's, and INCARs read back by pymatgen."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import atomate2.vasp.files
import pytest
from atomate2.settings import Atomate2Settings
from atomate2.vasp.files import write_vasp_input_set
from monty.json import MontyDecoder
from pymatgen.core import SETTINGS
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints

import dft.inputs.user_settings
from dft.config import InputsConfig, Preset
from dft.inputs.folder import InputsError, WrittenInputs, write_inputs
from dft.inputs.written_settings import written_digest

CONFIG = InputsConfig.model_validate({})

# By the VASP manual: how bands, k-points, planes and matrices are shared out. Written here a second time on purpose.
PARALLEL = {"NCORE": [2, 4, 8], "NPAR": [1, 2], "KPAR": [2, 4], "NSIM": [1, 8, 16]}
PARALLEL |= {"LPLANE": [True, False], "LSCALAPACK": [True, False], "LSCALU": [True, False], "LSCAAWARE": [False]}
PHYSICS: dict[str, list[Any]] = {"ENCUT": [300, 450.5, 1000], "ISPIN": [1], "GGA": ["PS", "RP"], "SIGMA": [0.2]}
PHYSICS |= {"ISMEAR": [1, -1], "METAGGA": ["R2scan"], "IVDW": [12, 4], "PREC": ["Normal"], "LREAL": ["Auto", True]}
PHYSICS |= {"KSPACING": [0.5], "ISYM": [0], "NELECT": [11.5], "EDIFF": [1e-3], "LHFCALC": [True], "ADDGRID": [True]}
PHYSICS |= {"NELM": [20], "ALGO": ["Normal"], "ISIF": [4], "AMIX": [0.1], "A_TAG_OF_A_LATER_VASP": [3]}


def magnesia() -> Structure:
    return Structure(Lattice([[0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0]]), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def written(folder: Path, preset: Preset = Preset.CONDITIONAL_GENERATION) -> WrittenInputs:
    return write_inputs(magnesia(), preset, folder, {}, "c-1", CONFIG)


def drawn(rng: random.Random, tags: dict[str, list[Any]], most: int) -> dict[str, Any]:
    return {tag: rng.choice(tags[tag]) for tag in rng.sample(sorted(tags), rng.randrange(most + 1))}


@pytest.fixture(autouse=True)
def no_pseudopotentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)
    for name in ("ATOMATE2_VASP_INCAR_UPDATES", "ATOMATE2_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)


def apply_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """atomate2's settings as it would read them at import, from the environment as it is now."""
    fresh = Atomate2Settings()
    monkeypatch.setattr(dft.inputs.user_settings, "SETTINGS", fresh)
    monkeypatch.setattr(atomate2.vasp.files, "SETTINGS", fresh)


def test_the_digest_of_the_files_changes_if_and_only_if_a_tag_of_physics_does(tmp_path: Path) -> None:
    rng = random.Random(14)
    written(tmp_path / "c")
    before = Incar.from_file(tmp_path / "c" / "INCAR")
    digest = written_digest(tmp_path / "c")
    seen = set()
    for number in range(120):
        tags = {**before, **drawn(rng, PARALLEL, 4), **(drawn(rng, PHYSICS, 3) if number % 2 else {})}
        if number % 3 == 0 and (left_out := rng.choice(sorted(before))) not in ("MAGMOM", "LWAVE"):
            tags.pop(left_out, None)
        lines = [line for line in Incar(tags).get_str().splitlines() if line]
        rng.shuffle(lines)
        text = "".join(
            f"{' ' * rng.randrange(3)}{line.replace(' = ', rng.choice(['=', ' =  ']))}  # note\n" for line in lines
        )
        (tmp_path / "c" / "INCAR").write_text(f"# {number}\n{text}")
        after = Incar.from_file(tmp_path / "c" / "INCAR")
        names = {tag for tag in set(before) | set(after) if before.get(tag) != after.get(tag)} - set(PARALLEL)
        assert (written_digest(tmp_path / "c") != digest) == bool(names), names
        seen.add(bool(names))
    assert seen == {True, False}


def test_a_mesh_or_a_pseudopotential_changes_the_digest_and_a_comment_does_not(tmp_path: Path) -> None:
    written(tmp_path / "c")
    place, digest = tmp_path / "c", written_digest(tmp_path / "c")
    mesh = Kpoints.from_file(place / "KPOINTS")
    mesh.comment = "another one"
    mesh.write_file(str(place / "KPOINTS"))
    assert written_digest(place) == digest
    found = {digest}
    for divisions, shift in (((2, 3, 4), (0, 0, 0)), ((2, 3, 4), (0.5, 0, 0)), ((4, 3, 2), (0, 0, 0))):
        Kpoints.gamma_automatic(divisions, shift).write_file(str(place / "KPOINTS"))
        found.add(written_digest(place))
    (place / "POTCAR.spec").write_text("Mg_pv\nO")
    found.add(written_digest(place))
    (place / "POTCAR.functional").write_text("PBE_52\n")
    found.add(written_digest(place))
    assert len(found) == 6


def test_updates_from_outside_are_refused_if_and_only_if_they_change_physics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(41)
    presets = [Preset.CONDITIONAL_GENERATION, Preset.MP_RELAX, Preset.VDW]
    clean = {preset: written(tmp_path / preset.value, preset) for preset in presets}
    incars = {preset: Incar.from_file(result.folder / "INCAR") for preset, result in clean.items()}
    n_refused = 0
    for number in range(30):
        preset = rng.choice(presets)
        parallel = drawn(rng, PARALLEL, 4)
        physics = drawn(rng, PHYSICS, 3) if number % 2 else {}
        own = {
            tag: incars[preset][tag] for tag in rng.sample(["ENCUT", "ISPIN", "PREC"], 2)
        }  # says what it says anyway
        updates = {**own, **parallel, **physics}
        updates = {rng.choice([str.upper, str.lower])(tag): value for tag, value in updates.items()}
        monkeypatch.setenv("ATOMATE2_VASP_INCAR_UPDATES", json.dumps(updates))
        apply_settings(monkeypatch)
        folder = tmp_path / str(number)
        if physics:
            n_refused += 1
            with pytest.raises(InputsError, match="ATOMATE2_VASP_INCAR_UPDATES sets ") as caught:
                written(folder, preset)
            stated = str(caught.value).partition(" sets ")[2].partition(", where preset")[0]
            assert {one.partition(" = ")[0] for one in stated.split(", ")} == set(physics)
            assert not folder.exists()
            continue
        result = written(folder, preset)
        after = Incar.from_file(folder / "INCAR")
        assert {tag: after[tag] for tag in parallel} == parallel
        assert {t: v for t, v in after.items() if t not in parallel} == incars[preset]
        lineage = [json.loads((place / "lineage.json").read_text()) for place in (folder, tmp_path / preset.value)]
        assert lineage[0]["inputs"]["settings_sha256"] == lineage[1]["inputs"]["settings_sha256"]
        assert result.flow_uuid == clean[preset].flow_uuid
        noted = " ".join(result.notes)
        assert all(f"{tag} = " in noted for tag in parallel)
    assert n_refused > 5


def test_the_file_in_the_home_folder_counts_too_and_the_remedy_named_for_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".atomate2.yaml").write_text("VASP_INCAR_UPDATES:\n  ISPIN: 1\n  NCORE: 4\n")
    apply_settings(monkeypatch)
    with pytest.raises(InputsError) as caught:
        written(tmp_path / "c")
    assert f"VASP_INCAR_UPDATES of {tmp_path / '.atomate2.yaml'} sets ISPIN = 1, where preset" in str(caught.value)
    assert "set ATOMATE2_VASP_INCAR_UPDATES='{}' for this command" in str(caught.value)
    monkeypatch.setenv("ATOMATE2_VASP_INCAR_UPDATES", "{}")
    apply_settings(monkeypatch)
    assert written(tmp_path / "c").files["INCAR"]
    monkeypatch.delenv("ATOMATE2_VASP_INCAR_UPDATES")
    other = tmp_path / "elsewhere.yaml"
    other.write_text("VASP_INCAR_UPDATES:\n  ENCUT: 250\n")
    monkeypatch.setenv("ATOMATE2_CONFIG_FILE", str(other))
    apply_settings(monkeypatch)
    with pytest.raises(InputsError, match=f"VASP_INCAR_UPDATES of {other} sets ENCUT = 250"):
        written(tmp_path / "d")


@pytest.mark.parametrize("preset", [Preset.MP_RELAX, Preset.DP_CDVAE])
def test_a_flow_taken_to_another_machine_takes_no_tag_from_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: Preset
) -> None:
    written(tmp_path / "c", preset)
    flow = MontyDecoder().decode((tmp_path / "c" / "flow.json").read_text())
    monkeypatch.setenv("ATOMATE2_VASP_INCAR_UPDATES", '{"ENCUT": 250, "ISPIN": 1}')
    apply_settings(monkeypatch)
    for number, job in enumerate(flow.jobs):
        generator, options = job.maker.input_set_generator, job.maker.write_input_set_kwargs
        place = tmp_path / str(number)
        write_vasp_input_set(magnesia(), generator, place, potcar_spec=True, clean_prev=False, **options)
        assert Incar.from_file(place / "INCAR") == Incar.from_file(tmp_path / "c" / "INCAR")


def test_pseudopotentials_of_another_functional_than_their_family_s_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for family, functional in (("right", "PE"), ("wrong", "CA")):
        for symbol in ("Mg", "O"):
            place = tmp_path / "psp" / family / symbol
            place.mkdir(parents=True)
            (place / "POTCAR").write_text(
                f"  PAW {symbol} 01Jan2000\n   6.0\n parameters from PSCTR are:\n   VRHFIN ={symbol}: s2\n"
                f"   LEXCH  = {functional}\n   EATOM  =   100.0 eV,   7.0 Ry\n\n   TITEL  = PAW {symbol} 01Jan2000\n"
                "   LULTRA =        F    use ultrasoft PP ?\n   RCORE  =    1.5    outmost cutoff radius\n"
                "   POMASS =   10.0; ZVAL   =    6.000    mass and valenz\n   ENMAX  =  400.000; ENMIN  =  300.000 eV\n"
                "   END of PSCTR-controll parameters\n local part\n  0.1 0.2\n End of Dataset\n"
            )
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "psp"))
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_SUB_DIRS", {"PBE_54": "right"})
    assert written(tmp_path / "c").has_potcar
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_SUB_DIRS", {"PBE_54": "wrong"})
    with pytest.raises(
        InputsError, match=r"POTCARs of Mg \(CA\), O \(CA\) state another functional than family PBE_54"
    ):
        written(tmp_path / "d")


def test_a_tag_that_came_in_by_another_way_is_refused_as_not_the_preset_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a later atomate2 read its updates from elsewhere: what is written is compared, not what was asked for."""
    fresh = Atomate2Settings(VASP_INCAR_UPDATES={"PREC": "Normal", "LASPH": False})
    monkeypatch.setattr(atomate2.vasp.files, "SETTINGS", fresh)
    message = r"LASPH = False \(expected True\), PREC = NORMAL \(expected ACCURATE\), which is not preset cond"
    with pytest.raises(InputsError, match=message):
        written(tmp_path / "c")
