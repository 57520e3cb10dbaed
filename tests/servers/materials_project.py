"""A Materials Project on loopback: heartbeat, summary and thermo endpoints in the wire form of its API.

    with MaterialsProjectServer() as server:
        ...                                               # endpoint server.url, key KEY
        server.update("mp-1234", {"band_gap": 1.5})       # a record changes, and with it its date
        server.version = "2026.12.01"                     # the next release

Crystals, formation energies, energies above hull, band gaps and space groups are real (tests/servers/real.py). Made up
by fixed rules, most from the number in a material's id, are: reference energies, so that total energies exist; which
materials have r2SCAN energies; which carry one under the GGA scheme, where it does not belong; which are deprecated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

from pymatgen.core.periodic_table import Element

from tests.servers.loopback import Loopback, Reply, Request
from tests.servers.real import RealRecord, real_records

KEY = "m" * 31 + "K"
BARRED_KEY = "m" * 31 + "B"
"""A key that is known but has no right to ask."""

GGA, R2SCAN, MIXED = "GGA_GGA+U", "R2SCAN", "GGA_GGA+U_R2SCAN"
R2SCAN_SHIFT_EV = -0.8
MIXED_HULL_SHIFT_EV = 0.01
LIMIT_MAX = 1000
ADDRESS_MAX = 8000
PAGING = {"_skip", "_limit", "_fields", "_all_fields", "_sort_fields"}
HUBBARD = {"Co", "Cr", "Fe", "Mn", "Mo", "Ni", "V", "W"}

Document = Mapping[str, Any]


def id_number(material_id: str) -> int:
    return int(material_id.split("-")[1])


def has_gga(material_id: str) -> bool:
    """Whether there is a thermo document of the GGA scheme: of nine in ten."""
    return id_number(material_id) % 10 != 0


def has_r2scan(material_id: str) -> bool:
    return id_number(material_id) % 3 == 0 or not has_gga(material_id)


def is_mislabelled(material_id: str) -> bool:
    """Whether the document of the GGA scheme holds an r2SCAN energy."""
    return has_gga(material_id) and id_number(material_id) % 17 == 0


def is_deprecated(material_id: str) -> bool:
    return id_number(material_id) % 29 == 0


def gga_run_type(elements: tuple[str, ...]) -> str:
    return "GGA+U" if {"O", "F"} & set(elements) and HUBBARD & set(elements) else "GGA"


def gga_energy_ev_per_atom(real: RealRecord) -> float:
    """Formation energy and the elements' made-up energies, -Z/20 eV per atom."""
    fractions = real.structure.composition.fractional_composition
    references = sum(-Element(str(element)).Z / 20 * part for element, part in fractions.items())
    return real.formation_energy_ev_per_atom + references


def _summary(real: RealRecord) -> Document:
    number = id_number(real.material_id)
    structure = real.structure
    return {
        "material_id": real.material_id,
        "formula_pretty": structure.composition.reduced_formula,
        "chemsys": real.chemsys,
        "elements": list(real.elements),
        "nelements": len(real.elements),
        "nsites": len(structure),
        "volume": structure.volume,
        "density": float(structure.density),
        "symmetry": {"number": real.spacegroup, "symprec": 0.1, "version": "2.5.0"},
        "structure": structure.as_dict(),
        "band_gap": real.band_gap_ev,
        "is_metal": real.band_gap_ev == 0,
        "energy_above_hull": real.e_above_hull_ev_per_atom + _shift(real, MIXED_HULL_SHIFT_EV),
        "is_stable": real.e_above_hull_ev_per_atom == 0,
        "theoretical": number % 2 == 0,
        "database_IDs": {} if number % 2 == 0 else {"icsd": [f"icsd-{number}"]},
        "origins": [
            {"name": "energy", "task_id": f"mp-{number + 1}", "last_updated": "2024-01-01T00:00:00"},
            {"name": "structure", "task_id": f"mp-{number + 2}", "last_updated": "2024-01-02T00:00:00"},
        ],
        "deprecated": is_deprecated(real.material_id),
        "last_updated": f"2025-03-{number % 28 + 1:02d}T10:20:30.123000",
    }


