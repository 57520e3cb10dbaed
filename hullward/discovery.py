"""A whole run from Python: the command itself in a process of its own.

A flow changes its process: signals, logging, environment, and in a notebook an event loop is running. In a process of
its own a run can be interrupted at once, and leaves nothing behind but its folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hullward.run import Run, load_run

if TYPE_CHECKING:
    from configs.schema import DiscoverConfig
    from tasks.plans.record import Plan

SAID = "hullward: "
"""What a command's own sentence on a failure begins with."""

GRACE_S = 20.0
"""Longest wait for a run that was told to stop."""

WRONG_SETTINGS = 2
"""Exit code of commands for settings that are wrong."""


class RunFailedError(RuntimeError):
    """A run that did not come to its end; the same call goes on from what is done."""


def discover(
    what: str | Path = "quickstart",
    *,
    elements: str | Sequence[str] | None = None,
    n_candidates: int | None = None,
    name: str | None = None,
    seed: int | None = None,
    potential: str | None = None,
    runs_folder: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
    quiet: bool = False,
) -> Run:
    """A whole run: known crystals, candidates, screening, relaxation, hull, VASP inputs, report.

    It is `hullward discover` in a process of its own, with the same results in the same folder. Interrupted or called
    again it goes on from what is done.

    Args:
        what: a chemical system, such as "Li-Fe-P-O", with the settings of `ternary` and the known crystals of its that
            are on this machine; the name of shipped settings, such as "ternary"; or a YAML file.
        elements: another chemical system than that of the settings.
        n_candidates: how many to draw.
        name: of the run and of its folder; without, another system has its own.
        seed: of every random draw.
        potential: that relaxes all; without, the default or its fallback.
        runs_folder: where the run's folder is made; without, 'runs'.
        settings: further settings as in a settings file, such as {"relax": {"fmax_ev_per_ang": 0.02}}.
        changes: the same as --set takes them, made last: ["relax.fmax_ev_per_ang=0.02"].
        quiet: leave out the lines that say how far the run is, on standard error.

    Raises:
        ConfigError: if a setting is wrong.
        OtherRunError: if a run of other settings lies in the folder of this name.
        RunFailedError: if the run fails.
    """
    from tasks.discover.run import RunFolder, refuse_other_run

    config = _config_of(
        str(what),
        elements,
        {"name": name, "seed": seed, "sample.n_candidates": n_candidates, "execution.runs_folder": runs_folder},
        potential,
        settings,
        changes,
    )
    folder = Path(config.execution.runs_folder) / config.name
    refuse_other_run(RunFolder(folder), config)
    with TemporaryDirectory(prefix="hullward-") as place:
        file = Path(place) / "settings.yaml"
        file.touch(mode=0o600)
        file.write_text(config.model_dump_json(), encoding="utf-8")  # JSON is YAML
        _carried_out(["discover", str(file)], quiet)
    return load_run(folder)


def plan(
    what: str | Path = "quickstart",
    *,
    elements: str | Sequence[str] | None = None,
    n_candidates: int | None = None,
    name: str | None = None,
    seed: int | None = None,
    potential: str | None = None,
    runs_folder: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> Plan:
    """What `discover` with the same arguments would do: formulas, known crystals, potentials, time, files.

    Nothing is computed or written. Printed, it is what `hullward plan` shows; `as_dict()` has all of it.

    Args:
        what: as of discover, as are all others.
        elements: likewise.
        n_candidates: likewise.
        name: likewise.
        seed: likewise.
        potential: likewise.
        runs_folder: likewise.
        settings: likewise.
        changes: likewise.

    Raises: ConfigError, OtherRunError: as discover; CheckpointError, PlanError: where a run would stop at its start.
    """
    from tasks.plans.discover import plan_run

    given = {"name": name, "seed": seed, "sample.n_candidates": n_candidates, "execution.runs_folder": runs_folder}
    return plan_run(_config_of(str(what), elements, given, potential, settings, changes))


def _config_of(
    what: str,
    elements: str | Sequence[str] | None,
    given: Mapping[str, Any],
    potential: str | None,
    settings: Mapping[str, Any] | None,
    changes: Sequence[str],
) -> DiscoverConfig:
    """The settings as the command would have them. Raises: ConfigError: as for configs.command_line.run_settings."""
    from configs.command_line import SYSTEM, elements_of, potential_changes, run_settings
    from configs.schema import ConfigError

    if elements is not None and SYSTEM.fullmatch(what) is not None:
        raise ConfigError(f"two chemical systems, {what} and {elements}: expected one")
    chosen = elements_of(elements) if isinstance(elements, str) or elements is None else list(elements)
    stated = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    options = {**stated, "elements": chosen, **potential_changes(potential)}
    return run_settings(what, options, list(changes), settings)


def _carried_out(arguments: Sequence[str], quiet: bool) -> None:
    """A command of Hullward's in a process of its own, what it says on this one's standard error.

    Raises:
        ConfigError: if it ends with the exit code of wrong settings.
        RunFailedError: if it fails otherwise.
    """
    from configs.schema import ConfigError

    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            for line in process.stderr or ():
                last.append(line.rstrip())
                if not quiet:
                    sys.stderr.write(line)
                    sys.stderr.flush()
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
    if code:
        said = [line.removeprefix(SAID) for line in last if line.startswith(SAID)]
        sentence = said[-1] if said else " ".join(list(last)[-1:]) or f"the run ended with exit code {code}"
        raise ConfigError(sentence) if code == WRONG_SETTINGS else RunFailedError(sentence)


def _stop(process: subprocess.Popen[str]) -> None:
    """End it as Ctrl-C does; what is done by then stays."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _environment() -> dict[str, str]:
    """The environment of the process, which finds this very package as this one did."""
    from configs.paths import PROJECT

    known = os.environ.get("PYTHONPATH", "")
    if str(PROJECT) in known.split(os.pathsep) or PROJECT.name in {"site-packages", "dist-packages"}:
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (known, str(PROJECT))))}
