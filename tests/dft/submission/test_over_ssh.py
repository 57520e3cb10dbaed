"""Submission to a queue behind ssh: a real sshd on loopback, a stand-in for Slurm, connections lost at every point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dft.submission.allocation import allocations
from dft.submission.config import SubmissionConfig
from dft.submission.queues import SubmissionError
from dft.submission.remote import RemoteHost
from dft.submission.ssh import CONFIG_VARIABLE, SSH
from dft.submission.states import JobState
from dft.submission.submitter import Submitter
from tests.dft.submission.conftest import Jobs, until
from tests.dft.submission.hostile_names import MARK, MARK_VARIABLE, RUN, marks
from tests.servers.slurm import Slurm
from tests.servers.sshd import HOST, Sshd, reason_to_skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def cluster(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """The server, by which this process's ssh finds my-cluster; up again if the test before has ended it."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.config))
    for file in (server.folder / "jobs").iterdir():
        file.unlink()
    if not (server.folder / "sshd.pid").exists():
        server.start()
    yield server
    for name in ("before", "after"):
        (server.folder / name).unlink(missing_ok=True)


def there(cluster: Sshd, **settings: Any) -> dict[str, Any]:
    stated = {
        "queue": "slurm",
        "host": HOST,
        "remote_folder": str(cluster.folder / "scratch"),
        "python": sys.executable,
    }
    return {**stated, "vanished_s": 3.0, "poll_s": 0.4, "poll_max_s": 0.8, **settings}


def copy_of(jobs: Jobs, cluster: Sshd, key: str, scratch: str = "scratch") -> Path:
    """A job's folder on the other side."""
    return cluster.folder / scratch / str(json.loads((jobs.root / ".root.json").read_text())["tag"]) / key


def n_runs(jobs: Jobs, cluster: Sshd, key: str) -> int:
    """How often a job was begun, counted where it runs."""
    file = copy_of(jobs, cluster, key) / "runs.txt"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_jobs_run_there_and_all_they_leave_comes_home_but_what_is_to_stay(jobs: Jobs, cluster: Sshd) -> None:
    first, second, hopeless = jobs.add(seconds=0.5), jobs.add(fails_first=1), jobs.add(dies_first=9, signal=11)
    lines = ("export OUTPUTS='WAVECAR OUTCAR'",)
    program = "import os, pathlib, runpy, sys\nfor name in os.environ['OUTPUTS'].split():\n"
    program += "    pathlib.Path(sys.argv[1], name).write_text(name)\n"
    program += f"runpy.run_path({jobs.config().job_command[1]!r}, run_name='__main__')\n"
    settings = there(cluster, job_command=("{python}", "-c", program, "{folder}"), setup_lines=lines, attempts_max=2)
    submitter = jobs.submitter(**settings)
    found = jobs.finish(submitter, [first, second, hopeless]).statuses
    assert [found[key].state for key in (first, second, hopeless)] == [JobState.DONE, JobState.DONE, JobState.FAILED]
    assert found[second].reasons == ("scf: electrons did not converge",)
    assert "about to die" in found[hopeless].reason
    assert [jobs.runs(key) for key in (first, second, hopeless)] == [1, 2, 2]  # runs.txt has come home too
    assert [n_runs(jobs, cluster, key) for key in (first, second, hopeless)] == [1, 2, 2]
    assert (jobs.root / first / "OUTCAR").read_text() == "OUTCAR"
    assert not (jobs.root / first / "WAVECAR").exists()
    assert (copy_of(jobs, cluster, first) / "WAVECAR").exists()
    logs = [(allocation.folder / "out").read_text() for allocation in allocations(jobs.root)]
    assert sum(f"{first}: attempt 1: " in log for log in logs) == 1
    # The jobs ran the code that was sent, not that of this folder.
    (code,) = (cluster.folder / "scratch" / ".code").iterdir()
    assert list(code.glob("dft/submission/__pycache__/run_allocation*")) or os.environ.get("PYTHONDONTWRITEBYTECODE")
    assert str(code) in next(allocations(jobs.root)).script.read_text()


