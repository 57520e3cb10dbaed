"""What a folder of VASP outputs says: energies, steps, convergence, corrections, over all attempts of one job.

Final values come from emmet's TaskDoc, as atomate2 stores it. A TaskDoc knows the last start of VASP alone; steps taken
before custodian corrected an error, or before a kill, are counted from the files those left behind.

Signs and units: eV, eV/A, GPa; stress is positive under tension, so minus what VASP prints. VASP's stress and forces
are the crystal's own: an external pressure is not taken off.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from emmet.core.tasks import TaskDoc
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Poscar
from pymatgen.io.vasp.outputs import Vasprun

from dft.inputs.kpoints import KPointSampling, sampling_of_kpoints
from dft.inputs.presets import KBAR_PER_GPA
from dft.results import GPA_PER_EV_ANG3
from dft.structures import is_same_crystal
from storage.digests import file_digest

GPA_PER_KBAR = 1.0 / KBAR_PER_GPA

_PV_TOLERANCE_EV_PER_ATOM = 0.01
"""Entropy and rounding differ by less between an ionic step and its last electronic one; PV at 1 GPa by more."""

_ENTHALPY_LINE = re.compile(r"enthalpy is\s+TOTEN\s*=\s*(\S+)\s+eV\s+P V=\s*(\S+)")

_UNREADABLE = (SyntaxError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError, EOFError)
"""What pymatgen raises on a vasprun.xml that ends too early; the XML parsers' errors are SyntaxErrors."""


class OutputError(RuntimeError):
    """A folder whose VASP outputs cannot be read to the end."""


@dataclass(frozen=True)
class VaspRun:
    """One VASP job, all its starts taken together. n atoms.

    Attributes:
        version: VASP's own, such as '6.2.1'.
        structure: the final crystal.
        initial_structure: the crystal of the first start.
        energy_ev: total energy extrapolated to zero smearing, without PV.
        enthalpy_ev: E + PV at `pressure_gpa`.
        initial_energy_ev: energy of the initial structure, without PV; None if its electronic steps did not converge
            or are lost.
        pressure_gpa: external pressure (PSTRESS).
        forces_ev_per_ang: (n, 3).
        stress_gpa: (3, 3), positive under tension.
        n_ionic_steps: of all starts.
        n_electronic_steps: of all starts.
        has_converged_electrons: at the last ionic step.
        has_converged_ions: forces below EDIFFG, or no ionic steps asked for.
        wall_time_s: of the last start, as VASP measured it; None if it does not say.
        warnings: one sentence each.
        corrections: of custodian, one sentence each, in order.
        run_type: functional as emmet names it: 'GGA', 'GGA+U'.
        hubbards_ev: U by element; empty without.
        potcars: titles such as 'PAW_PBE Si 05Jan2001'.
        magmoms: moment of each atom, Bohr magnetons; None where OUTCAR has none (LORBIT not set).
        kpoints: of the last start, in the final cell; None where vasprun.xml states none.
        bandgap_ev: of the last start, at its own k-points; None where it cannot be told.
    """

    version: str
    structure: Structure
    initial_structure: Structure
    energy_ev: float
    enthalpy_ev: float
    initial_energy_ev: float | None
    pressure_gpa: float
    forces_ev_per_ang: np.ndarray
    stress_gpa: np.ndarray
    n_ionic_steps: int
    n_electronic_steps: int
    has_converged_electrons: bool
    has_converged_ions: bool
    wall_time_s: float | None
    warnings: tuple[str, ...]
    corrections: tuple[str, ...]
    run_type: str
    hubbards_ev: dict[str, float]
    potcars: tuple[str, ...]
    magmoms: tuple[float, ...] | None
    kpoints: KPointSampling | None
    bandgap_ev: float | None


@dataclass(frozen=True)
class _Start:
    """What one start of VASP left of its steps."""

    first_structure: Structure
    energies_ev: tuple[float, ...]
    enthalpies_ev: tuple[float, ...]
    n_electronic_steps: int
    has_converged_first: bool


