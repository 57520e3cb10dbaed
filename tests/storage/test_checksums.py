"""Damage of files with a checksum, against what they held before: never another content, never a failure unnamed."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generative.kept_results import Kept, KeptResults
from storage import tables
from storage.checksums import Checksum, DamagedFileError, add_checksum, check, inspect
from storage.documents import document_of, read_document, text_of, write_document
from tests.damage import DAMAGES, flip_a_bit
from tests.fuzzing import Fuzz

REMEDY = "make it again"


def some_table(rng: np.random.Generator) -> pa.Table:
    """Columns of the kinds that our tables have, with nulls; now and then not a single row."""
    n = int(rng.choice([0, 1, 40, 3000]))
    lists = [None if rng.random() < 0.1 else rng.standard_normal(3).tolist() for _ in range(n)]
    words = [None if rng.random() < 0.2 else f"Ta{i}B" for i in range(n)]
    columns = {"id": pa.array(words, pa.string()), "energy": rng.standard_normal(n), "frac": pa.array(lists)}
    return pa.table(columns).replace_schema_metadata({b"about": b"made"})


@pytest.mark.fuzz
def test_a_damaged_table_is_never_another_one(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    for rng in fuzz.cases(60):
        table = some_table(rng)
        tables.write_table(table, path, {b"key": b"this"})
        whole = tables.read_table(path, REMEDY)
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=[0.8, 0.18, 0.02]))](path, rng)
        is_right = inspect(path).checksum is Checksum.RIGHT
        try:
            found = tables.read_table(path, REMEDY)
        except DamagedFileError as error:
            named = str(path) in str(error) and REMEDY in str(error)
            fuzz.ended("refused, the file named") if named and not is_right else fuzz.failed(f"{damage} -> {error}")
        except Exception as error:
            fuzz.failed(f"{damage} -> {type(error).__name__}: {error}")
        else:  # the mark itself: the table is what it was, and is not taken for one that is known to be whole
            is_same = found.equals(whole, check_metadata=True) and not is_right
            fuzz.ended("not known to be whole, but the same") if is_same else fuzz.failed(f"{damage} -> another table")


@pytest.mark.fuzz
def test_a_damaged_document_is_never_another_one(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for rng in fuzz.cases(60):
        document: dict[str, Any] = {
            "settings": {"seed": int(rng.integers(9)), "elements": ["Al", "Ti", "N"]},
            "energy": float(rng.standard_normal()),
            "reason": "a distance of 0.3 \u00c5",
        }
        write_document(path, document)
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=[0.8, 0.18, 0.02]))](path, rng)
        try:
            found = read_document(path, REMEDY)
        except DamagedFileError as error:
            named = str(path) in str(error) and REMEDY in str(error)
            fuzz.ended("refused, the file named") if named else fuzz.failed(f"{damage} -> {error}")
        except Exception as error:
            fuzz.failed(f"{damage} -> {type(error).__name__}: {error}")
        else:  # white space, or the name of the checksum
            same = {name: found[name] for name in document if name in found} == document
            fuzz.ended("the same") if same else fuzz.failed(f"{damage} -> {found}")


@pytest.mark.fuzz
def test_a_damaged_file_of_kept_results_gives_no_other_result(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite"
    expected = {f"{i:04x}": Kept(None if i % 4 == 0 else bytes([i]) * 40, "no bonds" * (i % 4 == 0)) for i in range(40)}
    with KeptResults(path, "bonds", "recipe 1") as kept:
        for digest, (payload, reason) in expected.items():
            kept.write(digest, payload, reason)
    whole = path.read_bytes()
    for rng in fuzz.cases(30):
        path.write_bytes(whole)
        damage = flip_a_bit(path, rng)
        try:
            with KeptResults(path, "bonds", "recipe 1") as kept:
                found = kept.read(list(expected))
        except ValueError as error:
            fuzz.ended("refused, the file named") if str(path) in str(error) else fuzz.failed(f"{damage} -> {error}")
        except Exception as error:
            fuzz.failed(f"{damage} -> {type(error).__name__}: {error}")
        else:
            wrong = {digest for digest, one in found.items() if one != expected[digest]}
            outcome = "all the same" if len(found) == len(expected) else "one missing, to be computed again"
            fuzz.failed(f"{damage} -> {len(wrong)} others") if wrong else fuzz.ended(outcome)


def test_page_checksums_of_parquet_miss_what_ours_tells(tmp_path: Path) -> None:
    """The reason for a checksum of our own: pages have checksums in Parquet, headers and footer have none."""
    rng, changed = np.random.default_rng(4), 0
    table = some_table(np.random.default_rng(1))
    for _ in range(300):
        pq.write_table(table, tmp_path / "pages.parquet", write_page_checksum=True)
        flip_a_bit(tmp_path / "pages.parquet", rng)
        try:
            found = pq.read_table(tmp_path / "pages.parquet", page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            continue
        changed += not found.equals(table, check_metadata=True)
    assert changed > 0


def test_a_checksum_covers_the_file_as_other_programs_read_it(tmp_path: Path) -> None:
    table = some_table(np.random.default_rng(0))
    pq.write_table(table, tmp_path / "plain.parquet")
    plain = (tmp_path / "plain.parquet").read_bytes()
    written = tables.write_table(table, tmp_path / "ours.parquet")
    ours = (tmp_path / "ours.parquet").read_bytes()
    assert written.sha256 == hashlib.sha256(ours).hexdigest()
    assert written.size == len(ours)
    assert inspect(tmp_path / "ours.parquet") == written
    footer = 8 + int.from_bytes(plain[-8:-4], "little")
    assert ours[: len(plain) - footer] + ours[-footer:] == plain  # what Parquet is made of is what it was
    record = ours[len(plain) - footer : -footer]
    assert record[8:] == hashlib.sha256(plain).digest()
    assert subprocess.run(
        ["sha256sum", str(tmp_path / "plain.parquet")], capture_output=True, text=True, check=True
    ).stdout.startswith(record[8:].hex())
    assert pq.read_table(tmp_path / "ours.parquet").equals(table)


def test_a_table_that_another_program_wrote_anew_is_no_damaged_one(tmp_path: Path) -> None:
    tables.write_table(some_table(np.random.default_rng(0)), tmp_path / "ours.parquet")
    theirs = tables.read_table(tmp_path / "ours.parquet", REMEDY).slice(0, 3)
    pq.write_table(theirs, tmp_path / "theirs.parquet")
    assert inspect(tmp_path / "theirs.parquet").checksum is Checksum.NONE
    assert tables.read_table(tmp_path / "theirs.parquet", REMEDY).equals(theirs)


def test_a_document_of_an_earlier_version_is_read_and_its_order_does_not_matter() -> None:
    document = {"b": 1, "a": [1.5, None]}
    assert document_of(json.dumps(document)) == document
    stated = json.loads(text_of(document))
    turned = json.dumps(dict(sorted(stated.items())), separators=(",", ":"))
    assert document_of(turned) == document
    with pytest.raises(ValueError, match="checksum does not fit"):
        document_of(json.dumps({**stated, "b": 2}))


def test_any_other_file_has_its_checksum_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "state.ckpt"
    path.write_bytes(b"weights" * 1000)
    assert check(path, REMEDY).checksum is Checksum.NONE
    add_checksum(path)
    assert check(path, REMEDY).checksum is Checksum.RIGHT
    assert path.read_bytes().startswith(b"weights" * 1000)
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"state\.ckpt is damaged .*: make it again"):
        check(path, REMEDY)
