"""A potential's folder from elsewhere is data: whatever its files name, nothing of it runs, and it is said by name."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dft.potentials.errors import PotentialError
from dft.potentials.loading import load_potential
from dft.potentials.matgl import load_matgl
from tests.dft.potentials.test_potentials import MATGL_NAMES, MODELS, needs_models
from tests.foreign_payloads import Trap, places, with_value
from tests.fuzzing import Fuzz


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained potential of matgl's own making; small, and of elements of no known crystal, so soon refused."""
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    torch.manual_seed(0)
    model = M3GNet(element_types=("He", "Ne"), units=8, nblocks=1, dim_node_embedding=8, dim_edge_embedding=8)
    folder = tmp_path_factory.mktemp("genuine") / "M3GNet-PES"
    Potential(model, data_std=2.0, element_refs=np.array([0.5, -1.0])).save(folder, metadata={"by": ["nobody"]})
    return folder


def spoil(folder: Path, trap: Trap, rng: np.random.Generator) -> str:
    """Put a payload into one of the files, at one of the places; the file's name."""
    ways = {"json": 0.3, "arguments": 0.3, "pickle": 0.1, "archived pickle": 0.1, "object": 0.1, "script": 0.1}
    how = rng.choice(list(ways), p=list(ways.values()))
    name = str(rng.choice(["model.pt", "state.pt"]))
    if how == "json":
        stated = json.loads((folder / "model.json").read_text())
        if rng.random() < 0.3:
            payload = trap.named(rng)
            stated |= {key: payload[key] for key in ("@module", "@class") if key in payload}
            stated["@class"] = payload.get("@class", payload.get("@callable"))
        else:
            at = places(stated)
            stated = with_value(stated, at[int(rng.integers(len(at)))], trap.named(rng))
        (folder / "model.json").write_text(json.dumps(stated))
        return "model.json"
    if how == "arguments":
        stated = torch.load(folder / "model.pt", weights_only=True)
        at = places(stated)
        torch.save(with_value(stated, at[int(rng.integers(len(at)))], trap.named(rng)), folder / "model.pt")
        return "model.pt"
    if how == "pickle":
        (folder / name).write_bytes(trap.pickled(rng))
    elif how == "archived pickle":
        repacked(folder / name, trap.pickled(rng))
    elif how == "object":
        stated = torch.load(folder / name, weights_only=True)
        at = [place for place in places(dict(stated))]
        chosen = at[int(rng.integers(len(at)))]
        spoilt = with_value(dict(stated), chosen, trap.reducing())
        torch.save(spoilt, folder / name, pickle_protocol=int(rng.integers(2, 6)))
    else:
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / name)
    return name


