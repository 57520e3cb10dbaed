"""The folder of a finished run, made of real crystals without running anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from generative.crystal.crystals import Crystal, wrap_unit
from generative.requests import Request
from storage.digests import file_digest
from tasks.discover.candidates import CANDIDATES, Stage, table_of
from tasks.files import write_table
from tests.servers.real import real_records

METHODS = ("CHGNet 0.4.2", "M3GNet (MatPES r2SCAN)")


def candidate_rows(n: int) -> list[dict[str, Any]]:
    """Candidates as a run leaves them: every fifth turned away, some of those relaxed and some not."""
    rows = []
    for index, record in enumerate(real_records(n)):
        relaxed = Crystal.from_structure(record.structure)
        shift = np.random.default_rng(index).uniform(-0.02, 0.02, relaxed.frac.shape)
        generated = replace(relaxed, frac=wrap_unit(relaxed.frac + shift))
        turned_away, exploded = index % 5 == 4, index % 10 == 9
        row = {
            "id": f"{index:016x}",
            "index": index,
            "formula": record.structure.composition.reduced_formula,
            "condition": Request.of(
                record.structure.composition.get_el_amt_dict(), record.spacegroup if index % 2 else None
            ).to_json(),
            "n_atoms": len(generated.frac),
            **_columns(generated, ""),
            "smact_valid": index % 3 == 0,
            "rejected_by": Stage.RELAXATION.value if turned_away else None,
            "reason": "the largest force grew to 812 eV/A" if turned_away else None,
            "relax_status": "exploded" if exploded else "converged",
        }
        if not exploded:
            row |= {
                **_columns(relaxed, "relaxed_"),
                "energy_ev_per_atom": -5.0 - index / 1000,
                "energy_method": METHODS[index % 2],
                "e_above_hull_ev_per_atom": record.e_above_hull_ev_per_atom,
                "formation_energy_ev_per_atom": record.formation_energy_ev_per_atom,
                "rms": None if index % 7 == 0 else 0.01 * index,
                "spacegroup": record.spacegroup,
            }
        rows.append(row)
    ranked = [row for row in rows if row["rejected_by"] is None]
    for rank, row in enumerate(sorted(ranked, key=lambda row: row["e_above_hull_ev_per_atom"]), start=1):
        row["rank"] = rank
    return sorted(rows, key=lambda row: row.get("rank") or 10**9)


def _columns(crystal: Crystal, prefix: str) -> dict[str, Any]:
    arrays = (crystal.lattice_ang.ravel(), crystal.frac.ravel(), crystal.atomic_numbers)
    return {
        f"{prefix}{name}": array
        for name, array in zip(("lattice_ang", "frac_coords", "atomic_numbers"), arrays, strict=True)
    }


def write_run(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Put these candidates into a run's folder, as finished; the folder."""
    table = folder / "candidates.parquet"
    write_table(table_of(rows, CANDIDATES), table)
    manifest = {
        "name": folder.name,
        "seed": 7,
        "settings": {"seed": 7},
        "generator_sha256": "ab" * 32,
        "code_sha256": "cd" * 32,
        "dataset": {"fingerprint_sha256": "ef" * 32},
        "report": {"candidates": file_digest(table)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "settings.json").write_text(json.dumps(manifest["settings"]), encoding="utf-8")
    return folder
