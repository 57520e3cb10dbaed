"""VASP through atomate2: its makers write the inputs, custodian runs VASP and corrects, jobflow keeps the documents.

What a job folder gets, besides job.json and flow.json:
    vasp/<i>/               run of the flow's i-th job (mp-relax has two, the others one)
    vasp/<i>.killed-<n>/    attempts at it that did not end; the next one goes on from their CONTCAR
    vasp/<i>.document.json  its job document, once it is done
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atomate2.vasp.run import DEFAULT_HANDLERS
from custodian.custodian import CustodianError, ValidationError
from jobflow.core.flow import Flow
from jobflow.core.job import Job as FlowJob
from jobflow.core.store import JobStore
from jobflow.managers.local import run_locally
from maggma.stores import MemoryStore
from monty.json import MontyEncoder
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Incar, PmgVaspPspDirError, Potcar

from dft.config import InputsConfig
from dft.engines.base import EngineError, FaultKind
from dft.engines.config import VaspEngineConfig
from dft.engines.vasp_attempts import end_processes, killed, lasted_s, put_aside
from dft.engines.vasp_faults import fault_of, is_usable_though_unconverged, stopped_by_walltime
from dft.engines.vasp_outputs import OutputError, VaspRun, digests, read_run
from dft.engines.vasp_walltime import TimeLimit, time_limit
from dft.inputs.folder import InputsError, check_elements, crystal_notes
from dft.inputs.incar_tags import physics_tags, shown
from dft.inputs.presets import departures, incar_of
from dft.inputs.slabs import slab_settings
from dft.inputs.user_settings import UserSettingsError, check_incar_updates
from dft.inputs.written_settings import text_of, written_digest, written_incar
from dft.job_folder import FLOW, Job, Purpose
from dft.jobs import flow_json, relaxation_flow
from dft.records import DFTRecord, enthalpy_ev
from dft.stored_classes import ForeignClassError, check_classes, in_task
from dft.structures import grouped, reordered, ungrouped_order
from dft.submission.files import read_json, write_json
from storage.digests import json_digest, text_digest

COMMAND_VARIABLE = "ATOMATE2_VASP_CMD"
"""atomate2's own; read here when a job starts, since atomate2 itself looks once, at import."""


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
        notes = self._checked_settings(job)
        runs = folder / "vasp"
        runs.mkdir(exist_ok=True)
        store = JobStore(MemoryStore())
        store.connect()
        parts: list[Path] = []
        wall_time_s, began_at = 0.0, time.time()
        is_kept_unconverged = False
        for index, (flow_job, _) in enumerate(flow.iterflow()):
            place, document = runs / str(index), runs / f"{index}.document.json"
            if (done := read_json(document)) is None:
                end_processes(place)
                limit = time_limit(self.config, began_at)
                earlier, start = put_aside(place)
                self._set_up(flow_job, command, start, limit)
                try:
                    done, is_kept_unconverged = self._run_one(flow_job, store, place, limit)
                finally:
                    end_processes(place)
                done["wall_time_s"] += sum(map(lasted_s, earlier))
                write_json(document, done)
            _check_document(document, done)
            for one in done["documents"]:
                store.update(one, key=["uuid", "index"])
            wall_time_s += done["wall_time_s"]
            parts += [*killed(place), place]
            if is_kept_unconverged:
                break  # a second relaxation takes its start from the first one's document, which there is not
        return self._record(job, runs, parts, wall_time_s, notes)

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
        inputs = self._inputs()
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
        path, document = folder / FLOW, json.loads(flow_json(flow))
        if not path.exists():
            write_json(path, document)
            return flow
        # Compared as it stands and never decoded: a file from elsewhere may name any class, and any arguments of it.
        there = read_json(path)
        if there is None or there.get("uuid") != document["uuid"]:
            found = f"flow {str(there['uuid'])[:40]!r}" if there and "uuid" in there else "no jobflow Flow"
            raise EngineError(
                FaultKind.INVALID_JOB,
                f"{path} is {found}, while job.json asks for flow {flow.uuid}: it is another job's, or of another "
                "version of Hullward or atomate2; remove it, and it is made again",
                is_retryable=False,
            )
        if there != document:
            raise EngineError(
                FaultKind.SETTINGS_REFUSED,
                f"{path} was changed since it was made: its settings are no longer those of preset "
                f"{self.config.preset.value}, under whose name its energies would be kept; remove it, and it is made "
                "again",
                is_retryable=False,
            )
        return flow

    def _inputs(self) -> InputsConfig:
        return InputsConfig.model_validate(
            {"preset": self.config.preset, "potcar_functional": self.config.potcar_functional}
        )

    def _expected_incar(self, job: Job) -> Incar:
        """The preset's tags for the job's crystal, without any from outside."""
        structure, is_static = grouped(job.structure), job.purpose is Purpose.STATIC
        slab = slab_settings(structure, self.config.preset, is_static=is_static)
        return incar_of(structure, self.config.preset, self._inputs(), is_static=is_static, slab=slab)

    def _checked_settings(self, job: Job) -> tuple[str, ...]:
        """Notes on the crystal's inputs; refuses what this machine's settings of atomate2 would change in them."""
        try:
            passed = check_incar_updates(self._expected_incar(job), self.config.preset.value)
        except UserSettingsError as error:
            raise EngineError(FaultKind.SETTINGS_REFUSED, str(error), is_retryable=False) from error
        is_static = job.purpose is Purpose.STATIC
        return passed + crystal_notes(grouped(job.structure), self.config.preset, self._inputs(), is_static=is_static)

    def _set_up(self, flow_job: FlowJob, command: str, start: Structure | None, limit: TimeLimit | None) -> None:
        """Commands, handlers and the crystal to go on from: what may differ from machine to machine and try to try."""
        config = self.config
        handlers = [*DEFAULT_HANDLERS, *(() if limit is None else (limit.handler(config),))]
        flow_job.hosts = []  # run one by one, so that what is done is not done again after a kill
        maker: Any = flow_job.maker
        # Only tags that change no number are left in the updates by now.
        maker.write_input_set_kwargs = {**maker.write_input_set_kwargs, "apply_incar_updates": True}
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

    def _run_one(
        self, flow_job: FlowJob, store: JobStore, place: Path, limit: TimeLimit | None
    ) -> tuple[dict[str, Any], bool]:
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
                f"custodian ended VASP before the time limit{'' if limit is None else f' of {limit.seconds:g} s'} was "
                "over: run the job again to go on from its CONTCAR",
                is_retryable=True,
            )
        found = [{k: v for k, v in one.items() if k != "_id"} for one in store.query({"uuid": flow_job.uuid})]
        documents = json.loads(json.dumps(found, cls=MontyEncoder))
        return {"documents": documents, "wall_time_s": time.monotonic() - began_s}, is_kept_unconverged

    def _record(self, job: Job, runs: Path, parts: list[Path], wall_time_s: float, notes: tuple[str, ...]) -> DFTRecord:
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
        run = _in_the_order_of(job.structure, run)
        settings, first = self.config.settings(), runs / "0"
        warnings = [*notes, *run.warnings]
        apart = departures(self.config.preset, written_incar(first), physics_tags(self._expected_incar(job)))
        apart |= departures(self.config.preset, written_incar(last))
        if apart:
            # Another level of theory, then: its energies get a digest of their own.
            settings["incar"] = {tag: found for tag, (_, found) in apart.items()}
            listed = ", ".join(f"{tag} = {shown(found)} (expected {shown(was)})" for tag, (was, found) in apart.items())
            warnings.append(f"INCAR had {listed}, which is not preset {self.config.preset.value}")
        if n_killed := sum(".killed-" in part.name for part in parts):
            warnings.append(f"{n_killed} attempt(s) ended before they were done; each went on from the last CONTCAR")
        if not run.has_converged_ions:
            warnings.append(f"forces are above EDIFFG after {run.n_ionic_steps} ionic steps")
        return DFTRecord(
            key=job.key,
            engine=self.config.name,
            engine_version=f"VASP {run.version}",
            settings=settings,
            settings_digest=json_digest(settings),
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
            resolved={**_resolved(last, run), "settings_sha256": written_digest(first)},
            magmoms=run.magmoms,
            kpoints=run.kpoints,
        )


