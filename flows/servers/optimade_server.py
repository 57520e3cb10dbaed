"""A run or a dataset behind OPTIMADE's own reference server: one process, data in memory, loopback only.

The server writes nothing outside a temporary folder, which goes with it: neither into the home folder nor into
/var/log, where it would keep its settings and its log by itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Any

from flows.cli.console import progress_bar, say
from flows.servers.environment import HOST
from flows.servers.services import listening_on

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tasks.optimade.export import Exported

PAGE_STRUCTURES_MAX = 1000
"""Most structures in one reply; a client that asks for no number gets 20."""

HEADERS_BYTES_MAX = 1 << 20
"""Of a request, its address included; more is no HTTP to the server, which then closes the connection."""

SHUTDOWN_S = 5
"""Longest wait for replies under way."""

ABOUT = (
    "Crystals of a Hullward run or dataset. _hullward_energy_method is the level of theory of an entry's energies; "
    "unless it says otherwise they are screening energies of a machine-learned potential, not DFT."
)
LANDING_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ provider.name }}</title>
<body style="font: 16px/1.6 system-ui; margin: 2rem">
<h1>{{ provider.name }}</h1><p>{{ provider.description }}</p><p>OPTIMADE {{ api_version }}</p>
<ul>{% ENDPOINTS %}</ul>{% INDEX_BASE_URL %}
</body></html>
"""
"""Without the pictures and style sheets from the internet that the server's own page asks for."""


class _StoppedError(Exception):
    """SIGINT or SIGTERM."""


@contextmanager
def _stopping_quietly() -> Iterator[None]:
    """Within it SIGINT and SIGTERM are an orderly end, wherever they arrive; uvicorn first finishes its replies."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _StoppedError

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _StoppedError:
        say("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def server_settings(exported: Exported, address: str, folder: Path) -> dict[str, Any]:
    """Settings of OPTIMADE's server, as its configuration file holds them.

    Args:
        exported: what is served.
        address: 'http://host:port', without the version.
        folder: for the log and the landing page.
    """
    from configs.paths import project_version
    from tasks.optimade.fields import PREFIX

    page = folder / "landing.html"
    page.write_text(LANDING_PAGE, encoding="utf-8")
    fields = [{"name": one.name, **one.definition()} for one in exported.origin.fields]
    return {
        "database_backend": "mongomock",
        "insert_test_data": False,
        "page_limit_max": PAGE_STRUCTURES_MAX,
        "root_path": "",
        "base_url": address,
        "index_base_url": None,
        "custom_landing_page": str(page),
        "provider": {"prefix": PREFIX, "name": f"Hullward: {exported.origin.title}", "description": ABOUT},
        "implementation": {"name": "Hullward", "version": project_version()},
        "provider_fields": {"structures": fields},
        "log_level": "error",
        "log_dir": str(folder),
    }


def application(exported: Exported, address: str, folder: Path) -> FastAPI:
    """OPTIMADE's server with the exported structures in it.

    Call it once per process: the server reads its settings where it is imported, not only where it is made.
    """
    settings = folder / "optimade.json"
    settings.write_text(json.dumps(server_settings(exported, address, folder)), encoding="utf-8")
    for name in [name for name in os.environ if name.upper().startswith("OPTIMADE_")]:
        del os.environ[name]  # they would go before the settings
    os.environ["OPTIMADE_CONFIG_FILE"] = str(settings)

    from optimade.server.config import ServerConfig
    from optimade.server.create_app import create_app

    from flows.servers.optimade_collection import TableCollection
    from flows.servers.optimade_http import harden

    app: FastAPI = create_app(ServerConfig())
    root = {"id": "root", "name": "Hullward", "description": ABOUT, "base_url": address, "homepage": None}
    entries = {
        "structures": _structures(exported.file),
        "links": [{**root, "type": "links", "link_type": "root"}],
        "references": [],
    }
    app.state.entry_collections = {
        name: TableCollection(entries[name], its_own) for name, its_own in app.state.entry_collections.items()
    }
    # Results not yet published: no page that the user happens to visit may read them, by CORS or by a name it owns.
    harden(app, [HOST, "localhost"])
    return app


def _structures(file: Path) -> list[dict[str, Any]]:
    """Entries of an export, each with its id, type and attributes side by side."""
    from tasks.optimade.export import N_HEADER_LINES

    with file.open(encoding="utf-8") as lines:
        resources = [json.loads(line) for line in islice(lines, N_HEADER_LINES, None)]
    return [{"id": one["id"], "type": one["type"], **one["attributes"]} for one in resources]


def _run(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        http="h11",  # has a limit of addresses that can be raised, so that one that is too long is told so
        h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
    )
    Server(config).run(sockets=[listener])


def serve_optimade(path: Path, port: int, everything: bool) -> None:
    """Serve a run or a dataset until SIGINT or SIGTERM.

    Args:
        path: see tasks.optimade.export.origin_of.
        port: of loopback; 0 takes any free one.
        everything: also candidates that were turned away.

    Raises:
        ServeError: if the port is taken.
        ExportError, DatasetError: see tasks.optimade.export.export.
    """
    with (
        _stopping_quietly(),
        listening_on(port, "--port ") as listener,
        TemporaryDirectory(prefix="hullward-optimade-") as temporary,
    ):
        from tasks.optimade.export import export

        folder = Path(temporary)
        address = f"http://{HOST}:{listener.getsockname()[1]}"
        with progress_bar("structures", hidden=False) as bar:
            exported = export(path, folder / "structures.jsonl", everything, bar)

        def announce() -> None:
            client = Path(sys.executable).parent / "optimade-get"
            say(
                f"{exported.n_structures} structures of {exported.origin.title}: {address}/v1/structures\n\n"
                f"to ask it:  {client} --output-file found.json --filter 'nelements>=2' {address}\n"
                "Ctrl-C stops it"
            )

        _run(application(exported, address, folder), listener, announce)
