"""VASP through atomate2: its makers write the inputs, custodian runs VASP and corrects, jobflow keeps the documents.

What a job folder gets, besides job.json and flow.json:
    vasp/<i>/               run of the flow's i-th job (mp-relax has two, the others one)
    vasp/<i>.killed-<n>/    attempts at it that did not end; the next one goes on from their CONTCAR
    vasp/<i>.document.json  its job document, once it is done
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from atomate2.vasp.run import DEFAULT_HANDLERS
from custodian.custodian import CustodianError, ValidationError
from custodian.vasp.handlers import WalltimeHandler
from jobflow.core.flow import Flow
from jobflow.core.job import Job as FlowJob
from jobflow.core.store import JobStore
from jobflow.managers.local import run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Incar, PmgVaspPspDirError, Potcar

from dft.config import InputsConfig
from dft.engines.base import EngineError, FaultKind
from dft.engines.config import VaspEngineConfig
from dft.engines.vasp_faults import fault_of, is_usable_though_unconverged, stopped_by_walltime
from dft.engines.vasp_outputs import OutputError, VaspRun, digests, last_structure, read_run
from dft.inputs import InputsError, check_elements
from dft.job_folder import FLOW, Job, Purpose
from dft.jobs import flow_json, relaxation_flow
from dft.records import DFTRecord, enthalpy_ev
from dft.submission.files import read_json, write_json

COMMAND_VARIABLE = "ATOMATE2_VASP_CMD"
"""atomate2's own; read here when a job starts, since atomate2 itself looks once, at import."""

TERMINATE_S = 5.0


