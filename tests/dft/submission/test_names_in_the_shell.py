"""Folders and settings with names that mean something to a shell or to a queue's head: each job runs, and no name."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dft.engines.config import VaspEngineConfig
from dft.job_folder import JobFolderError, Purpose, make_job_folder, read_record
from dft.submission.allocation import Member, allocations
from dft.submission.cluster_queue import ClusterQueue
from dft.submission.config import SubmissionConfig
from dft.submission.queues import QueueState, SubmissionError
from dft.submission.script import job_script
from dft.submission.states import JobState
from dft.submission.submitter import Submitter
from tests.dft.submission.conftest import Jobs, until
from tests.dft.submission.hostile_names import MARK, MARK_VARIABLE, PARTS, RUN, hostile_name, marks
from tests.dft.submission.test_cluster_queue import Answers
from tests.dft.vasp_machine import Machine, argon
from tests.fuzzing import Fuzz
from tests.servers.slurm import Slurm

QUEUES = ("local", "slurm", "pbs", "sge")
ORDER = {"slurm": "#SBATCH", "pbs": "#PBS", "sge": "#$"}

ANSWER = {
    "sbatch": "echo 'Submitted batch job 7'",
    "qsub": 'grep -q "^#PBS" "$1" && echo 7.server || echo "Your job 7 (\\"$1\\") has been submitted"',
}
PROGRAM = """\
#!/bin/bash
# Starts the script as the queue does: in the folder that it was submitted from, its output where the head says.
[ $# = 1 ] && [ -f "$1" ] || { echo "no script: $*" >&2; exit 1; }
out=$(sed -n 's/^#\\(SBATCH --output=\\|PBS -o \\|\\$ -o \\)//p' "$1")
err=$(sed -n 's/^#\\(SBATCH --error=\\|PBS -e \\|\\$ -e \\)//p' "$1")
bash "$1" > "$out" 2> "$err"
ANSWER
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for sbatch and qsub on the path, and the file that a name which runs leaves behind."""
    place = tmp_path / "programs"
    place.mkdir()
    for name, answer in ANSWER.items():
        (place / name).write_text(PROGRAM.replace("ANSWER", answer))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(MARK_VARIABLE, str(tmp_path / MARK))
    return place


def orders(script: Path, kind: str) -> list[str]:
    """Lines of a script that its queue takes for orders, wherever they stand; SGE reads them all."""
    return [line for line in script.read_bytes().decode(errors="replace").split("\n") if line.startswith(ORDER[kind])]


def submitted(jobs: Jobs, kind: str) -> str:
    """Take one job through a queue; empty if it has its record, else what happened."""
    key = jobs.add()
    for place in (jobs.root, jobs.root / key):  # modules beside a job must not stand for Python's own
        (place / "json.py").write_text(f"open({str(jobs.root.parent / MARK)!r}, 'w')")
    if kind == "local":
        status = jobs.submitter().wait([key], timeout_s=60).statuses[key]
        said = "" if status.state is JobState.DONE else str(status)
    else:
        Submitter(jobs.root, jobs.config(kind), ClusterQueue(kind)).step([key])
        said = "" if (jobs.root / key / "record.json").exists() else "no record"
    (allocation,) = allocations(jobs.root)
    log = allocation.folder / "out"
    if "attempt 1" not in (log.read_text() if log.exists() else ""):
        said += f"; {log} says nothing"
    if kind != "local":
        plain = [line for line in orders(allocation.script, kind) if "other" in line]
        said += f"; orders {plain}" if plain else ""
    return said if jobs.runs(key) == 1 else f"{said}; ran {jobs.runs(key)} times"


def count(fuzz: Fuzz, case: str, said: str, folder: Path, outcome: str) -> None:
    """How a case ended: as it may, or with a word of what is wrong, or with a mark of what was run."""
    if found := marks(folder):
        said += f"; left {found}"
        for file in found:
            file.unlink()
    if said:
        fuzz.failed(f"{case}: {said}")
    else:
        fuzz.ended(outcome)


@pytest.mark.fuzz
def test_a_job_runs_in_a_folder_of_any_name_and_the_name_does_not(fuzz: Fuzz, programs: Path, tmp_path: Path) -> None:
    for rng in fuzz.cases(12):
        name, kind = hostile_name(rng), str(rng.choice(QUEUES))
        place = tmp_path / f"place-{fuzz.attempts}"  # never removed: a job may write its last words after its record
        place.mkdir()
        try:
            said = submitted(Jobs(place / name), kind)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        count(fuzz, f"{kind}, {name!r}", said, tmp_path, f"done by {kind}")


@pytest.mark.fuzz
def test_vasp_runs_in_a_folder_of_any_name(fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to the end: the queue, the worker, custodian, and a stand-in for VASP."""
    machine = Machine(tmp_path)
    for variable, value in {**machine.environment, MARK_VARIABLE: str(tmp_path / MARK)}.items():
        monkeypatch.setenv(variable, value)
    engine = VaspEngineConfig.model_validate({"poll_s": 0.1, "monitor_every": 1})
    for rng in fuzz.cases(2):
        name = hostile_name(rng)
        root = tmp_path / f"place-{fuzz.attempts}" / name
        try:
            folder = make_job_folder(root, argon(), engine, candidate_id="c-1", purpose=Purpose.STATIC)
        except JobFolderError as error:
            is_said = "are no UTF-8" in str(error) and "\udcff" in name
            fuzz.ended("refused: no text") if is_said else fuzz.failed(f"{name!r}: {error}")
            continue
        config = SubmissionConfig(poll_s=0.1, poll_max_s=0.5, settle_s=0.2, attempts_max=1)
        Submitter(root, config).wait([folder.name], timeout_s=120)
        found = marks(tmp_path)
        if read_record(folder) is None or found:
            error = folder / "error.json"
            fuzz.failed(f"{name!r}: {error.read_text() if error.exists() else 'no error'}; left {found}")
        else:
            fuzz.ended("done")
        for file in found:
            file.unlink()


TEXTS = ("partition", "account", "qos", "mpi_command", "python")
LISTS = ("modules", "job_command")
ECHO = (
    "import json, os, sys; from pathlib import Path\n"
    "said = {'mpi_command': os.environ.get('HULLWARD_MPI_COMMAND'), 'words': sys.argv[2:]}\n"
    "Path(sys.argv[1], 'record.json').write_text(json.dumps(said))\n"
)


@pytest.mark.fuzz
def test_settings_reach_the_queue_as_they_are_or_are_refused_by_name(
    fuzz: Fuzz, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tmp_path / "modules"
    module = f'() {{ [ "$1" = purge ] || printf "%s\\\\0" "$2" >> {loaded}; }}'
    monkeypatch.setenv("BASH_FUNC_module%%", module.replace("\\\\", "\\"))
    for rng in fuzz.cases(12):
        field, kind = str(rng.choice([*TEXTS, *LISTS])), str(rng.choice(["slurm", "pbs", "sge"]))
        value = str(PARTS[int(rng.integers(len(PARTS)))]) if rng.random() < 0.5 else hostile_name(rng)
        value = rng.choice(["", "main"]) + value.replace("\udcff", "")
        jobs = Jobs(tmp_path / "jobs")
        command = (sys.executable, "-c", ECHO, "{folder}")
        stated: dict[str, Any] = {"job_command": command, field: value}
        if field in LISTS:
            stated[field] = (*command, value) if field == "job_command" else (value,)
        if field == "python":
            python = tmp_path / "bin" / value
            python.parent.mkdir(exist_ok=True)
            stated[field] = str(python)
        try:
            config = jobs.config(kind, **stated)
        except ValidationError as error:
            (fault,) = error.errors()
            is_named = field in fault["msg"] and "\n" not in fault["msg"]
            fuzz.ended("refused by name") if is_named else fuzz.failed(f"{field} {value!r}: {fault['msg']}")
            shutil.rmtree(jobs.root)
            continue
        key = jobs.add()
        said = ""
        try:
            if field == "python":
                python.symlink_to(sys.executable)
            Submitter(jobs.root, config, ClusterQueue(kind)).step([key])
            said = expected_of(jobs, key, kind, field, value, loaded)
        except ValueError as error:
            said = "" if "cannot be asked for this" in str(error) else str(error)  # such as qos of PBS
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        count(fuzz, f"{kind}, {field} {value!r}", said, tmp_path, "as it is")
        loaded.unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "bin", ignore_errors=True)
        shutil.rmtree(jobs.root)


def expected_of(jobs: Jobs, key: str, kind: str, field: str, value: str, loaded: Path) -> str:
    """What is wrong with how a value arrived; empty if it did."""
    (allocation,) = allocations(jobs.root)
    record = jobs.root / key / "record.json"
    if not record.exists():
        return f"no record; {(allocation.folder / 'err').read_text()[-300:]}"
    arrived = json.loads(record.read_text())
    if field == "modules":
        return "" if loaded.read_bytes().decode() == f"{value}\0" else f"loaded {loaded.read_bytes()!r}"
    if field == "mpi_command":
        return "" if arrived["mpi_command"] == value else f"arrived as {arrived['mpi_command']!r}"
    if field == "job_command":
        expected = value.replace("{python}", sys.executable).replace("{folder}", str(jobs.root / key))
        return "" if arrived["words"] == [expected] else f"arrived as {arrived['words']}"
    if field == "python":
        return ""
    lines = orders(allocation.script, kind)
    return "" if sum(line.endswith(value) for line in lines) == 1 else f"orders {lines}"


@pytest.mark.parametrize("value", ["a b", "a\n#SBATCH --wrap=x", "-x", "a;b", "a'b", "$(x)", "a#b", "a\\b", ""])
@pytest.mark.parametrize("field", ["partition", "account", "qos"])
def test_a_name_that_a_head_could_misread_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match=field):
        SubmissionConfig.model_validate({"queue": "slurm", field: value})


