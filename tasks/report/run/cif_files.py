"""The CIF files of a run's ranked candidates."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from storage.atomic import write_text
from tasks.discover.candidates import Proposer
from tasks.report.run.model import ReportCandidate
from tasks.report.run.summary import prototype_name

REFINE_TOLERANCE_ANG = 0.1
"""Symmetry tolerance of the refined CIFs; the Materials Project uses the same for relaxed crystals."""

MOST_IN_ONE_FOLDER = 2000
"""Ranked candidates up to which all CIFs lie in one folder, each with a symmetrised twin."""

PER_FOLDER = 1000
"""Ranks per folder beyond that."""


def cif_path(rank: int, formula: str, name: str, n_ranked: int) -> str:
    """Where the CIF of a ranked candidate lies, relative to the run folder.

    In one folder, as cifs/<rank>-<formula>-<id>.cif; beyond MOST_IN_ONE_FOLDER in folders of PER_FOLDER ranks each, the
    first as cifs/0001-1000/.

    Args:
        rank: from 1.
        formula: reduced.
        name: the candidate's id.
        n_ranked: ranked candidates of the run.
    """
    digits = max(4, len(str(n_ranked)))
    file = f"{rank:0{digits}d}-{formula}-{name}.cif"
    if n_ranked <= MOST_IN_ONE_FOLDER:
        return f"cifs/{file}"
    first = rank - (rank - 1) % PER_FOLDER
    return f"cifs/{first:0{digits}d}-{first + PER_FOLDER - 1:0{digits}d}/{file}"


def remove_cifs(folder: Path) -> None:
    """Remove the CIFs of a run, which may have been written for other ranks, and the folders this leaves empty."""
    for old in (folder / "cifs").rglob("*.cif"):
        old.unlink()
    for emptied in (folder / "cifs").glob("*-*/"):
        if not any(emptied.iterdir()):
            emptied.rmdir()


def write_cifs(
    candidates: Iterable[ReportCandidate],
    folder: Path,
    lineage: Mapping[str, str] | None = None,
    n_symmetrised: int | None = None,
) -> list[Path]:
    """Write each candidate's CIF at its `cif_path` below the run folder, with its lineage as comments.

    The cell is written as relaxed, in P1. Where spglib finds a symmetry, a refined twin stands beside it, with
    `_symmetrised` in its name. The data block is named by the candidate's id.

    Args:
        candidates: those without a cif_path go to cifs/<id>.cif.
        folder: the run folder.
        lineage: more comment lines, such as checkpoint and dataset digests, the same for all.
        n_symmetrised: so many leading candidates get a refined twin, which takes ten times as long; None for all.
    Returns: The files as relaxed, in the order given.
    Raises: ValueError: if a cif_path leaves the folder.
    """
    written = []
    for number, candidate in enumerate(candidates):
        relative = PurePosixPath(candidate.cif_path or f"cifs/{candidate.id}.cif")
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"cif_path of {candidate.id} is {str(relative)!r}, expected a path inside the run folder")
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        comments = _comments(candidate, lineage or {})
        write_text(target, cif_text(candidate.structure, candidate.id, [*comments, "cell: as relaxed, P1"]))
        refined = None if n_symmetrised is not None and number >= n_symmetrised else _refined(candidate)
        if refined is not None:
            note = f"cell: conventional, symmetrised within {REFINE_TOLERANCE_ANG} A; not exactly as relaxed"
            twin = target.with_name(f"{target.stem}_symmetrised.cif")
            write_text(twin, _headed(refined, f"{candidate.id}_symmetrised", [*comments, note]))
        written.append(target)
    return written


def cif_text(structure: Structure, name: str, comments: Sequence[str] = ()) -> str:
    """A P1 CIF whose data block is `name`, led by comment lines."""
    return _headed(str(CifWriter(structure)), name, comments)


def _headed(text: str, name: str, comments: Sequence[str]) -> str:
    block = re.sub(r"[^\x21-\x7e]", "_", name) or "crystal"
    body = re.sub(r"(?m)^data_.*$", lambda _: f"data_{block}", text, count=1)
    lines = ["# " + " ".join(comment.split()) for comment in comments]
    return "\n".join([*lines, body.rstrip("\n"), ""])


def _refined(candidate: ReportCandidate) -> str | None:
    """The symmetrised CIF, or None if there is no symmetry to speak of or none can be found."""
    if candidate.spacegroup_number is not None and candidate.spacegroup_number <= 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(CifWriter(candidate.structure, symprec=REFINE_TOLERANCE_ANG, refine_struct=True))
        except Exception:  # spglib and pymatgen raise a dozen types here; the P1 file is complete without this one
            return None


def _comments(candidate: ReportCandidate, lineage: Mapping[str, str]) -> list[str]:
    def energy(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.4f} eV/atom (screening energy, not DFT)"

    # A prototype was not drawn: neither generator nor seed lead to it; nor do generators that drew others.
    skipped = {"seed"} if candidate.proposed_by == Proposer.PROTOTYPE else set()
    skipped |= {key for key in lineage if key.startswith(Proposer.GENERATOR)} - {f"{candidate.proposed_by} sha256"}
    return [
        f"Hullward candidate {candidate.id}, rank {candidate.rank}, {candidate.formula}",
        f"energy above hull: {energy(candidate.e_above_hull_ev_per_atom)}",
        f"formation energy: {energy(candidate.formation_energy_ev_per_atom)}",
        f"relaxation: {candidate.relax_status} after {candidate.relax_steps} steps",
        f"in a database: {candidate.known_match or 'not in the data set'}",
        f"proposed by: {candidate.proposed_by}; prototype: {prototype_name(candidate) or 'like none'}",
        *(f"{key}: {value}" for key, value in sorted(lineage.items()) if key not in skipped),
        "lineage: the row of this id in candidates.parquet, and manifest.json of the run",
    ]
