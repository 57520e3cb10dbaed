"""Crystals whose atoms the potential does not see, on their way through a campaign and an evaluation.

A spring potential stands in for trained weights where any potential will do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core.structure import Structure

from configs.evaluation import EvaluateConfig
from configs.modification import ModifyConfig
from configs.schema import DiscoverConfig
from dft.engines.base import EngineError, FaultKind
from dft.engines.config import PotentialEngineConfig
from dft.engines.potential import PotentialEngine
from dft.job_folder import Job, Purpose
from dft.potentials.loading import LoadedPotential
from generative.crystal.crystals import Crystal, structure_columns
from tasks.discover.candidates import MODIFIED, SCREENED
from tasks.discover.known import PotentialScorer
from tasks.discover.own_files import as_candidates
from tasks.discover.phases import phases_file
from tasks.discover.polymorphs import rank_polymorphs
from tasks.discover.rank import rank_file
from tasks.discover.relax import relax_table
from tasks.discover.report import hull_data, rejections_of
from tasks.evaluate.relaxation import static_energies
from tasks.evaluate.stages import evaluate
from tasks.files import FileRef, write_table
from tasks.loading import PotentialIdentity
from tests.dft.potentials.pair_potential import pairs
from tests.tasks.evaluate.test_evaluate import FACES, cubic, rows_of, stated, write_csv

SPARSE_AR = cubic(8.0, ["Ar"], [[0, 0, 0]])
DENSE_AR, DENSE_NE = cubic(2.7, ["Ar"], [[0, 0, 0]]), cubic(2.7, ["Ne"], [[0, 0, 0]])


@pytest.fixture
def springs(monkeypatch: pytest.MonkeyPatch) -> LoadedPotential:
    """The potential that every stage finds instead of trained weights."""
    loaded = pairs()
    monkeypatch.setattr("tasks.discover.relax.potential", lambda relax, execution: loaded)
    return loaded


def crystal_table(crystals: dict[str, Structure]) -> pa.Table:
    """Columns id, formula and crystal."""
    return as_candidates(
        pa.table(
            {
                "id": pa.array(list(crystals), pa.string()),
                **structure_columns([Crystal.from_structure(structure) for structure in crystals.values()]),
            }
        )
    )


def written(table: pa.Table, path: Path) -> FileRef:
    write_table(table, path)
    return FileRef.of(path)


def settings() -> DiscoverConfig:
    return DiscoverConfig(
        name="springs", elements=("Ar", "Ne"), conditions={"n_elements_min": 2}, relax={"max_steps": 100}
    )


def test_an_isolated_candidate_is_turned_away_with_its_reason_and_an_isolated_phase_leaves_the_hull(
    springs: LoadedPotential, tmp_path: Path
) -> None:
    mixed = {"dense": cubic(3.0, ["Ar", "Ne"], FACES[:2]), "sparse": cubic(9.0, ["Ar", "Ne"], FACES[:2])}
    given = crystal_table(mixed)
    screened = pa.table(
        {f.name: given.column(f.name) if f.name in given.column_names else pa.nulls(2, f.type) for f in SCREENED}
    )
    phases = {"ar": DENSE_AR, "ne-sparse": cubic(8.0, ["Ne"], [[0, 0, 0]])}
    relaxed = written(relax_table(given, settings()), tmp_path / "relaxed.parquet")
    references = written(relax_table(crystal_table(phases), settings()), tmp_path / "competing.parquet")
    identity = PotentialIdentity(name="springs", method=springs.method, fingerprint="0" * 64, notes=())
    drawn = written(screened, tmp_path / "screened.parquet")
    known = written(crystal_table(phases), tmp_path / "known.parquet")
    ranked = rank_file(settings(), tmp_path, identity, known, drawn, [relaxed], [references])
    rows = {row["id"]: row for row in ranked.read().to_pylist()}
    sparse, dense = rows["sparse"], rows["dense"]
    assert (sparse["relax_status"], sparse["rejected_by"], sparse["rank"]) == ("isolated", "relaxation", None)
    assert sparse["energy_ev_per_atom"] is None
    assert sparse["e_above_hull_ev_per_atom"] is None
    assert "2 of 2 atoms have no neighbour within the potential's cut-off of 4 A" in sparse["reason"]
    assert dense["rank"] == 1
    assert dense["e_above_hull_ev_per_atom"] is None
    assert dense["hull_note"].startswith("no elemental phase of Ne among the competing phases: ne-sparse has no energy")
    places = phases_file(settings(), tmp_path, known, [references]).read()
    _, notes = hull_data(places, references.read(), settings(), identity)
    assert any("gave no energy: ne-sparse; ne-sparse: after 0 steps, 1 of 1 atoms" in note for note in notes)
    (rejection,) = rejections_of(list(rows.values()))
    assert (rejection.reason, rejection.count) == ("isolated", 1)


def test_a_prototype_that_ends_isolated_is_no_scored_crystal() -> None:
    dense, sparse = PotentialScorer(pairs(), settings())([DENSE_AR, SPARSE_AR])
    assert dense.energy_ev_per_atom is not None
    assert sparse.structure is None
    assert "no neighbour within" in sparse.reason


def test_polymorphs_of_an_isolated_crystal_are_turned_away_since_it_has_no_energy(springs: LoadedPotential) -> None:
    sources = relax_table(crystal_table({"given": SPARSE_AR}), settings())
    table = crystal_table({"denser": DENSE_AR})
    columns = {f.name: table.column(f.name) for f in SCREENED if f.name in table.column_names}
    columns["source_id"] = pa.array(["given"], pa.string())
    fields = [*SCREENED, *MODIFIED]
    screened = pa.table(
        {f.name: columns[f.name] if f.name in columns else pa.nulls(1, f.type) for f in fields},
        schema=pa.schema(fields),
    )
    config = ModifyConfig(crystals=("given.cif",))
    (row,) = rank_polymorphs(sources, screened, relax_table(table, settings()), None, config).to_pylist()
    assert sources.column("relax_status").to_pylist() == ["isolated"]
    assert row["rejected_by"] == "source"
    assert "given itself could not be relaxed: after 0 steps, 1 of 1 atoms has no neighbour" in row["reason"]
    assert row["rank"] is None


@pytest.mark.parametrize("purpose", [Purpose.STATIC, Purpose.RELAXATION])
def test_a_job_of_the_potential_refuses_a_crystal_that_it_does_not_see(
    purpose: Purpose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("dft.engines.potential._loaded", lambda name, folders, device: pairs())
    config = PotentialEngineConfig(potential="springs")
    job = Job("key", config, SPARSE_AR, "c", purpose, {})
    with pytest.raises(EngineError, match=r"no neighbour within the potential's cut-off of 4 A.*8\.00 A") as caught:
        PotentialEngine(config).run(job, tmp_path)
    assert caught.value.kind is FaultKind.STRUCTURE_REFUSED


SPARSE = {
    "mg": cubic(15.0, ["Mg"], [[0, 0, 0]]),
    "tin": cubic(9.0, ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "csi": cubic(7.0, ["Cs", "I"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
}
"""Crystals whose atoms have no neighbour within CHGNet's 6 A."""


