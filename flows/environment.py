"""Settings of Prefect on one machine: SQLite in .prefect, loopback, no telemetry. Set before Prefect is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HOST = "127.0.0.1"
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_PROMPT": "false",
}
SQLITE = {
    # One event at a time costs the server 16 ms of CPU each, and a burst of them locks the database for seconds.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_CLIENT_MAX_RETRIES": "12",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def home_settings(home: Path) -> dict[str, str]:
    """Where server and client keep their files."""
    return {"PREFECT_HOME": str(home), "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui")}


def server_environment(home: Path, port: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server on loopback, its worker and its clients.

    Args:
        home: folder of the database.
        port: of the server.
        environment: what the processes would inherit; what it says of timeouts and batches stands, addresses do not.
    """
    addresses = {"PREFECT_API_URL": f"http://{HOST}:{port}/api", "PREFECT_UI_URL": f"http://{HOST}:{port}/v2"}
    return {**SQLITE, **environment, **QUIET, **home_settings(home), **addresses}


def prepare_client() -> None:
    """Make this process a quiet Prefect client; without a server to talk to, one that starts its own for the while.

    A server named by PREFECT_API_URL or by a profile of the user is used as it is.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    has_profile = (Path.home() / ".prefect" / "profiles.toml").is_file()
    if "PREFECT_API_URL" in os.environ or "PREFECT_PROFILE" in os.environ or has_profile:
        return
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    # The server of a short run is stopped while it still writes records; what it says then is of no use to anyone.
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_ROOT_LEVEL", "CRITICAL")
    for name, value in {**SQLITE, **home_settings(Path.cwd() / ".prefect")}.items():
        os.environ.setdefault(name, value)
