"""The stages of a run on made candidates, one by one: `python -m tests.benchmarks.load_stages STAGE FOLDER N`.

Each goes through the functions that the flow's tasks call, on the files the stage before it left, and prints one line
of JSON: seconds by the clock and of the processor, peak memory, and what it made. Sampling and relaxation, whose cost
is the networks' and grows with the number of crystals, are replaced: candidates are made (made_candidates), and relaxed
tables hold crystals moved a little, with energies drawn.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.schema import DiscoverConfig, load
from generative.crystal.crystals import Crystal, crystals_of, structure_columns
from tasks.discover.candidates import RELAXED
from tasks.discover.known import choose_references, ingest_known
from tasks.discover.phonons import candidates_file
from tasks.discover.rank import rank_file
from tasks.discover.relax import survivors
from tasks.discover.report import _report_parts, gather, write_run_report
from tasks.discover.run import RunFolder, open_run, update_manifest
from tasks.discover.screen import screen_chunk_file, unique_file
from tasks.files import FileRef, write_table
from tasks.loading import PotentialIdentity
from tests.benchmarks.made_candidates import made_candidates

STAGES = ("make", "screen", "unique", "relax", "rank", "report", "export")
CHUNK = 5000
METHOD = "made energies"
IDENTITY = PotentialIdentity(name="made", method=METHOD, fingerprint="0" * 64, notes=())
SHARE_FAILED = 0.02
MOVED_ANG = 0.05


def settings(folder: Path, n: int) -> DiscoverConfig:
    """The quickstart's with this many candidates, below `folder`."""
    shipped = load(DiscoverConfig, "quickstart")
    sample = shipped.sample.model_copy(update={"n_candidates": n, "chunk_size": CHUNK})
    execution = shipped.execution.model_copy(update={"runs_folder": str(folder)})
    return shipped.model_copy(update={"name": "load", "sample": sample, "execution": execution})


def relaxed_table(table: pa.Table, seed: int) -> pa.Table:
    """As if relaxed: crystals moved a little, made energies, some failures; columns RELAXED."""
    rng = np.random.default_rng(seed)
    final: list[Crystal | None] = []
    for crystal in crystals_of(table):
        assert crystal is not None
        moved = MOVED_ANG * rng.normal(size=crystal.frac.shape) @ np.linalg.inv(crystal.lattice_ang)
        frac = np.mod(crystal.frac + moved, 1)
        kept = rng.random() > SHARE_FAILED
        final.append(Crystal(crystal.lattice_ang, frac, crystal.atomic_numbers) if kept else None)
    n = len(table)
    energies = -0.6 + rng.exponential(0.25, n)
    columns: dict[str, Any] = {
        "id": table.column("id").to_pylist(),
        "formula": table.column("formula").to_pylist(),
        "relax_status": ["failed" if c is None else "converged" for c in final],
        "relax_reason": ["the made relaxation failed" if c is None else None for c in final],
        "relax_steps": rng.integers(1, 200, n).tolist(),
        "energy_ev_per_atom": [None if c is None else float(e) for c, e in zip(final, energies, strict=True)],
        "generated_energy_ev_per_atom": (energies + rng.exponential(0.1, n)).tolist(),
        "fmax_ev_per_ang": rng.uniform(0, 0.05, n).tolist(),
        "max_stress_gpa": rng.uniform(0, 0.5, n).tolist(),
        "energy_method": [METHOD] * n,
        **structure_columns(final, "relaxed_"),
    }
    schema = pa.schema(RELAXED)
    return pa.table([pa.array(columns[f.name], type=f.type) for f in schema], schema=schema)


def relaxed_phases(phases: pa.Table) -> pa.Table:
    """The competing phases as they are stored, at their stated formation energies, elements at zero."""
    table = relaxed_table(phases, 0)
    stated = [energy or 0.0 for energy in phases.column("formation_energy_ev_per_atom").to_pylist()]
    crystals = structure_columns(crystals_of(phases), "relaxed_")
    own = {"energy_ev_per_atom": pa.array(stated, pa.float64()), "relax_status": pa.array(["converged"] * len(table))}
    columns = [{**own, **crystals}.get(f.name, table.column(f.name)) for f in RELAXED]
    return pa.table(columns, schema=pa.schema(RELAXED))


