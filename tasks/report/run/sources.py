"""Where a crystal of the data can be looked at: the public page of its entry, by the id that its source gave it."""

from __future__ import annotations

import re
from urllib.parse import quote

from generative.datasets.databases.optimade_providers import PROVIDERS
from tasks.report.run.summary import safe

PAGES = (
    (r"(?:mp|mvc)-\d+", "https://materialsproject.org/materials/{0}"),
    (r"aflow:[0-9a-f]{16}", "https://aflow.org/material/?id={0}"),
    (r"JVASP-\d+", "https://www.ctcms.nist.gov/~knc6/static/JARVIS-DFT/{0}.xml"),
    (r"2dm-\d+", "http://www.2dmatpedia.org/materials/{0}"),
)
"""Ids that are one database's alone, as patterns, and its page of one."""

PROTOTYPE = re.compile(r"(\w+)\[.*\]")
"""AFLOW's label of a structure type and its decoration; types that share a label have a number behind it, and no page
of that name.
"""


def source_and_entry(name: str) -> tuple[str, str]:
    """The source's name and its own id of a crystal, of '<source>:<source_id>'; no source where there is none."""
    source, colon, entry = name.partition(":")
    return (source, entry) if colon else ("", name)


def page_of(name: str) -> str | None:
    """Address of the public page of a crystal, or of its structure type if it is a prototype; None where none is known.

    Args:
        name: id of the crystal, '<source>:<source_id>'.
    """
    source, entry = source_and_entry(name)
    for pattern, address in PAGES:
        if found := re.search(rf"(?:^|[:/]){pattern}$", entry):
            return address.format(quote(found[0].lstrip(":/"), safe=":"))
    if source == "prototypes" and (label := PROTOTYPE.fullmatch(entry)):
        return f"https://aflow.org/prototype-encyclopedia/{label[1]}.html"
    if source in PROVIDERS:
        return f"{PROVIDERS[source].base_url}/v1/structures/{quote(entry, safe='')}"
    return None


def linked_entry(name: str) -> str:
    """The source's own id of a crystal as HTML, a link where it has a public page."""
    shown, address = safe(source_and_entry(name)[1]), page_of(name)
    return shown if address is None else f'<a href="{safe(address)}" rel="noreferrer">{shown}</a>'
