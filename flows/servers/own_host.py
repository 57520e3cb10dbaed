"""Who may ask our servers: this machine by its own name, and pages that came from the server itself.

A page elsewhere can have its name point to loopback, and then asks with that name in Host; any page can send a request
anywhere, and the browser then names the page in Origin.
"""

from __future__ import annotations

from flows.servers.environment import NAMES, origins


def is_own_host(host: str | None) -> bool:
    """Whether a Host header names loopback. Any port: a tunnel may have another at its near end."""
    name, _, port = (host or "").lower().partition(":")
    return name in NAMES and (port == "" or port.isascii() and port.isdigit())


def is_own_origin(origin: str | None, host: str, port: int) -> bool:
    """Whether a request comes from no page at all, or from one of this server.

    Args:
        origin: the header of that name; programs that are no browsers send none.
        host: the Host header, found to be our own.
        port: the one that the server listens on.
    """
    return origin is None or origin in {f"http://{host}", *origins(port)}
