"""The reference implementation's own OPTIMADE server, on loopback, with crystals of our choice.

    with OptimadeServer([entry_of(record) for record in real_records()], prefix="alexandria") as server:
        ...                                   # talk to server.url
        server.replace(changed_entry)         # while it runs
        server.remove("mp-1234")

Its filters, paging, sorting and error bodies are the package's, so they say how a provider behaves that keeps to the
standard. Data live in memory (mongomock); nothing is asked of the network.
"""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import reduce
from math import gcd
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np
from pymatgen.core.structure import Structure

from tests.servers.real import RealRecord

Entry = dict[str, Any]
"""A structure as the server stores it: attributes and 'id' side by side."""

MODIFIED = "2024-05-01T12:00:00Z"

STARTUP_S = 60.0
"""Far beyond what the server takes, so that a loaded machine fails no test."""

_SERIAL = itertools.count()


def structure_entry(entry_id: str, structure: Structure, last_modified: str = MODIFIED) -> Entry:
    """A crystal with the fields of the standard."""
    symbols = [site.specie.symbol for site in structure]
    counts = dict(sorted(Counter(symbols).items()))
    divisor = reduce(gcd, counts.values())
    reduced = "".join(f"{symbol}{n // divisor if n > divisor else ''}" for symbol, n in counts.items())
    return {
        "id": entry_id,
        "type": "structures",
        "immutable_id": f"immutable-{entry_id}",
        "last_modified": last_modified,
        "elements": list(counts),
        "nelements": len(counts),
        "elements_ratios": [n / len(symbols) for n in counts.values()],
        "chemical_formula_reduced": reduced,
        "chemical_formula_descriptive": reduced,
        "chemical_formula_anonymous": _anonymous(n // divisor for n in counts.values()),
        "nperiodic_dimensions": 3,
        "dimension_types": [1, 1, 1],
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "cartesian_site_positions": np.asarray(structure.cart_coords).tolist(),
        "nsites": len(symbols),
        "species_at_sites": symbols,
        "species": [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in counts],
        "structure_features": [],
    }


def _anonymous(counts: Iterable[int]) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "".join(f"{x}{n if n > 1 else ''}" for x, n in zip(letters, sorted(counts, reverse=True), strict=False))


def alexandria_entry(record: RealRecord) -> Entry:
    """A real crystal with the fields that Alexandria adds; its total energy is made up, -3.5 eV per atom of each."""
    return structure_entry(record.material_id, record.structure) | {
        "_alexandria_energy_corrected": -3.5 * len(record.structure),
        "_alexandria_formation_energy_per_atom": record.formation_energy_ev_per_atom,
        "_alexandria_hull_distance": record.e_above_hull_ev_per_atom,
        "_alexandria_band_gap": record.band_gap_ev,
        "_alexandria_space_group": record.spacegroup,
        "_alexandria_magnetization": 0.25,
    }


def mp_entry(record: RealRecord) -> Entry:
    """A real crystal with the nested field of the Materials Project's OPTIMADE server."""
    stated = {
        "formation_energy_per_atom": record.formation_energy_ev_per_atom,
        "energy_above_hull": record.e_above_hull_ev_per_atom,
    }
    other = {"formation_energy_per_atom": -99.0, "energy_above_hull": 99.0}
    stability = {"gga_gga+u": stated, "r2scan": other, "gga_gga+u_r2scan": other}
    return structure_entry(record.material_id, record.structure) | {"_mp_stability": stability}


class OptimadeServer:
    """The server between `with` and its end, in a thread of this process.

    Attributes:
        url: base URL, such as 'http://127.0.0.1:40123', without '/v1'.
    """

    def __init__(self, entries: Iterable[Entry], prefix: str = "alexandria", page_limit_max: int = 500) -> None:
        """`prefix` is the provider's; fields of entries that begin with it are listed at /info/structures."""
        self._entries = [dict(entry) for entry in entries]
        self._prefix = prefix
        self._page_limit_max = page_limit_max
        self.url = ""

    def __enter__(self) -> Self:
        import uvicorn

        self._folder = tempfile.TemporaryDirectory()
        app = self._app(Path(self._folder.name))
        self._collection = app.state.entry_collections["structures"].collection
        if self._entries:
            self._collection.insert_many([dict(entry) for entry in self._entries])
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + STARTUP_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the OPTIMADE server did not start")
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(STARTUP_S)
        self._folder.cleanup()

    def replace(self, entry: Mapping[str, Any]) -> None:
        """Put an entry in the place of the one with its id, or add it."""
        self._collection.replace_one({"id": entry["id"]}, dict(entry), upsert=True)

    def remove(self, entry_id: str) -> None:
        """Take an entry out."""
        self._collection.delete_one({"id": entry_id})

    def _app(self, folder: Path) -> Any:
        # The package would log to standard output and to a folder of the system, from import on, and read settings from
        # the user's home folder unless another file is named.
        logging.getLogger("optimade").addHandler(logging.NullHandler())
        settings = folder / "optimade.json"
        settings.write_text("{}")
        with mock.patch.dict(os.environ, {"OPTIMADE_CONFIG_FILE": str(settings)}):
            from optimade.server.config import ServerConfig
            from optimade.server.create_app import create_app

            return create_app(ServerConfig(**self._settings(folder)))

    def _settings(self, folder: Path) -> dict[str, Any]:
        return {
            "insert_test_data": False,  # this is also what would ask optimade.org for the list of providers
            "database_backend": "mongomock",
            # Clients are shared per address within a process; a database of its own keeps servers apart.
            "mongo_database": f"optimade_{os.getpid()}_{next(_SERIAL)}",
            "page_limit_max": self._page_limit_max,
            "provider": {"prefix": self._prefix, "name": "Loopback", "description": "Test", "homepage": None},
            "provider_fields": {"structures": self._provider_fields()},
            "validate_api_response": False,
            "log_dir": folder,
            "log_level": "error",
        }

    def _provider_fields(self) -> list[dict[str, str]]:
        kinds = {int: "integer", float: "float", str: "string", bool: "boolean", dict: "dictionary", list: "list"}
        found = {
            name: kinds[type(value)]
            for entry in self._entries
            for name, value in entry.items()
            if name.startswith(f"_{self._prefix}_") and value is not None
        }
        return [{"name": name, "type": kind, "description": name} for name, kind in sorted(found.items())]