def read_run(folder: Path, earlier: tuple[Path, ...] = ()) -> VaspRun:
    """Read one VASP job.

    Args:
        folder: the last attempt, finished: vasprun.xml, OUTCAR and CONTCAR, as they are or gzipped.
        earlier: folders of attempts that were killed, oldest first; whatever they hold is used.

    Raises:
        OutputError: if vasprun.xml, OUTCAR or CONTCAR of the last attempt is missing or ends too early.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen's, on missing POTCARs; it reports nothing else there
            last = _vasprun(_found(folder, "vasprun.xml"))
            task: Any = TaskDoc.from_directory(folder)
    except _UNREADABLE as error:
        raise OutputError(
            f"the VASP outputs in {folder} cannot be read ({type(error).__name__}: {error}): VASP was cut off while it "
            "wrote them, or the disk was full; run the job again"
        ) from error
    notes: list[str] = []
    starts = [*_earlier_starts(folder, earlier, notes), _start(last, _enthalpy_lines(folder), notes)]
    initial = _initial_structure(folder, earlier) or starts[0].first_structure
    final = task.calcs_reversed[0]
    step = final.output.ionic_steps[-1]
    stress_kbar = np.array(step.stress if step.stress is not None else np.full((3, 3), np.nan), dtype=float)
    overall = (task.run_stats or {}).get("overall")
    analysis = task.analysis
    return VaspRun(
        version=str(final.vasp_version),
        structure=last.final_structure,
        initial_structure=initial,
        energy_ev=starts[-1].energies_ev[-1],
        enthalpy_ev=starts[-1].enthalpies_ev[-1],
        initial_energy_ev=_initial_energy(starts, initial, notes),
        pressure_gpa=_pressure_gpa(last),
        forces_ev_per_ang=np.array(step.forces, dtype=float),
        stress_gpa=-stress_kbar * GPA_PER_KBAR,
        n_ionic_steps=sum(len(start.energies_ev) for start in starts),
        n_electronic_steps=sum(start.n_electronic_steps for start in starts),
        has_converged_electrons=bool(last.converged_electronic),
        has_converged_ions=bool(last.converged_ionic),
        wall_time_s=None if overall is None else float(overall.elapsed_time),
        warnings=tuple(dict.fromkeys([*(analysis.warnings or []), *(analysis.errors or []), *notes])),
        corrections=tuple(c for place in (*earlier, folder) for c in corrections(place)),
        run_type=str(final.run_type),
        hubbards_ev={str(k): float(v) for k, v in (final.input.hubbards or {}).items()},
        potcars=tuple(str(spec.titel) for spec in (task.input.potcar_spec or [])),
        magmoms=_magmoms(final.output.outcar, len(last.final_structure)),
        kpoints=sampling_of_kpoints(last.kpoints, last.final_structure.lattice),
        bandgap_ev=None if final.output.bandgap is None else float(final.output.bandgap),
    )


def has_converged_electrons(folder: Path) -> bool:
    """Whether the last ionic step in a folder ended before NELM; False where vasprun.xml is cut short or missing."""
    try:
        return bool(_vasprun(_found(folder, "vasprun.xml")).converged_electronic)
    except _UNREADABLE:
        return False


def corrections(folder: Path) -> tuple[str, ...]:
    """What custodian corrected in a folder, by its custodian.json: handler, errors, actions; empty without the file."""
    path = _found(folder, "custodian.json", required=False)
    if path is None:
        return ()
    with _opened(path) as stream:
        log = json.loads(stream.read())
    said = []
    for run in log:
        for correction in run.get("corrections") or []:
            handler = (correction.get("handler") or {}).get("@class", "custodian")
            errors = ", ".join(map(str, correction.get("errors") or ["no error named"]))
            actions = json.dumps(correction.get("actions"), sort_keys=True)
            said.append(f"{handler} found {errors}; changed {actions}")
    return tuple(said)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder and its subfolders, by path relative to it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def last_structure(folder: Path) -> Structure | None:
    """The crystal of CONTCAR, which VASP rewrites after each ionic step; None if there is none or it is cut short."""
    path = _found(folder, "CONTCAR", required=False)
    if path is None:
        return None
    try:
        with _opened(path) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Poscar.from_str(stream.read(), read_velocities=False).structure
    except _UNREADABLE:
        return None
    is_whole = np.isfinite(structure.frac_coords).all() and structure.volume > 0
    return structure if is_whole else None


def _magmoms(outcar: dict[str, Any] | None, n_atoms: int) -> tuple[float, ...] | None:
    moments = tuple(float(one["tot"]) for one in (outcar or {}).get("magnetization") or ())
    return moments if len(moments) == n_atoms else None


def _found(folder: Path, name: str, required: bool = True) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file() and path.stat().st_size > 0:
            return path
    if required:
        raise FileNotFoundError(f"{name} is missing or empty")
    return None


def _opened(path: Path) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _vasprun(path: Path | None, is_whole: bool = True) -> Vasprun:
    return Vasprun(
        str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False, exception_on_bad_xml=is_whole
    )


def _pressure_gpa(run: Vasprun) -> float:
    return float(run.parameters.get("PSTRESS", run.incar.get("PSTRESS", 0.0)) or 0.0) * GPA_PER_KBAR


def _enthalpy_lines(folder: Path) -> tuple[tuple[float, float], ...]:
    """H and PV of each ionic step, where OUTCAR has them: only under an external pressure."""
    path = _found(folder, "OUTCAR")
    assert path is not None
    with _opened(path) as stream:
        found = (_ENTHALPY_LINE.search(line) for line in stream)
        return tuple((float(match[1]), float(match[2])) for match in found if match)


def _start(run: Vasprun, enthalpy_lines: tuple[tuple[float, float], ...], notes: list[str]) -> _Start:
    """Energy and enthalpy of every ionic step.

    Under PSTRESS the energy of an ionic step is E + PV, while its last electronic step has E alone. Which of the two an
    energy is, is decided by what VASP printed: the difference of the two, or the line 'enthalpy is TOTEN' of OUTCAR.
    """
    steps = [step for step in run.ionic_steps if step.get("electronic_steps") and "e_fr_energy" in step]
    if not steps:
        raise OutputError("vasprun.xml holds no finished ionic step: VASP stopped before its first energy")
    pressure = _pressure_gpa(run)
    energies, enthalpies = [], []
    for step in steps:
        electronic = step["electronic_steps"][-1]
        # sigma -> 0 through the electronic step: VASP 5 and 6 misprint e_0_energy of an ionic one, as pymatgen knows
        extrapolated = step["e_fr_energy"] + electronic["e_0_energy"] - electronic["e_fr_energy"]
        pv = pressure / GPA_PER_EV_ANG3 * step["structure"].volume
        if pressure and _holds_pv(step, pv, enthalpy_lines, notes):
            extrapolated -= pv
        energies.append(float(extrapolated))
        enthalpies.append(float(extrapolated + pv))
    return _Start(
        first_structure=steps[0]["structure"],
        energies_ev=tuple(energies),
        enthalpies_ev=tuple(enthalpies),
        n_electronic_steps=sum(len(step["electronic_steps"]) for step in steps),
        has_converged_first=len(steps[0]["electronic_steps"]) < int(run.parameters.get("NELM", 60)),
    )


def _holds_pv(
    step: dict[str, Any], pv_ev: float, enthalpy_lines: tuple[tuple[float, float], ...], notes: list[str]
) -> bool:
    """Whether the energy of an ionic step includes PV."""
    energy, tolerance = step["e_fr_energy"], _PV_TOLERANCE_EV_PER_ATOM * len(step["structure"])
    for enthalpy, printed_pv in enthalpy_lines:
        if abs(printed_pv - pv_ev) < tolerance and abs(energy - enthalpy) < tolerance:
            return True
    surplus = energy - step["electronic_steps"][-1]["e_fr_energy"]
    if abs(surplus - pv_ev) > tolerance and abs(surplus) > tolerance:
        note = (
            f"an ionic step's energy lies {surplus:.4f} eV above that of its electronic steps, where PV is {pv_ev:.4f} "
            "eV: neither energy nor enthalpy for certain; taken for the nearer of the two"
        )
        notes.append(note)
    return bool(abs(surplus - pv_ev) < abs(surplus))


def _earlier_starts(folder: Path, earlier: tuple[Path, ...], notes: list[str]) -> Iterator[_Start]:
    """Starts of VASP before the last one, oldest first: custodian's archives, and attempts that were killed."""
    for place in (*earlier, folder):
        path = _found(place, "vasprun.xml", required=False)
        current = None
        if path is not None:
            with _opened(path) as stream:
                current = stream.read()
        for archive in sorted(place.glob("error.*.tar.gz"), key=_number_of):
            text = _from_archive(archive)
            if text is None or text != current:  # where custodian gave up, its last archive holds the files that stayed
                yield from _leftover(text, (), f"{place.name}/{archive.name}", notes)
        if place != folder:
            yield from _leftover(current, _killed_lines(place), f"{place.name}/vasprun.xml", notes)