def _check_document(path: Path, done: dict[str, Any]) -> None:
    """jobflow decodes what an earlier job of the flow left before it hands it to the next one."""
    try:
        check_classes(done, str(path), in_task)
    except ForeignClassError as error:
        raise EngineError(
            FaultKind.INVALID_JOB, f"{error}; remove the file, and its job is run again", is_retryable=False
        ) from error


def _with_magmoms_of(asked_for: Structure, start: Structure) -> Structure:
    """The crystal to go on from with the magnetic moments to begin with, which CONTCAR does not hold."""
    magmoms = asked_for.site_properties.get("magmom")
    if not magmoms:
        return start
    for ordered in (asked_for, grouped(asked_for)):
        if ordered.species == start.species:
            return start.copy(site_properties={"magmom": list(ordered.site_properties["magmom"])})
    raise EngineError(
        FaultKind.UNREADABLE_OUTPUT,
        f"CONTCAR holds {start.formula} in an order that is not that of {asked_for.formula}: remove the folders "
        "vasp/*.killed-* to begin anew",
        is_retryable=False,
    )


def _in_the_order_of(asked_for: Structure, run: VaspRun) -> VaspRun:
    """The run with its atoms in the order of the job's crystal, in which VASP need not have had them."""
    order = ungrouped_order(asked_for)
    species = [run.structure[site].specie for site in order] if len(order) == len(run.structure) else []
    if species != list(asked_for.species):
        raise EngineError(
            FaultKind.UNREADABLE_OUTPUT,
            f"VASP's result holds {run.structure.formula} in an order that is not that of {asked_for.formula}: remove "
            "the folder vasp and run the job again",
            is_retryable=False,
        )
    return replace(
        run,
        structure=reordered(run.structure, order),
        forces_ev_per_ang=run.forces_ev_per_ang[order],
        magmoms=None if run.magmoms is None else tuple(run.magmoms[site] for site in order),
    )


def _potcar_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each element's pseudopotential, by symbol."""
    text = text_of(folder, "POTCAR")
    if text is None:
        return {}
    return {single.element: text_digest(single.data) for single in Potcar.from_str(text)}


def _resolved(folder: Path, run: VaspRun) -> dict[str, Any]:
    """INCAR and KPOINTS of the last run, after custodian's corrections; functional, U, pseudopotentials, versions."""
    incar = Incar.from_str(text_of(folder, "INCAR") or "")
    return {
        "incar": json.loads(json.dumps(dict(incar), default=str)),
        "kpoints": text_of(folder, "KPOINTS"),
        "run_type": run.run_type,
        "hubbards_ev": run.hubbards_ev,
        "bandgap_ev": run.bandgap_ev,
        "potcars": list(run.potcars),
        "versions": {"vasp": run.version, **{name: version(name) for name in ("atomate2", "custodian", "pymatgen")}},
    }
