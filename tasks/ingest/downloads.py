"""Where records of databases on the network are kept, and where their keys come from: one answer for all tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.ingest.secrets import secret_of

if TYPE_CHECKING:
    from generative.datasets.databases.harvest import NetworkContext


def network_context(folder: Path) -> NetworkContext:
    """Downloads in this folder; a key is looked up only when its database is among the sources."""
    from generative.datasets.databases.harvest import NetworkContext

    return NetworkContext(folder, secret_of)