def _shift(real: RealRecord, shift_ev: float) -> float:
    return shift_ev if has_r2scan(real.material_id) else 0.0


def _thermo(real: RealRecord, thermo_type: str) -> Document:
    run_type = gga_run_type(real.elements)
    shift_ev, hull_shift_ev = 0.0, 0.0
    if thermo_type == R2SCAN or (thermo_type == MIXED and has_r2scan(real.material_id)):
        run_type, shift_ev, hull_shift_ev = "r2SCAN", R2SCAN_SHIFT_EV, MIXED_HULL_SHIFT_EV
    elif thermo_type == GGA and is_mislabelled(real.material_id):
        run_type, shift_ev = "r2SCAN", R2SCAN_SHIFT_EV
    energy = gga_energy_ev_per_atom(real) + shift_ev
    return {
        "thermo_id": f"{real.material_id}_{thermo_type}",
        "material_id": real.material_id,
        "thermo_type": thermo_type,
        "energy_type": run_type,
        "entry_types": [run_type],
        "energy_per_atom": energy,
        "uncorrected_energy_per_atom": energy + 0.05,
        "formation_energy_per_atom": real.formation_energy_ev_per_atom,
        "energy_above_hull": real.e_above_hull_ev_per_atom + hull_shift_ev,
        "deprecated": False,
        "last_updated": f"2025-04-{id_number(real.material_id) % 28 + 1:02d}T01:02:03.456000",
    }


@lru_cache(maxsize=4)
def _documents(n: int) -> tuple[tuple[Document, tuple[Document, ...]], ...]:
    def schemes(real: RealRecord) -> list[str]:
        there = [MIXED]
        return there + [GGA] * has_gga(real.material_id) + [R2SCAN] * has_r2scan(real.material_id)

    return tuple((_summary(real), tuple(_thermo(real, name) for name in schemes(real))) for real in real_records(n))


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise _RefusedError(422, f"value could not be parsed to a boolean: {text}")
    return text.lower() in ("true", "1")


Test = Callable[[Document], bool]
ELEMENTS_TEXT_MAX = 60
IN_LIST = {"material_ids": "material_id", "formula": "formula_pretty", "thermo_types": "thermo_type"}
TRUTHS = ("deprecated", "is_metal", "is_stable", "theoretical")
NUMBERS = ("nelements", "nsites", "volume", "density", "band_gap", "energy_above_hull")


def _test(name: str, text: str) -> Test:
    """The condition that a parameter of the API stands for."""
    items = set(text.split(","))
    if name in IN_LIST:
        return lambda document: document[IN_LIST[name]] in items
    if name == "chemsys":
        systems = {"-".join(sorted(system.split("-"))) for system in items}
        return lambda document: document["chemsys"] in systems
    if name in ("elements", "exclude_elements"):
        if len(text) > ELEMENTS_TEXT_MAX:
            raise _RefusedError(422, f"String should have at most {ELEMENTS_TEXT_MAX} characters")
        if name == "elements":
            return lambda document: items <= set(document["elements"])
        return lambda document: not items & set(document["elements"])
    if name == "spacegroup_number":
        return lambda document: document["symmetry"]["number"] == int(text)
    if name in TRUTHS:
        wanted = _truth(text)
        return lambda document: document[name] == wanted
    field, _, end = name.rpartition("_")
    if field not in NUMBERS or end not in ("min", "max"):
        raise _RefusedError(400, f"Request contains query parameters which cannot be used: {name}")
    bound = float(text)
    return lambda document: document[field] >= bound if end == "min" else document[field] <= bound


