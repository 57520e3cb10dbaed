"""Registers the deployments of prefect.yaml, with the work pool they run in, on a running server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.servers.prefect_password import announced_server

POOL = "hullward"
FILE = "prefect.yaml"


class DeployError(RuntimeError):
    """Deployments that could not be registered."""


def deploy_all(folder: Path | None = None, environment: Mapping[str, str] | None = None) -> list[str]:
    """Create the work pool, unless it is there, and register every deployment of prefect.yaml.

    The server stores `folder` as the place where flows are run, so relative paths in settings start there.

    Args:
        folder: the checkout; None is the folder of this process.
        environment: for Prefect's commands; None is that of this process. PREFECT_API_URL in it names the server.

    Returns: The deployments' names, such as 'discover/ternary'.

    Raises: DeployError: if there is no prefect.yaml, no server answers, or the server refuses.
    """
    root = folder or Path.cwd()
    if not (root / FILE).is_file():
        raise DeployError(f"no {FILE} in {root}: run this in the checkout of Hullward")
    variables = {"DO_NOT_TRACK": "1", **(client_environment(root) if environment is None else environment)}
    # Without a server Prefect would start one for the moment, register there, and leave nothing that runs.
    variables["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    listed = _prefect(["work-pool", "inspect", POOL], root, variables)
    if listed.returncode != 0:
        created = _prefect(["work-pool", "create", POOL, "--type", "process"], root, variables)
        _require(created, variables)
    _require(_prefect(["--no-prompt", "deploy", "--all"], root, variables), variables)
    return deployment_names(root / FILE)


def client_environment(folder: Path) -> dict[str, str]:
    """The environment of a client: that of this process, and where it names no server, the running `make ui`."""
    announced = announced_server(folder / ".prefect")
    same = os.environ.get("PREFECT_API_URL", announced.get("PREFECT_API_URL")) == announced.get("PREFECT_API_URL")
    return {**(announced if same else {}), **os.environ}


def deployment_names(file: Path) -> list[str]:
    """Names of the deployments in a prefect.yaml, in its order; the flow's name is its function's."""
    stated: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [f"{entry['entrypoint'].rpartition(':')[2]}/{entry['name']}" for entry in stated["deployments"]]


def _prefect(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prefect", *arguments]
    return subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False)


def _require(done: subprocess.CompletedProcess[str], environment: Mapping[str, str]) -> None:
    if done.returncode == 0:
        return
    said = [line.strip(" │╭╰─╮╯") for line in (done.stdout + done.stderr).splitlines()]
    reason = next((line for line in reversed(said) if line), "no message")
    server = environment.get("PREFECT_API_URL")
    if server is None:
        raise DeployError(f"no server is named: start one with `make ui`, or set PREFECT_API_URL ({reason})")
    raise DeployError(f"the server at {server} did not take the deployments: {reason}")