def test_a_job_is_awaited_until_the_queue_has_ended_it_and_its_last_output_is_home(jobs: Jobs, cluster: Sshd) -> None:
    """The record is home a good second before the job's process writes its last file and ends."""
    key = jobs.add()
    program = "import os, runpy, sys, time\nos.chdir(sys.argv[1])\n"
    program += f"try:\n    runpy.run_path({jobs.config().job_command[1]!r}, run_name='__main__')\n"
    program += "finally:\n    time.sleep(1.5)\n    open('OUTCAR', 'w').write('the end')\n"
    submitter = jobs.submitter(**there(cluster, job_command=("{python}", "-c", program, "{folder}"), poll_max_s=0.4))
    states = list[JobState]()
    submitter.wait([key], lambda step: states.append(step.statuses[key].state))
    assert states.count(JobState.DONE) > 1
    assert (jobs.root / key / "OUTCAR").read_text() == "the end"


def test_a_campaign_over_ssh_gives_the_store_and_the_table_that_it_gives_without(cluster: Sshd, tmp_path: Path) -> None:
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    from configs.schema import DiscoverConfig, parse
    from dft.campaign.campaign import Wanted, plan_campaign
    from dft.stores import open_job_store
    from tasks.dft.campaign import collected, submitter_of

    aluminium = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.1), ["Al"], [[0, 0, 0]]).get_primitive_structure()
    engine = {"name": "potential", "potential": "CHGNet", "max_steps": 3}
    quick = {"poll_s": 0.3, "poll_max_s": 1}
    places = {"here": {"queue": "local"}, "there": there(cluster, vanished_s=60)}
    made, told = {}, {}
    for place, submission in places.items():
        dft = {"engine": engine, "submission": {**submission, **quick}}
        config = parse(DiscoverConfig, {"name": "al", "elements": ["Al"], "dft": dft}, "a test")
        wanted = [Wanted("c-1", aluminium, "relaxation")]
        folder = tmp_path / place
        planned = plan_campaign(folder / "al", "al", folder / "jobs", config.dft, config.store, wanted)
        made[place] = planned.write()
        submitter_of(made[place]).step(made[place].keys)  # both are at work at once
    for place, campaign in made.items():
        progress = collected(campaign, submitter_of(campaign).wait(campaign.keys, timeout_s=200))
        assert progress.counts == {"done": 1}, progress
        with open_job_store(campaign.store, campaign.folder) as store:
            (document,) = list(store.query({}))
        told[place] = [without_times(document), [without_times(row) for row in progress.rows]]
    assert told["here"] == told["there"]


def without_times(document: dict[str, Any]) -> Any:
    """What two computations of the same have in common: all but the time they took, and numbers of the database."""
    left_out = {"wall_time_s", "record_sha256", "_id", "queue_id", "hosts", "last_updated"}
    text = json.dumps(document, default=str, sort_keys=True)
    return json.loads(text, object_hook=lambda one: {k: v for k, v in one.items() if k not in left_out})


