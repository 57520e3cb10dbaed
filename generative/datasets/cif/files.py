"""A file record that holds several crystals becomes several records, so that none hides another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from generative.datasets.checks import RecordError
from generative.datasets.cif.text import crystal_texts
from generative.datasets.formats.parsing import decoded
from generative.datasets.records import Form, RawRecord


def apart(record: RawRecord) -> Iterator[RawRecord]:
    """One record per crystal of a CIF file: 'file.cif' alone, else 'file.cif:name-of-its-block'.

    Every other record, and a file that cannot be read, passes as it is.
    """
    if record.form is not Form.CIF:
        yield record
        return
    try:
        texts = crystal_texts(decoded(record.content))
    except RecordError:
        texts = []
    if not texts:
        yield record
    for name, text in texts:
        yield replace(record, source_id=f"{record.source_id}:{name}", content=text)
