"""A served run, asked by OPTIMADE's own client and validator and by pymatgen, held against its table."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from optimade.client import OptimadeClient
from optimade.models import ErrorResponse, ResponseMeta
from optimade.validator import ImplementationValidator
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.ext.optimade import OptimadeRester

from generative.config import ELEMENTS
from generative.crystal.crystals import crystals_of
from tasks.optimade.fields import CANDIDATE_FIELDS
from tests.flows.conftest import ROOT, Campaign, Run
from tests.fuzzing import Fuzz
from tests.servers.finished_run import METHODS, candidate_rows, write_run
from tests.servers.optimade_queries import Queries, written_at

N = 100
"""Candidates, 80 of them ranked: four pages of the server."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Served:
    """A server that runs: its address without the version, its process, its home folder, its words so far."""

    address: str
    process: subprocess.Popen[str]
    home: Path
    said: str

    def get(self, path: str, **headers: str) -> Any:
        request = urllib.request.Request(self.address + path, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)


def environment(home: Path) -> dict[str, str]:
    strange = {"OPTIMADE_PAGE_LIMIT_MAX": "3", "optimade_database_backend": "elastic"}  # of another server of this user
    return {**os.environ, **strange, "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT)}


def command(folder: Path, port: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "serve-optimade", str(folder), "--port", str(port), *options]


@contextmanager
def serving(folder: Path, home: Path, *options: str) -> Iterator[Served]:
    home.mkdir()
    process = subprocess.Popen(
        command(folder, 0, *options),
        cwd=home,
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "Ctrl-C" in line:
                break
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found, said
        yield Served(found[0], process, home, said)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "trial", candidate_rows(N))


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(run, tmp_path_factory.mktemp("server") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def ranked(run: Path) -> list[Row]:
    rows = pq.read_table(run / "candidates.parquet").to_pylist()
    return [
        {**row, "elements": {ELEMENTS[z - 1] for z in row["atomic_numbers"]}} for row in rows if row["rank"] is not None
    ]


def ask(served: Served, filter_text: str) -> dict[str, dict[str, Any]]:
    """Every entry that the client of OPTIMADE's own package gets for a filter, by id."""
    client = OptimadeClient(base_urls=[served.address], max_results_per_provider=-1, silent=True)
    found = client.get(filter_text)["structures"][filter_text][served.address]
    assert not found["errors"]
    return {entry["id"]: entry["attributes"] for entry in found["data"]}


FILTERS: dict[str, Callable[[Row], bool]] = {
    "": lambda row: True,
    "_hullward_rank<=10": lambda row: row["rank"] <= 10,
    '_hullward_e_above_hull<0.05 AND elements HAS "O"': lambda row: (
        row["e_above_hull_ev_per_atom"] < 0.05 and "O" in row["elements"]
    ),
    "NOT _hullward_e_above_hull>0.02 AND nelements=3": lambda row: (
        row["e_above_hull_ev_per_atom"] <= 0.02 and len(row["elements"]) == 3
    ),
    f'_hullward_energy_method="{METHODS[1]}"': lambda row: row["energy_method"] == METHODS[1],
    "_hullward_rms IS UNKNOWN": lambda row: row["rms"] is None,
    "_hullward_rms>0.2 OR _hullward_energy<-5.1": lambda row: (
        (row["rms"] or 0) > 0.2 or row["energy_ev_per_atom"] < -5.1
    ),
    "_hullward_condition.spacegroup=225": lambda row: json.loads(row["condition"])["spacegroup"] == 225,
    "space_group_it_number=225": lambda row: row["spacegroup"] == 225,
    'chemical_formula_descriptive CONTAINS ")2"': lambda row: ")2" in row["formula"],
    'chemical_formula_descriptive STARTS WITH "Ca("': lambda row: row["formula"].startswith("Ca("),
    'chemical_formula_descriptive ENDS ")4"': lambda row: row["formula"].endswith(")4"),
    'last_modified>"2020-01-01T00:00:00Z"': lambda row: True,
    'last_modified<"2020-01-01T00:00:00Z"': lambda row: False,
}


@pytest.mark.parametrize("filter_text", FILTERS)
def test_a_filter_finds_the_rows_that_a_loop_over_the_table_finds(
    served: Served, ranked: list[Row], filter_text: str
) -> None:
    expected = {row["id"] for row in ranked if FILTERS[filter_text](row)}
    assert set(ask(served, filter_text)) == expected
    assert expected or "last_modified<" in filter_text  # a filter that finds nothing tests little


class Asking:
    """One connection to a server, for many requests."""

    def __init__(self, served: Served) -> None:
        self.connection = http.client.HTTPConnection(served.address.removeprefix("http://"), timeout=60)

    def reply(self, method: str, path: str) -> tuple[int, Any, str]:
        """Status, document and what is wrong with the reply: nothing, or why it is no document of OPTIMADE."""
        try:
            self.connection.request(method, path)
            answer = self.connection.getresponse()
            status, body = answer.status, answer.read()
        except (http.client.HTTPException, OSError) as error:
            self.connection.close()
            return 0, None, f"is none: {type(error).__name__}"
        if answer.headers.get_content_type() != "application/vnd.api+json":
            return status, None, f"is of type {answer.headers.get_content_type()}: {body[:100]!r}"
        try:
            document = json.loads(body)
            ResponseMeta.model_validate(document["meta"])
            if status >= 400:
                errors = ErrorResponse.model_validate(document).errors
                wrong = [error for error in errors if error.status != str(status) or not error.detail]
                return status, document, f"has errors without status or detail: {wrong}" if wrong else ""
        except (ValueError, LookupError) as error:
            return status, None, f"is no document of OPTIMADE: {error}"
        return status, document, "" if "data" in document else "has no data"

    def about(self, filter_text: str) -> tuple[int, Any, str]:
        fields = "response_fields=id&page_limit=1000"
        return self.reply("GET", f"/v1/structures?{fields}&filter={urllib.parse.quote(filter_text)}")


@pytest.mark.fuzz
def test_filters_of_the_whole_language_find_what_a_loop_over_the_table_finds(
    served: Served, run: Path, ranked: list[Row], fuzz: Fuzz
) -> None:
    asking, written = Asking(served), written_at((run / "candidates.parquet").stat().st_mtime)
    for rng in fuzz.cases(100):
        made = Queries(ranked, written, rng).filter()
        expected = {row["id"] for row in ranked if made.holds(row) is True}
        status, document, wrong = asking.about(made.text)
        found = {entry["id"] for entry in document["data"]} if status == 200 and not wrong else None
        if found != expected:
            fuzz.failed(f"{made.text} -> {status} {wrong} {found}, expected {expected}")
        else:
            fuzz.ended("none" if not expected else "all" if len(expected) == len(ranked) else "some rows")


@pytest.mark.fuzz
def test_broken_filters_are_refused_by_a_document_and_never_fail(
    served: Served, run: Path, ranked: list[Row], fuzz: Fuzz
) -> None:
    asking, written = Asking(served), written_at((run / "candidates.parquet").stat().st_mtime)
    for rng in fuzz.cases(150):
        text = Queries(ranked, written, rng).broken()
        status, document, wrong = asking.about(text)
        if wrong or status not in (200, 400, 414, 501):
            fuzz.failed(f"{text!r:.300} -> {status} {wrong or document['errors']}")
        else:
            fuzz.ended(str(status))


@pytest.mark.fuzz
def test_odd_requests_get_a_document_with_the_status_that_the_standard_names(
    served: Served, ranked: list[Row], fuzz: Fuzz
) -> None:
    asking = Asking(served)
    for rng in fuzz.cases(150):
        method, path, allowed = Queries(ranked, written_at(0), rng).request()
        status, _, wrong = asking.reply(method, path)
        if wrong or status not in allowed:
            fuzz.failed(f"{method} {path[:200]} -> {status}, expected {allowed}; {wrong}")
        else:
            fuzz.ended(str(status))


def pages_from(served: Served, path: str) -> list[str]:
    """Ids of all pages, each found by the link of the one before."""
    found: list[str] = []
    for _ in range(N):
        reply = served.get(path)
        found += [entry["id"] for entry in reply["data"]]
        if reply["links"]["next"] is None:
            return found
        path = reply["links"]["next"].removeprefix(served.address)
    raise AssertionError(f"the pages do not end: {path}")


@pytest.mark.parametrize("first", ["", "&page_number=1", "&page_offset=0", "&page_offset=0&page_number=1"])
def test_the_links_of_pages_lead_through_every_entry_once(served: Served, ranked: list[Row], first: str) -> None:
    query = urllib.parse.quote("_hullward_rank<=50")
    found = pages_from(served, f"/v1/structures?page_limit=7&response_fields=id&filter={query}{first}")
    assert found == [row["id"] for row in ranked if row["rank"] <= 50]


@pytest.mark.parametrize("last_first", [False, True])
def test_entries_come_in_the_order_asked_for_and_unknown_values_first(
    served: Served, ranked: list[Row], last_first: bool
) -> None:
    sign = "-" if last_first else ""
    found = pages_from(served, f"/v1/structures?response_fields=id&page_limit=30&sort={sign}_hullward_rms,id")
    by_id = sorted(ranked, key=lambda row: row["id"])
    expected = sorted(by_id, key=lambda row: -1.0 if row["rms"] is None else row["rms"], reverse=last_first)
    assert found == [row["id"] for row in expected]
    for field in ("lattice_vectors", "species", "_hullward_condition", "_hullward_smact_valid"):
        assert sorted(pages_from(served, f"/v1/structures?response_fields=id&sort={field}")) == [
            row["id"] for row in by_id
        ]


def test_an_id_is_looked_up_as_it_stands(served: Served, ranked: list[Row]) -> None:
    name = ranked[0]["id"]
    assert served.get(f"/v1/structures/{name}")["data"]["id"] == name
    for other in (f'{name}" OR id CONTAINS "', f"{name}%00", '" OR id="', name[:-1]):
        assert served.get(f"/v1/structures/{urllib.parse.quote(other)}")["data"] is None


def test_pages_for_people_stay_pages_whatever_is_asked_of_them(served: Served) -> None:
    for query in ("?api_hint=x", "?api_hint=v1", "?_unknown_x=1", "?page_limit=abc"):
        with urllib.request.urlopen(f"{served.address}/{query}", timeout=30) as reply:
            assert reply.headers.get_content_type() == "text/html"


def test_warnings_are_in_the_reply_that_they_are_about_and_not_on_the_terminal(served: Served) -> None:
    """Else a terminal that nobody reads would hold the server up, after 64 KiB."""

    def warned_of(name: str) -> list[str]:
        more = f"{name}=1" if name else "sort=id"
        given = served.get(f"/v1/structures?page_limit=1&response_fields=id&{more}")["meta"].get("warnings", [])
        assert all(warning["type"] == "warning" for warning in given)
        return [warning["detail"] for warning in given]

    asked = [f"_unknown_{number}" if number % 2 else "" for number in range(80)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(warned_of, asked))
    for name, said in zip(asked, found, strict=True):
        assert len(said) == bool(name)
        assert all(f"'{name}'" in one for one in said)
    printed, _, _ = select.select([served.process.stderr], [], [], 0)
    assert not printed


def test_a_search_that_takes_too_long_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optimade.exceptions import BadRequest
    from optimade.server.config import ServerConfig
    from optimade.server.entry_collections import create_entry_collections
    from optimade.server.query_params import EntryListingQueryParams

    from flows.servers import optimade_collection

    its_own = create_entry_collections(ServerConfig(database_backend="mongomock"))["structures"]
    entries = [{"id": str(number), "type": "structures", "nsites": number} for number in range(200)]
    collection = optimade_collection.TableCollection(entries, its_own)
    query = collection.handle_query_params(EntryListingQueryParams(filter="nsites<3"))
    assert collection.count(**query) == 3
    monkeypatch.setattr(optimade_collection, "QUERY_S", 0.0)
    with pytest.raises(BadRequest, match="200 entries: ask for less"):
        collection.count(**query)


def test_entries_keep_their_values_through_the_server(served: Served, ranked: list[Row]) -> None:
    entries = ask(served, "")
    for row in ranked:
        found = entries[row["id"]]
        for field in CANDIDATE_FIELDS:
            if field.column and field.column != "condition":
                assert found[field.name] == row[field.column], field.name
        assert found["_hullward_condition"] == json.loads(row["condition"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["last_modified"])


def test_pymatgens_client_gets_back_the_relaxed_crystals(served: Served, run: Path, ranked: list[Row]) -> None:
    rester = OptimadeRester(f"{served.address}/", timeout=60)
    structures = rester.get_structures_with_filter("_hullward_rank<=40")[f"{served.address}/"]
    relaxed = dict(list(zip(*_relaxed_of(run), strict=True))[:40])  # ranked ones come first
    assert set(structures) == set(relaxed)
    for name, crystal in relaxed.items():
        expected = crystal.to_structure()
        assert structures[name].species == expected.species
        np.testing.assert_allclose(structures[name].lattice.matrix, expected.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(structures[name].cart_coords, expected.cart_coords, atol=1e-10)


def test_the_servers_info_defines_every_field_with_type_and_unit(served: Served) -> None:
    properties = served.get("/v1/info/structures")["data"]["properties"]
    for field in CANDIDATE_FIELDS:
        assert properties[field.name] == field.definition()
    assert properties["_hullward_e_above_hull"]["unit"] == "eV/{atom}"


@pytest.mark.parametrize("seed", [0, 1, 33])  # of the entries that it tries; two of these have a formula with brackets
def test_optimades_validator_finds_no_fault(served: Served, seed: int) -> None:
    random.seed(seed)
    validator = ImplementationValidator(base_url=f"{served.address}/v1", verbosity=-1, respond_json=True)
    validator.validate_implementation()
    assert validator.valid, validator.results.failure_messages
    assert validator.results.failure_count == 0
    assert validator.results.success_count > 40
    # Of what is optional, only this: the server has no literature references to give.
    faults = [message for message in validator.results.optional_failure_messages if "references?" not in message[1]]
    assert not faults


def test_settings_of_other_optimade_servers_are_ignored(served: Served) -> None:
    reply = served.get("/v1/structures?page_limit=70")
    assert len(reply["data"]) == 70
    assert reply["meta"]["provider"]["prefix"] == "hullward"
    assert reply["links"]["next"].startswith(served.address)


def test_pages_of_other_hosts_can_neither_ask_nor_read(served: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        served.get("/v1/structures", Host="crystals.example")
    assert refused.value.code == 400
    request = urllib.request.Request(f"{served.address}/v1/info", headers={"Origin": "http://crystals.example"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]


def test_the_landing_page_asks_nothing_of_the_internet(served: Served) -> None:
    with urllib.request.urlopen(served.address, timeout=30) as reply:
        page = reply.read().decode()
    addresses = re.findall(r"https?://[^\s\"'<]+", page)
    assert addresses
    assert all(address.startswith(served.address) for address in addresses)


def test_the_example_on_the_terminal_is_a_command_that_works(served: Served, ranked: list[Row], tmp_path: Path) -> None:
    example = re.search(r"to ask it: +(.+)", served.said)
    assert example
    subprocess.run(example[1], shell=True, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (by_filter,) = json.loads((tmp_path / "found.json").read_text())["structures"].values()
    found = {entry["id"] for entry in by_filter[served.address]["data"]}
    assert found
    assert found <= {row["id"] for row in ranked if len(row["elements"]) >= 2}


def test_another_hullward_ingests_the_crystals_and_energies_of_the_run(
    served: Served, run: Path, ranked: list[Row], tmp_path: Path
) -> None:
    source = {
        "kind": "optimade",
        "provider": "my-group",
        "endpoint": served.address,
        "method": METHODS[1],
        "where": f'_hullward_energy_method="{METHODS[1]}"',
        "requests_per_second": 100,
        "fields": {
            "energy_ev_per_atom": "_hullward_energy",
            "formation_energy_ev_per_atom": "_hullward_formation_energy",
            "e_above_hull_ev_per_atom": "_hullward_e_above_hull",
        },
    }
    (tmp_path / "theirs.yaml").write_text(json.dumps({"name": "theirs", "data": {"sources": [source]}}))
    subprocess.run(
        [sys.executable, "-m", "flows.cli", "ingest", "theirs.yaml", "--out", "theirs"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        timeout=120,
        check=True,
    )
    table = pq.read_table(tmp_path / "theirs" / "dataset.parquet")
    found = {row["source_id"]: row for row in table.to_pylist()}
    crystals = dict(zip(table.column("source_id").to_pylist(), crystals_of(table), strict=True))
    ours = dict(zip(*_relaxed_of(run), strict=True))
    expected = {row["id"]: row for row in ranked if row["energy_method"] == METHODS[1]}
    assert set(found) == set(expected)
    matcher = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1)
    for name, row in expected.items():
        for column in source["fields"]:
            assert found[name][column] == row[column]
        assert found[name]["method"] == row["energy_method"]
        assert matcher.fit(crystals[name].to_structure(), ours[name].to_structure()), row["formula"]


def _relaxed_of(run: Path) -> tuple[list[str], list[Any]]:
    table = pq.read_table(run / "candidates.parquet")
    return table.column("id").to_pylist(), crystals_of(table, "relaxed_")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_zero_and_leaves_nothing_behind(
    campaign: Campaign, tmp_path: Path, number: signal.Signals
) -> None:
    """The dataset of the tiny campaign is served too, all of it."""
    with serving(campaign.folder / "known", tmp_path / "home") as served:
        n_rows = pq.read_metadata(campaign.folder / "known" / "dataset.parquet").num_rows
        assert served.get("/v1/structures")["meta"]["data_available"] == n_rows
        assert [path for path in served.home.iterdir() if path.name.startswith("hullward-optimade")]
        served.process.send_signal(number)
        assert served.process.wait(60) == 0
        assert [path for path in served.home.rglob("*") if "optimade" in path.name] == []


def failure(folder: Path, port: int, home: Path) -> str:
    """What the command says where it cannot serve; one line."""
    done = subprocess.run(
        command(folder, port), cwd=home, env=environment(home), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_taken_port_is_one_sentence_with_another_port(run: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = failure(run, port, tmp_path)
    assert said.startswith(f"hullward: port {port} of 127.0.0.1 is taken")
    assert "--port" in said


def test_what_cannot_be_served_is_one_sentence(tmp_path: Path) -> None:
    turned_away = write_run(tmp_path / "trial", [row for row in candidate_rows(20) if row.get("rank") is None])
    assert "--all exports those" in failure(turned_away, 0, tmp_path)
    assert "neither a run nor a dataset" in failure(tmp_path, 0, tmp_path)


def test_all_serves_the_candidates_that_were_turned_away_too(run: Path, tmp_path: Path) -> None:
    with serving(run, tmp_path / "home", "--all") as served:
        found = ask(served, '_hullward_rejected_by="relaxation"')
        rows = pq.read_table(run / "candidates.parquet").to_pylist()
        assert set(found) == {row["id"] for row in rows if row["rejected_by"]}
        assert served.get("/v1/structures")["meta"]["data_available"] == N


def test_a_run_as_discover_leaves_it_is_exported_with_its_lineage(finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "export", str(finished.folder), str(out), "--all", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    table = pq.read_table(finished.folder / "candidates.parquet")
    assert json.loads(done.stdout)["n_structures"] == len(table)
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    entries = [json.loads(line) for line in out.read_text().splitlines()[2:]]
    assert [entry["id"] for entry in entries] == table.column("id").to_pylist()
    for entry in entries:
        assert entry["attributes"]["_hullward_run"] == finished.config.name
        assert entry["attributes"]["_hullward_checkpoint_sha256"] == manifest["generator_sha256"]
        assert entry["attributes"]["_hullward_known_crystals_sha256"] == manifest["dataset"]["fingerprint_sha256"]