def lost_before_sending(cluster: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    original = RemoteHost.prepare

    def prepare(self: RemoteHost) -> None:
        original(self)
        cluster.kill()

    monkeypatch.setattr(RemoteHost, "prepare", prepare)


def lost_before_sbatch(cluster: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    original = RemoteHost.send

    def send(self: RemoteHost, allocation: Any) -> None:
        original(self, allocation)
        cluster.kill()

    monkeypatch.setattr(RemoteHost, "send", send)


KILL = "server=$(cat {0}/sshd.pid); rm {0}/sshd.pid; kill -9 $(ps -o pid= --ppid $server) $server\n"


def lost_within_sbatch(cluster: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster.folder / "before").write_text(KILL.format(cluster.folder) + "sleep 1\n")


def lost_after_sbatch(cluster: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster.folder / "after").write_text(KILL.format(cluster.folder))


def killed_after_sbatch(cluster: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    original = RemoteHost.hand_over

    def hand_over(self: RemoteHost, *words: Any) -> Any:
        original(self, *words)
        raise KeyboardInterrupt

    monkeypatch.setattr(RemoteHost, "hand_over", hand_over)


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (lost_before_sending, 0.0),
        (lost_before_sbatch, 0.0),
        (lost_within_sbatch, 0.0),
        (lost_after_sbatch, 0.0),
        (lost_after_sbatch, 5.0),
        (killed_after_sbatch, 0.0),
    ],
)
def test_a_connection_lost_around_the_submission_loses_nothing_and_submits_nothing_twice(
    jobs: Jobs,
    cluster: Sshd,
    fault: Callable[[Sshd, pytest.MonkeyPatch], None],
    seconds: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = jobs.add(seconds=seconds)
    with monkeypatch.context() as patched:
        fault(cluster, patched)
        submitter = jobs.submitter(**there(cluster))
        if fault is killed_after_sbatch:
            with pytest.raises(KeyboardInterrupt):
                submitter.step([key])
        else:
            (note,) = submitter.step([key]).notes
            assert note.startswith(f"{HOST} did not answer to "), note
            assert "nothing is concluded from that" in note
    if fault in (lost_after_sbatch, killed_after_sbatch) and not seconds:
        # It ends, and the queue forgets it, before anybody asks again.
        until(lambda: (copy_of(jobs, cluster, key) / "record.json").exists())
    (cluster.folder / "before").unlink(missing_ok=True)
    (cluster.folder / "after").unlink(missing_ok=True)
    if not (cluster.folder / "sshd.pid").exists():
        step = jobs.submitter(**there(cluster)).step([key])  # while there is nobody to ask
        assert len(step.notes) == 1
        assert step.n_open == 1
        cluster.start()
    status = jobs.finish(jobs.submitter(**there(cluster)), [key]).statuses[key]
    assert (status.state, status.n_attempts, n_runs(jobs, cluster, key)) == (JobState.DONE, 1, 1)
    assert len(cluster.submitted) == 1


def test_a_connection_lost_while_outputs_come_home_brings_them_later(
    jobs: Jobs, cluster: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = jobs.add()
    submitter = jobs.submitter(**there(cluster))
    submitter.step([key])
    until(lambda: (copy_of(jobs, cluster, key) / "record.json").exists() and not cluster.running)
    original = RemoteHost.close

    def close(self: RemoteHost, allocation: Any) -> None:
        cluster.kill()
        original(self, allocation)

    with monkeypatch.context() as patched:
        patched.setattr(RemoteHost, "close", close)
        step = submitter.step([key])
    assert step.statuses[key].state is JobState.DONE  # its record had come before
    assert step.notes
    assert step.n_open == 1
    assert jobs.runs(key) == 0
    cluster.start()
    assert submitter.step([key]).n_open == 0
    assert jobs.runs(key) == 1
    assert all(allocation.is_settled for allocation in allocations(jobs.root))


def test_one_of_two_packed_jobs_is_cancelled_there_and_tried_again_while_the_other_runs(
    jobs: Jobs, cluster: Sshd
) -> None:
    other, key = jobs.add(seconds=6), jobs.add(seconds=[30, 0])
    settings = there(cluster, jobs_per_allocation=2, jobs_at_once=2)
    submitter = jobs.submitter(**settings)
    submitter.step([other, key])
    until(lambda: n_runs(jobs, cluster, key) == 1 and n_runs(jobs, cluster, other) == 1)
    assert submitter.cancel([key]) == [key]
    log = copy_of(jobs, cluster, ".allocations") / next(allocations(jobs.root)).name / "out"
    until(lambda: "was cancelled" in log.read_text())
    assert submitter.step([other, key]).statuses[key].state is JobState.CANCELLED
    assert submitter.retry([key]) == [key]
    found = jobs.finish(submitter, [other, key]).statuses
    assert [found[one].state for one in (other, key)] == [JobState.DONE] * 2
    assert [n_runs(jobs, cluster, one) for one in (other, key)] == [1, 2]


def test_a_cancelled_job_ends_in_the_queue(jobs: Jobs, cluster: Sshd) -> None:
    key = jobs.add(seconds=60)
    submitter = jobs.submitter(**there(cluster))
    submitter.step([key])
    until(lambda: n_runs(jobs, cluster, key) == 1)
    submitter.cancel([key])
    assert jobs.finish(submitter, [key]).statuses[key].state is JobState.CANCELLED
    until(lambda: SSH(HOST).run("squeue", "squeue").stdout == b"")


def test_a_record_that_cannot_be_used_is_put_aside_there_too_and_computed_again(jobs: Jobs, cluster: Sshd) -> None:
    key = jobs.add()

    def fault(folder: Path) -> str:
        return "its checksum is wrong" if json.loads((folder / "record.json").read_text())["run"] == 1 else ""

    submitter = Submitter(jobs.root, jobs.config(**there(cluster)), record_fault=fault)
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, status.n_attempts, n_runs(jobs, cluster, key)) == (JobState.DONE, 2, 2)
    assert status.reasons[0].startswith("unreadable record: ")


def test_a_lost_job_that_starts_after_all_is_left_alone_and_one_that_left_a_record_has_its_result(
    jobs: Jobs, cluster: Sshd
) -> None:
    key = jobs.add()
    sbatch = cluster.folder / "bin" / "sbatch"
    text = sbatch.read_text()
    sbatch.write_text("#!/bin/bash\necho Submitted batch job 7\n")  # of which nothing is heard again
    try:
        settings = there(cluster, vanished_s=0.2, heartbeat_s=0.1)
        lost = jobs.finish(jobs.submitter(**settings, attempts_max=1), [key]).statuses[key]
        assert lost.state is JobState.LOST
    finally:
        sbatch.write_text(text)
    (allocation,) = allocations(jobs.root)
    script = copy_of(jobs, cluster, ".allocations") / allocation.name / "job.sh"
    late = subprocess.run(["bash", script], capture_output=True, text=True, check=True)
    assert "attempt 1 is run by another job, left to it" in late.stdout
    (copy_of(jobs, cluster, key) / "record.json").write_text('{"run": 0}')
    found = jobs.finish(jobs.submitter(**settings, attempts_max=2), [key]).statuses[key]
    assert (found.state, found.n_attempts, n_runs(jobs, cluster, key)) == (JobState.DONE, 2, 0)


@pytest.mark.parametrize(
    "name", [f"$({RUN}) `{RUN}` ;{RUN};", 'it\'s "quoted" $HOME ~ ! * [a] #', "{python} %j back\\slash é"]
)
def test_a_remote_folder_of_any_name_is_a_word(
    jobs: Jobs, cluster: Sshd, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK_VARIABLE, str(cluster.folder / MARK))
    key = jobs.add()
    settings = there(cluster, remote_folder=str(cluster.folder / name))
    status = jobs.finish(jobs.submitter(**settings), [key]).statuses[key]
    assert (status.state, status.n_attempts) == (JobState.DONE, 1)
    assert (copy_of(jobs, cluster, key, name) / "runs.txt").exists()
    assert not marks(cluster.folder)


def test_a_folder_at_home_of_any_name_is_not_named_there(cluster: Sshd, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / f"a\n$({RUN});'\"")
    key = jobs.add()
    assert jobs.finish(jobs.submitter(**there(cluster)), [key]).statuses[key].state is JobState.DONE
    assert not marks(cluster.folder)
    assert not marks(tmp_path)


def test_the_clock_of_the_cluster_may_be_another(jobs: Jobs, cluster: Sshd, tmp_path: Path) -> None:
    """Three hours ahead there: a living job that the queue forgot is waited for, a dead one is lost, soon."""
    ahead = tmp_path / "ahead"
    ahead.mkdir()
    (ahead / "sitecustomize.py").write_text(
        "import os, time\n"
        "real, clock = os.utime, time.time\n"
        "time.time = lambda: clock() + 10800\n"
        "os.utime = lambda path, *times, **more: real(path, (time.time(), time.time()))\n"
    )
    programs = {
        "touch": '#!/bin/bash\n/usr/bin/touch -d "now + 3 hours" "$@"\n',
        "date": "#!/bin/bash\nexec /usr/bin/date -d 'now + 3 hours' \"$@\"\n",
    }
    squeue = cluster.folder / "bin" / "squeue"
    text = squeue.read_text()
    for name, program in {**programs, "squeue": "#!/bin/bash\n"}.items():
        cluster.program(name, program)
    try:
        living, dead = jobs.add(seconds=5), jobs.add(seconds=[600, 0])
        lines = (f"export PYTHONPATH={ahead}",)
        settings = there(cluster, setup_lines=lines, vanished_s=2.5, heartbeat_s=0.5)
        submitter = jobs.submitter(**settings)
        submitter.step([living, dead])
        until(lambda: n_runs(jobs, cluster, living) == 1 and n_runs(jobs, cluster, dead) == 1)
        for file in (cluster.folder / "jobs").iterdir():
            pid, name = file.read_text().split()
            if dead in name:
                subprocess.run(["pkill", "-9", "-s", pid], check=False)
                os.kill(int((copy_of(jobs, cluster, dead) / "runs.txt").read_text().split()[0]), 9)
        found = jobs.finish(submitter, [living, dead]).statuses
        assert [found[key].state for key in (living, dead)] == [JobState.DONE] * 2
        assert [n_runs(jobs, cluster, key) for key in (living, dead)] == [1, 2]
        assert found[dead].reasons[0].startswith("lost: ")
    finally:
        squeue.write_text(text)
        for name in programs:
            (cluster.folder / "bin" / name).unlink()


def said_of(config: Path, jobs: Jobs, cluster: Sshd, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a step says of a host that is reached by these settings of ssh; it commits nothing and raises nothing."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    key = jobs.add()
    step = jobs.submitter(**there(cluster)).step([key])
    assert step.statuses[key].state is JobState.NEW
    assert step.statuses[key].n_attempts == 0
    (note,) = step.notes
    assert "\n" not in note
    return note


def changed(cluster: Sshd, place: Path, *change: str) -> Path:
    """Settings of ssh with a word replaced; no connection is shared, so that the change counts."""
    config = place / "ssh_config"
    config.write_text(cluster.config.read_text().replace(*change) + "  ControlPath none\n  ControlMaster no\n")
    return config


def test_a_host_that_cannot_be_reached_is_said_in_one_sentence(
    jobs: Jobs, cluster: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.kill()
    said = said_of(cluster.config, jobs, cluster, monkeypatch)
    assert said.startswith(f"{HOST} did not answer to mkdir by ssh, which says 'ssh: connect to host 127.0.0.1 port")
    assert f"expected `ssh -F {cluster.config} {HOST} true` to end without a question; try that by hand" in said


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        ("mine", "Permission denied (publickey)", "load a key that it accepts into your agent"),
        ("HostName 127.0.0.1", "Could not resolve hostname", "name a Host of ~/.ssh/config"),
        ("known_hosts", "Host key verification failed", "connect once by hand and compare the key"),
    ],
)
def test_a_key_or_a_name_that_is_not_accepted_is_said_in_one_sentence(
    change: str, said: str, remedy: str, jobs: Jobs, cluster: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"mine": "strange", "HostName 127.0.0.1": "HostName nowhere.invalid", "known_hosts": "none"}[change]
    note = said_of(changed(cluster, tmp_path, change, other), jobs, cluster, monkeypatch)
    assert said in note
    assert remedy in note


def test_a_connection_that_the_user_shares_is_the_one_that_is_used(
    jobs: Jobs, cluster: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a second factor was given in another terminal: by itself ssh could not come in."""
    config = tmp_path / "ssh_config"
    socket = cluster.folder / "s"
    opened = ["ssh", "-F", str(cluster.config), "-o", f"ControlPath={socket}", "-M", "-N", "-f", HOST]
    subprocess.run(opened, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    config.write_text(cluster.config.read_text().replace("mine", "strange") + f"  ControlPath {socket}\n")
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    key = jobs.add()
    assert jobs.finish(jobs.submitter(**there(cluster)), [key]).statuses[key].state is JobState.DONE


def test_a_queue_that_is_not_there_and_a_folder_that_cannot_be_made_are_named_with_their_host(
    jobs: Jobs, cluster: Sshd, tmp_path: Path
) -> None:
    key = jobs.add()
    with pytest.raises(SubmissionError, match=f"pbs on {HOST} refuses .*qsub cannot be started on {HOST} .*`bash -l`"):
        jobs.submitter(**there(cluster, queue="pbs")).step([key])
    (tmp_path / "file").write_text("")
    step = jobs.submitter(**there(cluster, remote_folder=str(tmp_path / "file" / "below"))).step([key])
    (note,) = step.notes
    assert note.startswith(f'mkdir on {HOST} ended with status 1 and "mkdir: cannot create directory')
    assert "dft.submission.remote_folder) to be a folder of yours" in note
    assert step.statuses[key].state is JobState.NEW


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "-oProxyCommand=touch x"}, "expected a Host of ~/.ssh/config"),
        ({"host": "me:secret@cluster"}, "expected a Host of ~/.ssh/config"),
        ({"host": "a b"}, "expected a Host of ~/.ssh/config"),
        ({"queue": "local"}, "queue is local: expected slurm, pbs or sge"),
        ({"remote_folder": None}, "must be an absolute path on my-cluster"),
        ({"remote_folder": "~/hullward"}, "must be an absolute path on my-cluster"),
        ({"remote_folder": "/a\nb"}, "remote_folder holds a line break"),
        ({"python": None}, "expected the path of a Python on my-cluster"),
        ({"host": None}, "remote_folder is set without host"),
        ({"remote_only": ["a/b"]}, "expected patterns of names of files"),
    ],
)
def test_settings_that_lead_nowhere_are_refused(changes: dict[str, Any], said: str) -> None:
    whole = {"queue": "slurm", "host": HOST, "remote_folder": "/scratch/me", "python": "/apps/python"}
    SubmissionConfig.model_validate(whole)
    with pytest.raises(ValidationError, match=said):
        SubmissionConfig.model_validate({**whole, **changes})


@pytest.mark.dft_real
def test_a_real_slurm_behind_ssh_is_followed_to_the_end_and_its_job_cancelled(
    slurm: Slurm, jobs: Jobs, cluster: Sshd
) -> None:
    profile = cluster.folder / "home" / ".bash_profile"
    text = profile.read_text()
    stand_ins = cluster.folder / "bin"
    profile.write_text(f"{text}export SLURM_CONF={slurm.config}\n")
    shutil.move(stand_ins, cluster.folder / "aside")
    try:
        keys = [jobs.add(seconds=1), jobs.add(seconds=[120, 0])]
        submitter = jobs.submitter(**there(cluster, partition="main"))
        submitter.step(keys)
        until(lambda: n_runs(jobs, cluster, keys[1]) == 1)
        assert submitter.step(keys).statuses[keys[1]].state is JobState.RUNNING
        submitter.cancel(keys[1:])
        found = jobs.finish(submitter, keys).statuses
        assert [found[key].state for key in keys] == [JobState.DONE, JobState.CANCELLED]
        assert [jobs.runs(key) for key in keys] == [1, 1]
        slurm.until(lambda: not slurm.run("squeue", "--noheader"))
    finally:
        profile.write_text(text)
        shutil.move(cluster.folder / "aside", stand_ins)