def test_samples_whose_atoms_the_potential_does_not_see_are_in_no_figure_of_energies(tmp_path: Path) -> None:
    dense = {"nial": cubic(2.89, ["Al", "Ni"], [[0, 0, 0], [0.5, 0.5, 0.5]])}
    lost_phase = {"sparse-al": cubic(9.0, ["Al"], [[0, 0, 0]]), "ni": cubic(3.52, ["Ni"] * 4, FACES)}
    write_csv(tmp_path / "samples.csv", rows_of(SPARSE | dense))
    write_csv(tmp_path / "train.csv", rows_of(lost_phase))
    config = EvaluateConfig(
        samples=str(tmp_path / "samples.csv"),
        train=str(tmp_path / "train.csv"),
        protocols=("sun",),
        elemental_prototypes=False,
        out=str(tmp_path / "out"),
        relax={"potential": "CHGNet", "fallback": None, "max_steps": 40},
        execution={"runs_folder": str(tmp_path / "runs"), "torch_threads": 1, "device": "cpu"},
    )
    report = evaluate(config)
    figures = stated(tmp_path / "out")
    assert (figures["ground state", "isolated"]["value"], figures["ground state", "isolated"]["n"]) == (75.0, 4)
    for name in ("match rate", "mean rms", "dE rms", "convergence rate", "mean steps"):
        assert figures["ground state", name]["n"] == 1
    assert "3 isolated samples left out" in figures["ground state", "match rate"]["reason"]
    assert figures["sun", "stable (<= 0.1 eV/atom)"]["value"] == 0.0
    assert any("3 of them ended isolated" in note for note in report.notes)
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "out" / "per_sample.parquet").to_pylist()}
    for name in SPARSE:
        assert rows[name]["ground state: isolated"]
        assert not rows[name]["ground state: converged"]
        assert rows[name]["ground state: rms"] is None
        assert "cut-off of 6 A" in rows[name]["relaxation: reason"]
    assert not rows["nial"]["ground state: isolated"]
    # The isolated phase of aluminium is no energy of aluminium: the hull has none, and says whose it lacks.
    assert (
        "no elemental phase of Al among the competing phases: train:sparse-al has" in rows["nial"]["relaxation: reason"]
    )
    energies, _ = static_energies([Crystal.from_structure(s) for s in (SPARSE | dense).values()], config)
    assert np.isnan(energies).tolist() == [True, True, True, False]