class MaterialsProjectServer(Loopback):
    """The server; see the head of this file.

    Attributes:
        version: of the database, as heartbeat states it.
        summaries: id -> summary document. Replace documents, do not edit them: they are shared between servers.
        thermos: (id, thermo type) -> thermo document.
    """

    def __init__(self, n: int = 1200, version: str = "2026.11.05") -> None:
        """Materials of the first n real records; the tests skip where those are absent."""
        super().__init__()
        self.version = version
        self.summaries = {str(summary["material_id"]): summary for summary, _ in _documents(n)}
        self.thermos = {
            (str(thermo["material_id"]), str(thermo["thermo_type"])): thermo
            for _, thermos in _documents(n)
            for thermo in thermos
        }
        self._turn = threading.Lock()

    @property
    def ids(self) -> list[str]:
        """Of all materials that are not deprecated, in order."""
        return sorted(name for name, summary in self.summaries.items() if not summary["deprecated"])

    def update(
        self,
        material_id: str,
        summary: Document | None = None,
        thermo: Document | None = None,
        thermo_type: str = GGA,
        date: str = "2026-11-01T00:00:00.000000",
    ) -> None:
        """Change fields of a material's summary, or of a thermo document, and the date of what was changed."""
        with self._turn:
            if summary is not None:
                self.summaries[material_id] = {**self.summaries[material_id], "last_updated": date, **summary}
            if thermo is not None:
                key = (material_id, thermo_type)
                self.thermos[key] = {**self.thermos[key], "last_updated": date, **thermo}

    def remove(self, material_id: str) -> None:
        """Take a material away."""
        with self._turn:
            del self.summaries[material_id]
            self.thermos = {key: thermo for key, thermo in self.thermos.items() if key[0] != material_id}

    def copy(self, material_id: str, new_id: str) -> None:
        """A new material with the crystal and energies of another."""
        with self._turn:
            self.summaries[new_id] = {**self.summaries[material_id], "material_id": new_id}
            for (name, thermo_type), thermo in list(self.thermos.items()):
                if name == material_id:
                    self.thermos[new_id, thermo_type] = {**thermo, "material_id": new_id}

    def answer(self, request: Request) -> Reply | Any:
        """What the API says."""
        if request.route == "/heartbeat":
            return {"status": "OK", "db_version": self.version, "access_controlled_batch_ids": []}
        if request.headers.get("x-api-key") == BARRED_KEY:
            return Reply({"message": "You cannot consume this service"}, status=403)
        if request.headers.get("x-api-key") != KEY:
            return Reply({"message": "Invalid authentication credentials"}, status=401)
        if len(request.path) > ADDRESS_MAX:
            return Reply({"message": "URI Too Long"}, status=414)
        with self._turn:
            documents: dict[str, list[Document]] = {
                "/materials/summary/": list(self.summaries.values()),
                "/materials/thermo/": list(self.thermos.values()),
            }
        if request.route not in documents:
            return Reply({"detail": "Not Found"}, status=404)
        try:
            return _found(documents[request.route], request.query)
        except (_RefusedError, ValueError) as error:
            return Reply({"detail": str(error)}, status=getattr(error, "status", 422))


def _found(documents: list[Document], query: dict[str, str]) -> dict[str, Any]:
    query = {"deprecated": "false"} | query
    tests = [_test(name, text) for name, text in query.items() if name not in PAGING]
    # Without a wish for an order there is none to rely on: here, the reverse of the ids'.
    matching = [document for document in reversed(documents) if all(test(document) for test in tests)]
    for name in reversed(query["_sort_fields"].split(",") if "_sort_fields" in query else []):
        matching.sort(key=itemgetter(name.lstrip("-")), reverse=name.startswith("-"))
    skip, limit = int(query.get("_skip", 0)), int(query.get("_limit", 100))
    if limit > LIMIT_MAX or skip < 0 or limit < 0:
        raise _RefusedError(400, f"Requested more data per query than allowed. The max limit is {LIMIT_MAX} entries")
    end = None if limit == 0 else skip + limit
    fields = query.get("_fields", "material_id").split(",")
    whole = query.get("_all_fields", "").lower() == "true"
    page = [
        dict(document) if whole else {field: document[field] for field in fields if field in document}
        for document in matching[skip:end]
    ]
    return {
        "data": page,
        "meta": {
            "api_version": "0.86.0",
            "time_stamp": "2026-11-20T00:00:00.000000",
            "total_doc": len(matching),
            "max_limit": LIMIT_MAX,
        },
    }
