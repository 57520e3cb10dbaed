"""A real browser without a window, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PATIENCE_S = 120

FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server", "--remote-debugging-port=0"),
    "--window-size=1280,900",
]


def chromium() -> str | None:
    """The program, where one is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    def ask(self, method: str, **arguments: Any) -> Any:
        """The reply to a command of the protocol; events in between are of no interest."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": arguments}))
        while True:
            said = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    def go(self, address: str) -> None:
        self.ask("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, script: str) -> Any:
        """Of a JavaScript expression; a promise is waited for."""
        told = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait_for(self, script: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):  # between two pages there is nothing to ask
                if self.value(script):
                    return
            time.sleep(0.1)
        raise AssertionError(f"waited in vain for {script}; the page says: {self.text()[:1000]}")

    def text(self) -> str:
        return str(self.value("document.body.innerText"))

    def type(self, text: str) -> None:
        """Into what has the focus, as from a keyboard, with Enter at the end."""
        self.ask("Input.insertText", text=text)
        for kind in ("rawKeyDown", "char", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
            )

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browsing(folder: Path, *flags: str) -> Iterator[Page]:
    """A browser with an empty profile in this folder; its first tab."""
    program = chromium()
    assert program is not None
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, "about:blank"], stdout=log, stderr=log
        )
    try:
        port = _port(folder / "profile" / "DevToolsActivePort", process)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://127.0.0.1:{port}/json"
        ) as reply:
            tabs = [tab for tab in json.loads(reply.read()) if tab["type"] == "page"]
        with connect(tabs[0]["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.kill()
        process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the browser has ended"
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(file.read_text().split()[0])
        time.sleep(0.1)
    raise AssertionError("the browser did not start")
