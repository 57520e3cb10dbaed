"""The Materials Project, through its official client mp-api: crystals from `summary`, energies from `thermo`.

A record joins two documents of one material: {"summary": {...}, "thermo": {...} or null}. The summary has the
structure; the thermo document is that of the scheme asked for (`thermo_type`), and only it tells by which calculation
an energy was made. The summary's own energies are not read: they are always of the mixed scheme.

Of the client, the classes of the two endpoints are used and not MPRester, which writes into the home folder and asks
further endpoints. Every call is one request with its own `_skip` and `_limit`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr

from generative.datasets.config import FilterConfig, MaterialsProjectSource
from generative.datasets.databases.access import Access
from generative.datasets.databases.database import Body, Page, Record, require_fields
from generative.datasets.databases.errors import (
    AccessDeniedError,
    BrokenReplyError,
    NetworkError,
    RefusedQueryError,
    SchemaChangedError,
)
from generative.datasets.databases.harvest import Harvest, harvest_of
from generative.datasets.databases.materials_project_query import query_of
from generative.datasets.levels import SCHEME_OF_THERMO_TYPE, contradiction
from generative.datasets.origins import stated_origin
from generative.datasets.records import Form, RawRecord
from generative.datasets.sources import SourceError, Surroundings

ENDPOINT = "https://api.materialsproject.org/"

LIMIT_MAX = 1000
"""Most documents the API hands out per request; it refuses more."""

IDS_MAX = 200
"""Ids per request. An id takes up to 15 characters of the address, and servers refuse addresses beyond 4 to 8 kB."""

_REQUIRED_SUMMARY = ("material_id", "structure", "last_updated")
_SUMMARY = (*_REQUIRED_SUMMARY, "symmetry", "band_gap", "elements", "origins", "theoretical", "database_IDs")
_REQUIRED_THERMO = (
    "material_id",
    "thermo_type",
    "energy_type",
    "energy_per_atom",
    "formation_energy_per_atom",
    "energy_above_hull",
)
_THERMO = (*_REQUIRED_THERMO, "thermo_id", "uncorrected_energy_per_atom", "entry_types", "last_updated")


def open_materials_project(config: MaterialsProjectSource, around: Surroundings) -> Harvest:
    """See generative.datasets.sources.Opener."""
    secret = around.downloads.secret(config.kind)
    access = Access(config, config.kind, secret)
    database = MaterialsProject(config, around.filters, around.system, access, secret)
    return harvest_of(config, database, access, around)


class MaterialsProject:
    """The Materials Project under one query; see `generative.datasets.databases.database.Database`.

    Attributes:
        endpoint: address of the API.
        query: parameters of both endpoints, as sent but for paging; and what has to be filtered afterwards.
        method: level of theory of the energies; the calculation of each row stands in its `run_type`.
    """

    name = "materials-project"
    kind = "materials-project"
    fetch_size = IDS_MAX

    def __init__(
        self,
        config: MaterialsProjectSource,
        filters: FilterConfig,
        elements: tuple[str, ...] | None,
        access: Access,
        secret: SecretStr | None,
    ) -> None:
        """Nothing is asked yet, so a download that is complete is read without a key.

        Args:
            config: endpoint, scheme of the energies, further conditions.
            filters: those the API knows are sent along; it is left to the caller to apply all of them.
            elements: chemical system of the run; None takes all.
            access: the way there.
            secret: the API key.

        Raises:
            SourceError: if nothing can match, or `where` is no list of conditions; see `query_of`.
        """
        self._config, self._access, self._secret = config, access, secret
        self.endpoint = (config.endpoint or ENDPOINT).rstrip("/") + "/"
        if access.redacted(config.where or "") != (config.where or ""):
            raise SourceError("where contains the API key: expected conditions only; the key is sent without it")
        self._criteria, unsent = query_of(config, filters, elements)
        self.method = SCHEME_OF_THERMO_TYPE[config.thermo_type]
        self.query = (
            f"summary?{urlencode(self._criteria, safe=',')} with thermo?{urlencode(self._thermo_criteria, safe=',+')}"
            + "".join(f"; {text} is filtered after the download" for text in unsent)
        )

    def version(self) -> str | None:
        """The database's release, such as '2025.09.25', asked anew each time."""
        self._key()
        heartbeat = self._access.get_json(f"{self.endpoint}heartbeat")
        version = heartbeat.get("db_version") if isinstance(heartbeat, Mapping) else None
        return None if version is None else str(version)

    def count(self) -> int | None:
        """Materials that match."""
        return self._ask("summary", self._criteria, ("material_id",), 1)[1]

    def page(self, cursor: str | None) -> Page:
        """Materials in the order of their ids; the cursor is the number of those before."""
        skip = int(cursor or 0)
        summaries, total = self._listed(skip, _SUMMARY, self._config.page_size)
        require_fields(summaries, _REQUIRED_SUMMARY, "Materials Project, summary")
        end = skip + len(summaries)
        return Page(self._joined(summaries), str(end) if end < total else None, total)

    def stamps(self) -> Iterator[Mapping[str, str | None]]:
        """Id -> last change of the summary and of the thermo document."""
        skip, total = 0, 1
        while skip < total:
            summaries, total = self._listed(skip, ("material_id", "last_updated"), LIMIT_MAX)
            thermo = self._thermo(_ids(summaries), ("material_id", "last_updated"), ("material_id", "last_updated"))
            yield {id_: _stamp(body, thermo.get(id_)) for id_, body in zip(_ids(summaries), summaries, strict=True)}
            skip += len(summaries)

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """Materials of these ids that still match; at most 200."""
        # Elements and formula of an id do not change, and their lists may fill the address.
        criteria = {key: value for key, value in self._criteria.items() if key not in ("chemsys", "formula")}
        summaries = self._whole("summary", criteria | {"material_ids": ",".join(ids)}, _SUMMARY)
        require_fields(summaries, _REQUIRED_SUMMARY, "Materials Project, summary")
        return list(self._joined(summaries))

    def raw_record(self, record: Record) -> RawRecord:
        """The record for `interpret`: energies are the corrected ones, or none if there is no thermo document.

        Refused is an energy of another calculation than `thermo_type` allows: on one hull with the others it would
        make stable what is not, or the reverse.
        """
        summary, thermo = record.body["summary"], record.body["thermo"] or {}
        elements = summary.get("elements")
        stated = frozenset(map(str, elements)) if isinstance(elements, list) else None
        reason = self._refusal(thermo) if thermo else ""
        symmetry = summary.get("symmetry")
        spacegroup = symmetry.get("number") if isinstance(symmetry, Mapping) else None
        run_type = thermo.get("energy_type")
        changed = [str(body["last_updated"]) for body in (summary, thermo) if body.get("last_updated")]
        return RawRecord(
            record.id,
            Form.REFUSED if reason else Form.STRUCTURE,
            json.dumps({"thermo": thermo, "summary": summary}) if reason else summary.get("structure"),
            {
                "energy_ev_per_atom": ("energy_per_atom", thermo.get("energy_per_atom")),
                "formation_energy_ev_per_atom": ("formation_energy_per_atom", thermo.get("formation_energy_per_atom")),
                "e_above_hull_ev_per_atom": ("energy_above_hull", thermo.get("energy_above_hull")),
                "band_gap_ev": ("band_gap", summary.get("band_gap")),
                "spacegroup": ("symmetry.number", spacegroup),
            },
            elements=stated,
            reason=reason,
            run_type=None if run_type is None else str(run_type),
            last_modified=max(changed, default=None),
            extra=_extra(summary, thermo),
            origin=stated_origin(summary),
        )

    def close(self) -> None:
        """Give connections back; if something is asked after that, new ones are made."""
        self.__dict__.pop("_resters", None)
        self._access.close()

    def _refusal(self, thermo: Body) -> str:
        """Why an energy is not of the scheme asked for; empty if it is."""
        asked, came, run_type = self._config.thermo_type, thermo.get("thermo_type"), thermo.get("energy_type")
        if str(came).upper() != asked:
            return f"thermo_type is {came!r}: expected {asked!r}, since energies of two schemes share no hull"
        return contradiction(asked, None if run_type is None else str(run_type))

    @property
    def _thermo_criteria(self) -> dict[str, str]:
        asked = self._config.thermo_type
        # The client spells this one r2SCAN, the documents had R2SCAN: both are asked for.
        return {"thermo_types": "R2SCAN,r2SCAN" if asked == "R2SCAN" else asked}

    def _key(self) -> str:
        """The API key.

        Raises:
            AccessDeniedError: if there is none, or something else is in its place.
        """
        key = self._secret.get_secret_value() if self._secret is not None else ""
        remedy = (
            "put the key of your account (materialsproject.org/api) into the environment variable MP_API_KEY or the "
            "Prefect Secret block 'materials-project-api-key'"
        )
        if not key:
            raise AccessDeniedError(f"no key for the Materials Project was given: {remedy}")
        if not re.fullmatch(r"[!-~]{32}", key):
            raise AccessDeniedError(
                f"the key for the Materials Project has {len(key)} characters: expected 32 letters and digits without "
                f"space or line end; {remedy}"
            )
        return key

    @cached_property
    def _resters(self) -> dict[str, Any]:
        """The client's class for each endpoint."""
        key = self._key()
        session = self._access.session({"x-api-key": key})
        from mp_api.client.routes.materials.summary import SummaryRester
        from mp_api.client.routes.materials.thermo import ThermoRester

        # It writes to stderr by a handler of its own, beside whatever logging was set up.
        logging.getLogger("mp_api.client.core.client").handlers.clear()
        return {
            name: _without_heartbeat(rester)(
                api_key=key,
                endpoint=self.endpoint,
                session=session,
                use_document_model=False,
                mute_progress_bars=True,
            )
            for name, rester in (("summary", SummaryRester), ("thermo", ThermoRester))
        }

    def _ask(
        self, route: str, criteria: Mapping[str, Any], fields: Sequence[str], limit: int
    ) -> tuple[list[Body], int]:
        """Documents of one request, and how many match in all.

        Raises:
            NetworkError: whatever went wrong, the client's own complaints included.
        """
        rester = self._resters[route]
        from mp_api.client.core.exceptions import MPRestError

        # With no criterion but paging and more than one chunk the client would turn to S3; here there is always one.
        asked = {**criteria, "_fields": ",".join(fields), "_limit": limit}
        try:
            reply = rester._query_resource(asked, num_chunks=1, chunk_size=limit)
            documents, total = list(reply["data"]), int(reply["meta"]["total_doc"])
        except NetworkError:
            raise
        except json.JSONDecodeError as error:
            raise BrokenReplyError(f"Materials Project, {route}: the reply is no JSON (at byte {error.pos})") from None
        except MPRestError as error:
            text = " ".join(self._access.redacted(str(error)).split())[:300]
            raise RefusedQueryError(
                f"Materials Project, {route}: the client mp-api refused the query: {text}"
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SchemaChangedError(
                f"Materials Project, {route}: the reply has no list 'data' or no number 'meta.total_doc' "
                f"({type(error).__name__}): the API or the client mp-api has changed, so a newer Hullward is needed"
            ) from None
        _ids(documents)
        return documents, total

    def _listed(self, skip: int, fields: Sequence[str], limit: int) -> tuple[list[Body], int]:
        """Summaries in the order of their ids from number `skip` on."""
        summaries, total = self._ask(
            "summary", self._criteria | {"_sort_fields": "material_id", "_skip": skip}, fields, limit
        )
        if not summaries and skip < total:
            raise BrokenReplyError(f"Materials Project, summary: nothing came after {skip} of {total} materials")
        return summaries, total

    def _whole(self, route: str, criteria: Mapping[str, Any], fields: Sequence[str]) -> list[Body]:
        """All documents that match; one request brings them unless the API hands out fewer at once than it says."""
        documents, total = self._ask(route, criteria, fields, LIMIT_MAX)
        if len(documents) >= total:
            return documents
        found: dict[str, Body] = {}
        n_came = 0
        while n_came < total:  # from the start, since what came first came in no stated order
            page = {**criteria, "_sort_fields": "material_id", "_skip": n_came}
            documents, total = self._ask(route, page, fields, LIMIT_MAX)
            if not set(_ids(documents)) - found.keys():
                raise BrokenReplyError(f"Materials Project, {route}: {len(found)} of {total} documents came")
            found |= dict(zip(_ids(documents), documents, strict=True))
            n_came += len(documents)
        return list(found.values())

    def _thermo(self, ids: Sequence[str], fields: Sequence[str], required: Sequence[str]) -> dict[str, Body]:
        """Id -> its thermo document; ids without one are left out."""
        found: dict[str, Body] = {}
        distinct = list(dict.fromkeys(ids))
        for start in range(0, len(distinct), IDS_MAX):
            batch = distinct[start : start + IDS_MAX]
            documents = self._whole("thermo", {"material_ids": ",".join(batch)} | self._thermo_criteria, fields)
            require_fields(documents, required, "Materials Project, thermo")
            if documents and not set(_ids(documents)) & set(batch):
                raise SchemaChangedError(
                    f"Materials Project, thermo: {_ids(documents)[0]!r} came for {batch[0]!r}: expected documents of "
                    "the materials asked for, so the API has changed its form and a newer Hullward is needed"
                )
            found |= dict(zip(_ids(documents), documents, strict=True))
        return found

    def _joined(self, summaries: Sequence[Body]) -> tuple[Record, ...]:
        ids = _ids(summaries)
        thermo = self._thermo(ids, _THERMO, _REQUIRED_THERMO)
        return tuple(
            Record(id_, _stamp(summary, thermo.get(id_)), {"summary": summary, "thermo": thermo.get(id_)})
            for id_, summary in zip(ids, summaries, strict=True)
        )


def _without_heartbeat(rester: type[Any]) -> Any:
    """The client's class, which asks for the release when made: with no time-out, and once per process only."""
    return type(rester.__name__, (rester,), {"_get_heartbeat_info": staticmethod(lambda endpoint: ("", []))})


def _ids(documents: Sequence[Body]) -> list[str]:
    """Ids of documents.

    Raises:
        SchemaChangedError: if one is no document or has none: a record without an id cannot be kept.
    """
    for document in documents:
        if not isinstance(document, Mapping) or not document.get("material_id"):
            raise SchemaChangedError(
                f"Materials Project: {str(document)[:100]!r} came in a list of documents: expected 'material_id' in "
                "each, so the API has changed its form and a newer Hullward is needed"
            )
    return [str(document["material_id"]) for document in documents]


def _stamp(summary: Body, thermo: Body | None) -> str:
    return f"{summary.get('last_updated')} {'-' if thermo is None else thermo.get('last_updated')}"


def _extra(summary: Body, thermo: Body) -> dict[str, Any]:
    """Further fields, those that are there."""
    names = ("uncorrected_energy_per_atom", "thermo_id", "entry_types")
    extra = {name: thermo.get(name) for name in names} | {
        name: summary.get(name) for name in ("theoretical", "database_IDs")
    }
    origins = summary.get("origins")
    for origin in origins if isinstance(origins, list) else []:
        if isinstance(origin, Mapping) and origin.get("name") == "structure":
            extra["structure_task_id"] = origin.get("task_id")
    return {name: value for name, value in extra.items() if value is not None}
