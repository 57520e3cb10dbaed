"""A run or a dataset behind OPTIMADE's own reference server: one process, data in memory, loopback only.

The server writes nothing outside a temporary folder, which goes with it: neither into the home folder nor into
/var/log, where it would keep its settings and its log by itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Any

from flows.console import progress_bar, say
from flows.environment import HOST
from flows.services import ServeError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tasks.optimade_export import Exported

PAGE_STRUCTURES_MAX = 1000
"""Most structures in one reply; a client that asks for no number gets 20."""

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


def listening_on(port: int) -> socket.socket:
    """A socket of loopback, taken before any work is done; port 0 takes any free one.

    Raises:
        ServeError: if another program has the port.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise ServeError(
            f"port {port} of {HOST} is taken: stop the program that has it, or choose another, such as "
            f"--port {port + 10 if port < 65_000 else 5010}"
        ) from None
    return listener


def server_settings(exported: Exported, address: str, folder: Path) -> dict[str, Any]:
    """Settings of OPTIMADE's server, as its configuration file holds them.

    Args:
        exported: what is served.
        address: 'http://host:port', without the version.
        folder: for the log and the landing page.
    """
    from configs.paths import project_version
    from tasks.optimade_fields import PREFIX

    page = folder / "landing.html"
    page.write_text(LANDING_PAGE, encoding="utf-8")
    fields = [{"name": one.name, **one.definition()} for one in exported.origin.fields]
    return {
        "database_backend": "mongomock",
        "insert_test_data": False,
        "insert_from_jsonl": str(exported.file),
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

    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from optimade.server.config import ServerConfig
    from optimade.server.create_app import create_app

    app: FastAPI = create_app(ServerConfig())
    _complete(app.state.entry_collections, exported, address)
    # Results not yet published: no page that the user happens to visit may read them, by CORS or by a name it owns.
    cors: Any = CORSMiddleware
    app.user_middleware = [one for one in app.user_middleware if one.cls is not cors]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return app


def _search_literally(collection: Any) -> None:
    """Have STARTS, ENDS and CONTAINS look for their text as it stands.

    The server makes a regular expression of it, in which "Ca(GaP)2" would not find itself.
    """
    from optimade.filtertransformers.mongo import MongoTransformer

    class Literal(MongoTransformer):
        def fuzzy_string_op_rhs(self, arg: list[Any]) -> dict[str, str]:
            """Rule of the grammar: CONTAINS | STARTS [WITH] | ENDS [WITH], then the text."""
            return {"$regex": _PATTERNS[str(arg[0])].format(re.escape(arg[-1]))}

    collection.transformer = Literal(mapper=collection.resource_mapper)


_PATTERNS = {"CONTAINS": "{}", "STARTS": "^{}", "ENDS": r"{}\Z"}


def _complete(collections: dict[str, Any], exported: Exported, address: str) -> None:
    """What the lines do not say as the server's database wants it: dates as dates, and where the root of all is."""
    from mongomock.codec_options import CodecOptions

    structures, options = collections["structures"], CodecOptions(tz_aware=True)  # type: ignore[no-untyped-call]
    structures.collection = structures.collection.with_options(codec_options=options)
    _search_literally(structures)
    modified = datetime.fromisoformat(exported.origin.last_modified)
    structures.collection.update_many({}, {"$set": {"last_modified": modified}})
    root = {"id": "root", "name": "Hullward", "description": ABOUT, "base_url": address, "homepage": None}
    collections["links"].insert([{**root, "type": "links", "link_type": "root"}])


def _run(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_S
    )
    Server(config).run(sockets=[listener])


def serve_optimade(path: Path, port: int, everything: bool) -> None:
    """Serve a run or a dataset until SIGINT or SIGTERM.

    Args:
        path: see tasks.optimade_export.origin_of.
        port: of loopback; 0 takes any free one.
        everything: also candidates that were turned away.

    Raises:
        ServeError: if the port is taken.
        ExportError, DatasetError: see tasks.optimade_export.export.
    """
    with _stopping_quietly(), listening_on(port) as listener, TemporaryDirectory(prefix="hullward-optimade-") as place:
        from tasks.optimade_export import export

        folder = Path(place)
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