def repacked(file: Path, content: bytes) -> None:
    """Another pickle in an archive of torch.save's."""
    whole = zipfile.ZipFile(io.BytesIO(file.read_bytes()))
    with zipfile.ZipFile(file, "w") as archive:
        for one in whole.infolist():
            archive.writestr(one.filename, content if one.filename.endswith("/data.pkl") else whole.read(one))


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
def test_nothing_in_a_potentials_folder_is_run(fuzz: Fuzz, trap: Trap, genuine: Path, tmp_path: Path) -> None:
    for rng in fuzz.cases(60):
        trap.reset()
        folder = tmp_path / "copy"
        shutil.copytree(genuine, folder)
        name = spoil(folder, trap, rng)
        try:
            load_potential(str(folder), fallback="CHGNet", search=[])
            said = "loaded"
        except PotentialError as error:
            said = str(error)
        except Exception as error:
            said = f"{type(error).__name__} {error}"
        is_said = f"is refused: {name} " in said and "nothing of it was run" in said and "\n" not in said
        if trap.has_sprung or not is_said:
            fuzz.failed(f"{name}, {trap.has_sprung=}: {said}")
        else:
            fuzz.ended("refused by name")
        shutil.rmtree(folder)


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_potentials_folder_is_one_sentence(fuzz: Fuzz, genuine: Path, tmp_path: Path) -> None:
    for rng in fuzz.cases(20):
        folder = tmp_path / "copy"
        shutil.copytree(genuine, folder)
        file = folder / str(rng.choice(["model.json", "model.pt", "state.pt"]))
        content = bytearray(file.read_bytes())
        if rng.random() < 0.3:
            del content[int(rng.integers(len(content))) :]
        else:
            for _ in range(int(rng.integers(1, 20))):
                content[int(rng.integers(len(content)))] = int(rng.integers(256))
        file.write_bytes(content)
        try:
            load_potential(str(folder), fallback="CHGNet", search=[])
            fuzz.failed(f"{file.name}: an untrained potential was taken")
        except PotentialError as error:
            if "\n" in str(error):
                fuzz.failed(f"{file.name}: {error}")
            fuzz.ended("refused by name" if "is refused: " in str(error) else "refused")
        except Exception as error:
            fuzz.failed(f"{file.name}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)


@pytest.mark.filterwarnings("ignore")
def test_the_payloads_do_run_where_nothing_keeps_them_from_it(trap: Trap, genuine: Path, tmp_path: Path) -> None:
    """Else the tests above could not fail: matgl's loader imports what is named, and an open unpickler runs."""
    import matgl

    rng = np.random.default_rng(1)
    folder = tmp_path / "copy"
    shutil.copytree(genuine, folder)
    stated = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**stated, "@module": trap.module(rng), "@class": "Trap"}))
    with pytest.raises(RuntimeError):
        matgl.load_model(folder)
    assert trap.has_sprung
    n_ran = 0
    for _ in range(40):
        trap.reset()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.system", lambda command: trap.mark.touch())
            with contextlib.suppress(Exception):
                pickle.loads(trap.pickled(rng))
        n_ran += trap.has_sprung
    assert n_ran >= 30


def test_a_hub_download_is_read_like_a_folder(
    trap: Trap, genuine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot of the hub is links into a store; the loader sees the same three files."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    shutil.copytree(genuine, blobs)
    snapshot.mkdir()
    spoilt = json.loads((blobs / "model.json").read_text())
    spoilt["kwargs"]["model"] |= {"@module": "os", "@class": "system"}
    (blobs / "model.json").write_text(json.dumps(spoilt))
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../blobs") / file.name)

    def downloaded(repository: str, name: str, cache_dir: str) -> str:
        return str(snapshot / name)

    monkeypatch.setattr("dft.potentials.matgl._hub_problem", lambda repository: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", downloaded)
    with pytest.raises(
        PotentialError, match=r"hub \(somebody/M3GNet-PES\)\) is refused: model.json names the class os"
    ):
        load_potential("somebody/M3GNet-PES", fallback="CHGNet", search=[])


def test_a_file_changed_after_the_check_is_not_read_again(
    genuine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dft.potentials import files as potential_files

    folder = tmp_path / "copy"
    shutil.copytree(genuine, folder)
    read = potential_files._bytes

    def read_and_spoilt(file: Path) -> bytes:
        content = read(file)
        file.write_bytes(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.")
        return content

    monkeypatch.setattr(potential_files, "_bytes", read_and_spoilt)
    assert energies(load_matgl(folder)) == energies(load_matgl_s_own_way(genuine))


def test_a_genuine_folder_gives_what_matgl_s_own_loader_gives(genuine: Path) -> None:
    assert energies(load_matgl(genuine)) == energies(load_matgl_s_own_way(genuine))


@needs_models
@pytest.mark.parametrize("name", MATGL_NAMES)
def test_published_potentials_give_what_matgl_s_own_loader_gives(name: str) -> None:
    ours, theirs = load_matgl(MODELS / name), load_matgl_s_own_way(MODELS / name)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor), key
    assert energies(ours, ("Mg", "O")) == energies(theirs, ("Mg", "O"))


@pytest.mark.filterwarnings("ignore")
def load_matgl_s_own_way(folder: Path) -> Any:
    import matgl

    return matgl.load_model(folder).eval()


def energies(potential: Any, species: tuple[str, str] = ("He", "Ne")) -> list[float]:
    """Energies of two crystals, by matgl's own calculator."""
    from ase import Atoms
    from matgl.ext.ase import PESCalculator

    found = []
    for length in (3.0, 3.4):
        atoms = Atoms(species, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.48]], cell=[length] * 3, pbc=True)
        atoms.calc = PESCalculator(potential)
        found.append(float(atoms.get_potential_energy()))
    return found