class VaspEngine:
    """VASP relaxations with a preset's settings."""

    def __init__(self, config: VaspEngineConfig) -> None:
        self.config = config

    def run(self, job: Job, folder: Path) -> DFTRecord:
        """Run the job's flow in its folder, from where an earlier attempt left off.

        Raises: EngineError: if there is no result.
        """
        command = self._command()
        flow: Any = self._flow(job, folder)  # typed Any, since jobflow leaves iterflow without types
        runs = folder / "vasp"
        runs.mkdir(exist_ok=True)
        store = JobStore(MemoryStore())
        store.connect()
        parts: list[Path] = []
        wall_time_s = 0.0
        is_kept_unconverged = False
        for index, (flow_job, _) in enumerate(flow.iterflow()):
            place, document = runs / str(index), runs / f"{index}.document.json"
            if (done := read_json(document)) is None:
                _end_processes(place)
                killed, start = _put_aside(place)
                self._set_up(flow_job, command, start)
                try:
                    done, is_kept_unconverged = self._run_one(flow_job, store, place)
                finally:
                    _end_processes(place)
                done["wall_time_s"] += sum(map(_lasted_s, killed))
                write_json(document, done)
            for one in done["documents"]:
                store.update(one, key=["uuid", "index"])
            wall_time_s += done["wall_time_s"]
            parts += [*_killed(place), place]
            if is_kept_unconverged:
                break  # a second relaxation takes its start from the first one's document, which there is not
        return self._record(job, runs, parts, wall_time_s)

    def _command(self) -> str:
        command = self.config.command or os.environ.get(COMMAND_VARIABLE, "") or "vasp_std"
        words = shlex.split(os.path.expandvars(command))
        if not words or shutil.which(words[0]) is None:
            raise EngineError(
                FaultKind.ENGINE_MISSING,
                f"the VASP command {command!r} begins with no program on PATH: set `command` in the engine's settings "
                f"or {COMMAND_VARIABLE}, such as 'srun vasp_std', and load VASP's module in the job script",
                is_retryable=False,
            )
        return command

    def _flow(self, job: Job, folder: Path) -> Flow:
        """The job's flow, written to flow.json if it is not there."""
        inputs = InputsConfig.model_validate(
            {"preset": self.config.preset, "potcar_functional": self.config.potcar_functional}
        )
        try:
            check_elements(job.structure, self.config.preset, inputs, job.candidate_id)
        except InputsError as error:
            raise EngineError(FaultKind.NO_DATA, str(error), is_retryable=False) from error
        flow = relaxation_flow(
            job.structure,
            self.config.preset,
            inputs,
            job.candidate_id,
            job.lineage,
            is_static=job.purpose is Purpose.STATIC,
        )
        path = folder / FLOW
        if not path.exists():
            write_json(path, json.loads(flow_json(flow)))
            return flow
        try:
            there = MontyDecoder().decode(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
            raise EngineError(
                FaultKind.INVALID_JOB,
                f"{path} is no jobflow Flow ({type(error).__name__}: {error}): remove it, and it is made again",
                is_retryable=False,
            ) from error
        if not isinstance(there, Flow) or there.uuid != flow.uuid:
            found = there.uuid if isinstance(there, Flow) else type(there).__name__
            raise EngineError(
                FaultKind.INVALID_JOB,
                f"{path} is {found}, while job.json asks for flow {flow.uuid}: remove it, and it is made again",
                is_retryable=False,
            )
        return there

    def _set_up(self, flow_job: FlowJob, command: str, start: Structure | None) -> None:
        """Commands, handlers and the crystal to go on from: what may differ from machine to machine and try to try."""
        config = self.config
        handlers = list(DEFAULT_HANDLERS)
        if config.wall_time_s is not None:
            handlers.append(WalltimeHandler(wall_time=config.wall_time_s, buffer_time=config.wall_time_margin_s))
        flow_job.hosts = []  # run one by one, so that what is done is not done again after a kill
        maker: Any = flow_job.maker
        maker.run_vasp_kwargs = {
            "vasp_cmd": command,
            "vasp_gamma_cmd": config.gamma_command or command,
            "handlers": handlers,
            "max_errors": config.max_errors,
            "custodian_kwargs": {"polling_time_step": config.poll_s, "monitor_freq": config.monitor_every},
        }
        if start is not None:
            asked_for = flow_job.function_args[0]
            if isinstance(asked_for, Structure):
                start = _with_magmoms_of(asked_for, start)
            flow_job.function_args = (start, *flow_job.function_args[1:])

    def _run_one(self, flow_job: FlowJob, store: JobStore, place: Path) -> tuple[dict[str, Any], bool]:
        """Run one job of the flow; its documents, and whether it stopped unconverged but worth keeping."""
        place.mkdir()
        began_s = time.monotonic()
        is_kept_unconverged = False
        try:
            run_locally(
                flow_job,
                store=store,
                root_dir=place,
                log=False,
                allow_external_references=True,
                raise_immediately=True,
            )
        except PmgVaspPspDirError as error:
            raise EngineError(FaultKind.NO_DATA, f"{error}: VASP needs POTCARs", is_retryable=False) from error
        except FileNotFoundError as error:
            if not (place / "POTCAR").exists() and "POTCAR" in str(error):
                raise EngineError(
                    FaultKind.NO_DATA,
                    f"no POTCAR of family {self.config.potcar_functional} ({error}): complete the library that "
                    "PMG_VASP_PSP_DIR names",
                    is_retryable=False,
                ) from error
            raise
        except (CustodianError, OutputError) as error:
            if isinstance(error, ValidationError) or not is_usable_though_unconverged(place):
                raise fault_of(error, place) from error
            is_kept_unconverged = True
        if stopped_by_walltime(place):
            raise EngineError(
                FaultKind.STOPPED,
                f"custodian ended VASP before the {self.config.wall_time_s} s of wall_time_s were over: run the job "
                "again to go on from its CONTCAR",
                is_retryable=True,
            )
        found = [{k: v for k, v in one.items() if k != "_id"} for one in store.query({"uuid": flow_job.uuid})]
        documents = json.loads(json.dumps(found, cls=MontyEncoder))
        return {"documents": documents, "wall_time_s": time.monotonic() - began_s}, is_kept_unconverged

    def _record(self, job: Job, runs: Path, parts: list[Path], wall_time_s: float) -> DFTRecord:
        *earlier, last = parts
        try:
            run = read_run(last, tuple(earlier))
        except OutputError as error:
            raise EngineError(FaultKind.UNREADABLE_OUTPUT, str(error), is_retryable=True) from error
        if not run.has_converged_electrons:
            raise EngineError(
                FaultKind.ELECTRONIC_STEPS,
                f"the electronic steps of the last ionic step in {last} did not converge, so its energy means nothing: "
                "see OSZICAR; a larger NELM or another ALGO may help",
                is_retryable=False,
            )
        warnings = list(run.warnings)
        if n_killed := sum(".killed-" in part.name for part in parts):
            warnings.append(f"{n_killed} attempt(s) ended before they were done; each went on from the last CONTCAR")
        if not run.has_converged_ions:
            warnings.append(f"forces are above EDIFFG after {run.n_ionic_steps} ionic steps")
        return DFTRecord(
            key=job.key,
            engine=self.config.name,
            engine_version=f"VASP {run.version}",
            settings=self.config.settings(),
            settings_digest=self.config.settings_digest,
            candidate_id=job.candidate_id,
            purpose=job.purpose.value,
            structure=run.structure,
            initial_structure=job.structure,
            energy_ev=run.energy_ev,
            initial_energy_ev=run.initial_energy_ev,
            pressure_gpa=run.pressure_gpa,
            enthalpy_ev=enthalpy_ev(run.energy_ev, run.pressure_gpa, float(run.structure.volume)),
            forces_ev_per_ang=run.forces_ev_per_ang,
            stress_gpa=run.stress_gpa,
            n_ionic_steps=run.n_ionic_steps,
            n_electronic_steps=run.n_electronic_steps,
            is_converged=run.has_converged_ions,
            wall_time_s=wall_time_s,
            warnings=tuple(warnings),
            files={f"vasp/{name}": digest for name, digest in digests(runs).items()},
            corrections=run.corrections,
            lineage=job.lineage,
            data=_potcar_digests(last),
            resolved=_resolved(last, run),
            magmoms=run.magmoms,
            kpoints=run.kpoints,
        )


def _killed(place: Path) -> list[Path]:
    """Folders of attempts that did not end, oldest first."""
    folders = place.parent.glob(f"{place.name}.killed-*")
    return sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))


