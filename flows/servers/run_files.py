"""Reports of runs over HTTP: one folder, read only, loopback only. The links of a run's page in the UI lead here."""

from __future__ import annotations

import html
import io
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from flows.servers.environment import HOST
from flows.servers.own_host import is_own_host


class RunFiles(SimpleHTTPRequestHandler):
    """Serves files below a folder: no names that begin with a dot, nothing that a link leads out of it."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".cif": "text/plain",
        ".parquet": "application/octet-stream",
    }

    def send_head(self) -> Any:
        """See SimpleHTTPRequestHandler: the reply's head for GET and HEAD, after our own checks."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not is_own_host(hosts[0]):
            self.send_error(HTTPStatus.FORBIDDEN, f"expected the host {HOST}")
            return None
        root = Path(self.directory).resolve()
        parts = [part for part in unquote(urlsplit(self.path).path).split("/") if part]
        wanted = root.joinpath(*parts)
        hidden = any(part.startswith(".") or "\0" in part or "\\" in part for part in parts)
        if hidden or not wanted.resolve().is_relative_to(root):
            self.send_error(HTTPStatus.NOT_FOUND, "no such file")
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> Any:
        """The runs, datasets and campaigns that have a report, newest first; the files of any other folder."""
        folder, root = Path(path), Path(self.directory)
        if folder.resolve() == root.resolve():
            patterns = ("*/report.html", "datasets/*/report.html", "campaigns/*/report.html")
            reports = sorted((file for pattern in patterns for file in root.glob(pattern)), key=_newest_first)
            names = [file.parent.relative_to(root).as_posix() for file in reports]
            links = [(name, f"{quote(name)}/report.html") for name in names]
        else:
            entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
            links = [(e.name + "/" * e.is_dir(), quote(e.name) + "/" * e.is_dir()) for e in entries]
        items = "".join(f'<li><a href="{href}">{html.escape(name)}</a></li>' for name, href in links)
        title = "Runs" if folder.resolve() == root.resolve() else html.escape(folder.name)
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            f'<body style="font: 16px/1.6 system-ui; margin: 2rem"><h1>{title}</h1>'
            f"<ul>{items}</ul>{'' if links else '<p>None yet.</p>'}"
        ).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        return io.BytesIO(page)

    def end_headers(self) -> None:
        """Reports change when a run is done again, so nothing is kept by the browser."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for the addresses."""


def _newest_first(file: Path) -> float:
    return -file.stat().st_mtime


def report_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of this folder on loopback, bound but not yet serving; port 0 takes any free one."""
    server = ThreadingHTTPServer((HOST, port), partial(RunFiles, directory=str(folder)))
    server.daemon_threads = True
    return server