@pytest.mark.parametrize("value", ["main", "gpu,cpu", "workq@server", "all.q@@nodes", "a-1:b", "long_7", "büro"])
def test_names_as_clusters_have_them_are_taken(value: str) -> None:
    assert SubmissionConfig(queue="slurm", partition=value, account=value).partition == value


@pytest.mark.parametrize("key", ["../x", "a/b", "", ".", "a b", "-a", "a\nb", "$(x)"])
def test_a_key_that_is_no_folder_s_name_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is no key of a job"):
        Member(key, 1)


def test_lines_that_are_meant_for_the_shell_stay_as_they_are(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs")
    line, head = 'export X="$(hostname)"; ulimit -s unlimited', "#SBATCH --constraint=[a*2&b]"
    key = jobs.add()
    config = jobs.config("slurm", setup_lines=(line,), header_lines=(head,))
    submitter = Submitter(jobs.root, config, ClusterQueue("slurm"))
    script = job_script(config, submitter._commit([key]))
    assert {line, head} <= set(script.split("\n"))


def test_a_queue_without_its_commands_is_said_in_one_sentence(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SubmissionError, match="slurm refuses .*sbatch cannot be started"):
        Submitter(jobs.root, jobs.config("slurm"), ClusterQueue("slurm")).step([jobs.add()])


def test_a_folder_called_like_a_state_is_not_the_state_of_its_job() -> None:
    said = (
        "JobId=7 JobName=h7 UserId=me(1) JobState=RUNNING Partition=main WorkDir=/data/x JobState=COMPLETED y StdOut=/x"
    )
    queue = Answers("slurm", "", {"7": said})
    assert queue.find(["7"])["7"].state is QueueState.RUNNING


@pytest.mark.dft_real
@pytest.mark.parametrize(
    "name",
    [
        "two words",
        f"$({RUN})",
        f"`{RUN}`",
        f"a;{RUN};b",
        f"a&{RUN}&b",
        'it\'s "quoted"',
        f"a\n{RUN}\nb",
        "a\n#SBATCH --job-name=other\nb",
        "100%j %x %%",
        "back\\slash",
        "x JobState=COMPLETED y",
        "# * ? [a] {python}",
        "$HOME ~ !",
        "\udcff é",
    ],
)
def test_slurm_runs_a_job_in_a_folder_of_any_name(
    slurm: Slurm, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK_VARIABLE, str(tmp_path / MARK))
    jobs = Jobs(tmp_path / name)
    key = jobs.add(seconds=1.5)
    submitter = jobs.submitter("slurm")
    submitter.step([key])
    until(lambda: jobs.runs(key) == 1)
    assert submitter.step([key]).statuses[key].state in (JobState.RUNNING, JobState.DONE)
    status = jobs.finish(submitter, [key]).statuses[key]
    (allocation,) = allocations(jobs.root)
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.DONE, 1, 1)
    assert f"{key}: attempt 1" in (allocation.folder / "out").read_text()
    assert not marks(tmp_path)
