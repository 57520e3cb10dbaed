"""A judge on a whole run: its hull against pymatgen's of its own energies, final ranks, nothing computed twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition

from dft.potentials.registry import REGISTRY
from dft.potentials.relaxation import relax
from generative.crystal.crystals import crystals_of
from tasks.loading import potential
from tests.flows.judges import PLACES

N_BEST, STEPS = 3, 2


@pytest.fixture(scope="module")
def known_judges() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, place in PLACES.items():
            patch.setitem(REGISTRY.places, name, place)
        yield


def judge_config(finished: Any, runs: Path, name: str = "tiny", **judge: Any) -> Any:
    """The finished run's settings below `runs`, with a judge."""
    stated = finished.config.model_dump()
    stated["name"] = name
    stated["execution"]["runs_folder"] = str(runs)
    stated["judge"] = {"potential": "Steeper", "n_best": N_BEST, "steps_max": STEPS, "chunk_size": 4, **judge}
    return type(finished.config).model_validate(stated)


def judged_run(finished: Any, discover: Any, runs: Path, **judge: Any) -> Any:
    """The finished run's folder once more, with a judge."""
    if not runs.is_dir():
        shutil.copytree(finished.folder.parent, runs)
    return discover(judge_config(finished, runs, **judge))


@pytest.fixture(scope="module")
def judged(known_judges: None, finished: Any, discover: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return judged_run(finished, discover, tmp_path_factory.mktemp("judged") / "runs", phases_within_ev_per_atom=1.0)


def said_by(run: Any, task: str) -> list[str]:
    return [message for name, message in run.log.said if name.startswith(task)]


def table_of_run(run: Any) -> pa.Table:
    return pq.read_table(run.folder / "candidates.parquet")


def test_the_judges_hull_is_pymatgens_of_its_own_energies(judged: Any) -> None:
    """Everything again apart from the stage: first relaxations from the run's files, a few steps, a phase diagram."""
    by_judge = judged.config.relaxed_by("Steeper")
    loaded = potential(by_judge.relax, by_judge.execution)
    files = sorted((judged.folder.parent / ".references").glob("*.parquet"))
    phases = pa.concat_tables([pq.read_table(file) for file in files])
    structures = [c.to_structure() for c in crystals_of(phases, "relaxed_") if c is not None]
    entries = []
    for structure, done in zip(structures, relax(structures, loaded, by_judge.relax), strict=True):
        entries.append(PDEntry(structure.composition, done.energy_ev_per_atom * len(structure)))
    diagram = PhaseDiagram(entries)
    table = table_of_run(judged)
    rows = table.to_pylist()
    best = [row for row in rows if row["judge_method"]]
    assert len(best) == N_BEST
    for row, crystal in zip(rows, crystals_of(table, "relaxed_"), strict=True):
        if row["judge_method"] is None:
            continue
        (done,) = relax([crystal.to_structure()], loaded, by_judge.relax)
        entry = PDEntry(Composition(row["formula"]), done.energy_ev_per_atom * Composition(row["formula"]).num_atoms)
        above = diagram.get_e_above_hull(entry, allow_negative=True)
        assert row["judge_e_above_hull_ev_per_atom"] == pytest.approx(above, abs=1e-5)
        formation = diagram.get_form_energy_per_atom(entry)
        assert row["judge_formation_energy_ev_per_atom"] == pytest.approx(formation, abs=1e-5)
        assert row["opinion_change_ev_per_atom"] == pytest.approx(above - row["e_above_hull_ev_per_atom"], abs=1e-5)
        assert row["judge_relax_steps"] == STEPS
        assert row["near_hull_probability"] is row["opinions_agree"] is None  # nothing is known of its errors