def chunk_files(run: RunFolder, stage: str) -> list[FileRef]:
    """The chunks a stage left, in order."""
    return [FileRef.of(path) for path in sorted((run.path / stage).glob("*.parquet"))]


def work(stage: str, config: DiscoverConfig, run: RunFolder) -> dict[str, Any]:
    """Do one stage; what it made."""
    folder, known = run.path, run.dataset / "dataset.parquet"
    references = folder / "relaxed-references.parquet"
    if stage == "make":
        ingested = ingest_known(config, folder, IDENTITY)
        write_table(relaxed_phases(choose_references(config, folder, ingested).read()), references)
        for number, table in enumerate(made_candidates(config.sample.n_candidates, config.seed, CHUNK)):
            write_table(table, run.chunk("sample", number))
        return {}
    if stage == "screen":
        dataset = FileRef.of(known)
        done = [screen_chunk_file(config, folder, sampled, dataset) for sampled in chunk_files(run, "sample")]
        return {"n_passed": sum(pq.read_table(d.path, columns=["rejected_by"]).column(0).null_count for d in done)}
    if stage == "unique":
        ref = unique_file(config, folder, chunk_files(run, "screen"))
        return {"n_unique": pq.read_table(ref.path, columns=["rejected_by"]).column(0).null_count}
    if stage == "relax":
        alive = survivors(pq.read_table(folder / "screened.parquet"))
        for number, first in enumerate(range(0, len(alive), CHUNK)):
            write_table(relaxed_table(alive.slice(first, CHUNK), 1 + number), run.chunk("relax", number))
        return {}
    competing = [FileRef.of(references)]
    if stage == "rank":
        screened = FileRef.of(folder / "screened.parquet")
        ranked = rank_file(config, folder, IDENTITY, FileRef.of(known), screened, chunk_files(run, "relax"), competing)
        ranks = candidates_file(folder, ranked, []).read().column("rank")
        return {"n_ranked": len(ranks) - ranks.null_count}
    return report(config, run, competing)


def report(config: DiscoverConfig, run: RunFolder, competing: list[FileRef]) -> dict[str, Any]:
    """The page, the CIFs, and the texts of the artifacts, as the report's task makes them."""
    from tasks.report.run.artifacts import fitting_rows
    from tasks.report.run.markdown import markdown_report
    from tasks.report.run.tables import candidate_rows

    candidates = FileRef.of(run.candidates)
    update_manifest(run, report=_report_parts(IDENTITY, candidates, competing, []), generator_sha256="0" * 64)
    gathered = gather(config, run.path, IDENTITY, candidates, competing, [], {})
    page = write_run_report(gathered, run, candidates.read(), [], {})
    rows, _ = fitting_rows(candidate_rows(gathered.candidates))
    return {
        "page_mb": page.stat().st_size / 1e6,
        "artifacts_kb": (len(markdown_report(gathered).encode()) + len(json.dumps(rows).encode())) / 1e3,
        "n_cifs": sum(1 for _ in (run.path / "cifs").rglob("*.cif")),
    }


def exported(folder: Path) -> dict[str, Any]:
    """The run as OPTIMADE's JSON lines."""
    from tasks.optimade.export import export

    return {"export_mb": export(folder, folder / "candidates.jsonl").file.stat().st_size / 1e6}


def main(stage: str, folder: Path, n: int) -> None:
    """Do one stage and print what it took."""
    config = settings(folder, n)
    wall, cpu = time.perf_counter(), time.process_time()
    if stage == "export":  # refuses a run that is in progress
        made = exported(folder / config.name)
    else:
        with open_run(config) as run:
            made = work(stage, config, run)
    taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    print(json.dumps({**taken, "peak_mb": peak, **made}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