def _put_aside(place: Path) -> tuple[list[Path], Structure | None]:
    """Rename what a killed attempt left; all such folders, and the last whole crystal in them."""
    if place.exists():
        os.replace(place, place.with_name(f"{place.name}.killed-{len(_killed(place)) + 1}"))
    killed = _killed(place)
    structures = (last_structure(folder) for folder in reversed(killed))
    return killed, next((structure for structure in structures if structure is not None), None)


def _processes(place: Path) -> Iterator[psutil.Process]:
    """Processes at work in a folder: VASP of an attempt whose custodian is gone."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and Path(process.cwd()) == place.resolve():
                yield process
        except (psutil.Error, OSError):  # ended meanwhile, or another user's
            continue


def _end_processes(place: Path) -> None:
    """End what still computes in a folder; custodian starts VASP in a session of its own, which outlives its parent."""
    if not place.exists():
        return
    found = list(_processes(place))
    for process in found:
        _signal(process, "terminate")
    _, alive = psutil.wait_procs(found, timeout=TERMINATE_S)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=TERMINATE_S)


def _signal(process: psutil.Process, name: str) -> None:
    try:
        getattr(process, name)()
    except psutil.NoSuchProcess:
        return


def _lasted_s(folder: Path) -> float:
    """How long a killed attempt ran, by the times of its files."""
    times = [path.stat().st_mtime for path in folder.iterdir()]
    return max(times) - min(times) if times else 0.0


def _with_magmoms_of(asked_for: Structure, start: Structure) -> Structure:
    """The crystal to go on from with the magnetic moments to begin with, which CONTCAR does not hold."""
    magmoms = asked_for.site_properties.get("magmom")
    if not magmoms:
        return start
    for ordered in (asked_for, asked_for.get_sorted_structure()):
        if ordered.species == start.species:
            return start.copy(site_properties={"magmom": list(ordered.site_properties["magmom"])})
    raise EngineError(
        FaultKind.UNREADABLE_OUTPUT,
        f"CONTCAR holds {start.formula} in an order that is not that of {asked_for.formula}: remove the folders "
        "vasp/*.killed-* to begin anew",
        is_retryable=False,
    )


def _text(folder: Path, name: str) -> str | None:
    """A file's text, gzipped or not; None without the file."""
    if (folder / name).is_file():
        return (folder / name).read_text(encoding="utf-8")
    if (folder / f"{name}.gz").is_file():
        return gzip.decompress((folder / f"{name}.gz").read_bytes()).decode("utf-8")
    return None


def _potcar_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each element's pseudopotential, by symbol."""
    text = _text(folder, "POTCAR")
    if text is None:
        return {}
    return {single.element: hashlib.sha256(single.data.encode()).hexdigest() for single in Potcar.from_str(text)}


def _resolved(folder: Path, run: VaspRun) -> dict[str, Any]:
    """INCAR and KPOINTS of the last run, after custodian's corrections; functional, U, pseudopotentials, versions."""
    incar = Incar.from_str(_text(folder, "INCAR") or "")
    return {
        "incar": json.loads(json.dumps(dict(incar), default=str)),
        "kpoints": _text(folder, "KPOINTS"),
        "run_type": run.run_type,
        "hubbards_ev": run.hubbards_ev,
        "bandgap_ev": run.bandgap_ev,
        "potcars": list(run.potcars),
        "versions": {"vasp": run.version, **{name: version(name) for name in ("atomate2", "custodian", "pymatgen")}},
    }
