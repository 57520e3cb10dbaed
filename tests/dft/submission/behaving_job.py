"""A job that does as its folder says: takes its time, fails, dies; in the place of dft.run_job."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
stated = json.loads((folder / "job.json").read_text())
behaviour = stated["behaviour"]
if (folder / "record.json").exists():
    sys.exit(0)
with (folder / "runs.txt").open("a") as runs:
    runs.write(f"{os.getpid()} {time.time()}\n")
n_runs = len((folder / "runs.txt").read_text().splitlines())


def stop(number: int, frame: object) -> None:
    error = {"schema_version": "1", "key": stated["key"], "kind": "stopped", "reason": "told to end"}
    (folder / "error.json").write_text(json.dumps({**error, "is_retryable": True, "when": ""}))
    sys.exit(1)


if behaviour.get("says_stopped"):
    signal.signal(signal.SIGTERM, stop)
seconds = behaviour.get("seconds", 0.0)
time.sleep(seconds[min(n_runs, len(seconds)) - 1] if isinstance(seconds, list) else seconds)
if n_runs <= behaviour.get("dies_first", 0):
    sys.stderr.write("about to die\n")
    sys.stderr.flush()
    os.kill(os.getpid(), behaviour["signal"])
if n_runs <= behaviour.get("fails_first", 0):
    error = {"schema_version": "1", "key": stated["key"], "kind": "scf", "reason": "electrons did not converge"}
    error |= {"is_retryable": behaviour.get("is_retryable", True), "when": "2026-01-01T00:00:00+00:00"}
    (folder / ".error").write_text(json.dumps(error))
    os.replace(folder / ".error", folder / "error.json")
    sys.exit(1)
(folder / ".record").write_text(json.dumps({"key": stated["key"], "run": n_runs}))
os.replace(folder / ".record", folder / "record.json")
