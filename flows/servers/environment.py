"""Settings of Prefect on one machine: SQLite in .prefect or a PostgreSQL that the environment names, loopback, no
telemetry. Set before Prefect is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HOST = "127.0.0.1"
NAMES = frozenset({HOST, "localhost"})
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
DATABASE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Where the server keeps its records, in both of Prefect's spellings; without either, in SQLite."""

OF_SERVER_ALONE = frozenset({*DATABASE, "PREFECT_SERVER_DATABASE_PASSWORD", "PREFECT_API_DATABASE_PASSWORD"})
"""May hold the database's password: of no use to a worker, a flow or a command, whose settings travel."""

DRIVERS = ("postgresql+asyncpg", "sqlite+aiosqlite")
SECRET = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")
"""What the server asks for, and what a client says."""


class DatabaseAddressError(ValueError):
    """The address of the server's database is of no form that Prefect knows; the message does not repeat it."""


def require_database_address(environment: Mapping[str, str]) -> None:
    """Raises: DatabaseAddressError: if the environment names a database that no server could use."""
    for name in DATABASE:
        if name in environment and not environment[name].startswith(tuple(f"{driver}://" for driver in DRIVERS)):
            raise DatabaseAddressError(
                f"{name} is not the address of a database (its value is not shown): expected "
                "postgresql+asyncpg://USER:PASSWORD@HOST:5432/NAME, or unset it for SQLite in .prefect"
            )


def without_database(environment: Mapping[str, str]) -> dict[str, str]:
    """The same for a process that asks a server and is none."""
    return {name: value for name, value in environment.items() if name not in OF_SERVER_ALONE}


def be_quiet() -> None:
    """Have this process's Prefect send nothing, not even word of its first import; so call this before."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def origins(port: int) -> list[str]:
    """The origins of pages that a server on this port of loopback has sent."""
    return [f"http://{name}:{port}" for name in sorted(NAMES)]


def home_settings(home: Path) -> dict[str, str]:
    """Where server and client keep their files."""
    return {"PREFECT_HOME": str(home), "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui")}


def server_environment(home: Path, port: int, environment: Mapping[str, str], password: str | None) -> dict[str, str]:
    """The environment of a server on loopback, its worker and its clients.

    Args:
        home: folder of the database.
        port: of the server.
        environment: what the processes would inherit; what it says of timeouts and batches stands, addresses do not.
        password: user:password, which the server asks for; None lets every program of this machine in.
    """
    named = {"PREFECT_API_URL": f"http://{HOST}:{port}/api", "PREFECT_UI_URL": f"http://{HOST}:{port}/v2"}
    # Without it Prefect lets pages of every origin read what it replies.
    named["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] = ",".join(origins(port))
    others = {name: value for name, value in environment.items() if name not in SECRET}
    secret = dict.fromkeys(SECRET, password) if password is not None else {}
    return {**SQLITE, **others, **QUIET, **home_settings(home), **named, **secret}