def _killed_lines(folder: Path) -> tuple[tuple[float, float], ...]:
    return _enthalpy_lines(folder) if _found(folder, "OUTCAR", required=False) else ()


def _number_of(archive: Path) -> int:
    digits = archive.name.split(".")[1]
    return int(digits) if digits.isdigit() else 0


def _from_archive(archive: Path) -> str | None:
    """Text of vasprun.xml in one of custodian's archives; None if it is not there."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() and member.name.endswith("/vasprun.xml") else None
                if stream is not None:
                    return io.TextIOWrapper(stream, "utf-8", errors="replace").read()
    except (OSError, EOFError, tarfile.TarError):
        return None
    return None


def _leftover(
    text: str | None, enthalpy_lines: tuple[tuple[float, float], ...], name: str, notes: list[str]
) -> Iterator[_Start]:
    """The steps in a vasprun.xml that may be cut off; none, with a note, where it holds nothing to read."""
    if not text:
        notes.append(f"{name} holds no steps of an earlier start of VASP: they are not counted")
        return
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(place) / "vasprun.xml"
        path.write_text(text, encoding="utf-8")
        try:
            start = _start(_vasprun(path, is_whole=False), enthalpy_lines, notes)
        except (*_UNREADABLE, OutputError):
            notes.append(f"{name} ends before the first ionic step of an earlier start of VASP: it is not counted")
            return
    yield start


def _initial_structure(folder: Path, earlier: tuple[Path, ...]) -> Structure | None:
    """The crystal that the first attempt began with: POSCAR.orig, custodian's copy, before any correction."""
    path = _found((*earlier, folder)[0], "POSCAR.orig", required=False)
    if path is None:
        return None
    try:
        with _opened(path) as stream:
            return Poscar.from_str(stream.read()).structure
    except _UNREADABLE:
        return None


def _initial_energy(starts: list[_Start], initial: Structure, notes: list[str]) -> float | None:
    for start in starts:
        if start.has_converged_first and is_same_crystal(start.first_structure, initial):
            return start.energies_ev[0]
    notes.append("the energy of the initial structure is not known: no start of VASP from it converged its electrons")
    return None
