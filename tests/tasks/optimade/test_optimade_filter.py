"""The language of OPTIMADE's filters, held against the reference parser; its limits; truth where values are unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from optimade.exceptions import BadRequest, NotImplementedResponse
from optimade.filterparser import LarkParser

from tasks.optimade.comparisons import Kind, Property
from tasks.optimade.filter import BRACKETS_MAX, LENGTH_MAX, FilterReader
from tests.fuzzing import Fuzz

KINDS = {
    "n": Kind("number"),
    "word": Kind("string"),
    "flag": Kind("boolean"),
    "moment": Kind("timestamp"),
    "names": Kind("list", "string"),
    "sites": Kind("list", "dictionary"),
    "table": Kind("dictionary"),
}
ENTRY = {
    "n": 2,
    "word": 'say "a\\b"',
    "flag": True,
    "moment": "2024-01-31T12:00:00Z",
    "names": ["Al", "O"],
    "sites": [{"name": "Al", "mass": [1, 2]}, {"name": "O"}],
    "table": {"deep": {"n": 3}},
}


def property_of(name: str, inner: Sequence[str]) -> Property:
    if name not in KINDS:
        raise BadRequest(detail=f"no {name}")
    return Property((name, *inner), Kind() if inner else KINDS[name])


@pytest.fixture(scope="module")
def reader() -> FilterReader:
    return FilterReader(property_of)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        (r'word="say \"a\\b\""', True),
        (r'word CONTAINS "\\b"', True),
        ("flag=TRUE", True),
        ("flag!=TRUE", False),
        ('moment>"2024-01-31T12:59:59+01:00"', True),
        ('moment="2024-01-31 13:00:00.000+01:00"', True),
        ("2<=n", True),
        ("2<n", False),
        ("names LENGTH !=2", False),
        ('NOT names HAS ONLY "Al"', True),
        ('names HAS ALL >"B", "Al"', True),
        ('sites.name HAS "O"', True),
        ("sites.mass LENGTH 3", True),  # 1 and 2 of the first, unknown of the second
        ("table.deep.n=3", True),
        ('table.deep.n="3"', None),
        ("table.nothing=3", None),
        ("NOT table.nothing=3", None),
        ("table.nothing=3 OR n=2", True),
        ("table.nothing=3 AND n=2", None),
        ("table.nothing=3 AND n=3", False),
        ("NOT (table.nothing=3 OR n=3)", None),
        ("n=1 OR n=2 OR n=3", True),
        ("n=1 OR n=3 OR word IS UNKNOWN", False),
        ("NOT n=1 AND n=2 OR n=5", True),
    ],
)
def test_a_filter_is_true_false_or_unknown_as_the_standard_says(
    reader: FilterReader, text: str, truth: bool | None
) -> None:
    assert reader.read(text)(ENTRY) is truth


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('n="2"', NotImplementedResponse),
        ("word=2", NotImplementedResponse),
        ("n=TRUE", NotImplementedResponse),
        ("flag<TRUE", NotImplementedResponse),
        ("moment=3", NotImplementedResponse),
        ("names=3", NotImplementedResponse),
        ("n HAS 3", NotImplementedResponse),
        ("names HAS 3", NotImplementedResponse),
        ("sites HAS 3", NotImplementedResponse),
        ("n CONTAINS 3", NotImplementedResponse),
        ("word ENDS n", NotImplementedResponse),
        ("n=n", NotImplementedResponse),
        ("3=3", NotImplementedResponse),
        ('names:sites HAS "Al":"x"', NotImplementedResponse),
        ('moment="2024"', BadRequest),
        ('moment="2024-13-31T12:00:00Z"', BadRequest),
        ('moment="20240131T120000Z"', BadRequest),
        ("nothing=3", BadRequest),
        ("n=2 n=3", BadRequest),
        ("n", BadRequest),
        ("é=2", BadRequest),
        ("n=" + "9" * 5_000, BadRequest),
        ("names LENGTH " + "9" * 5_000, BadRequest),
    ],
)
def test_what_a_filter_cannot_ask_is_refused_by_the_standards_name_for_it(
    reader: FilterReader, text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        reader.read(text)


def test_a_refusal_says_where_the_language_ends(reader: FilterReader) -> None:
    with pytest.raises(BadRequest, match=r"at character 1: é=3"):
        reader.read("é=3")
    with pytest.raises(BadRequest, match=r"at character 5: n=2 n=3"):
        reader.read("n=2 n=3")
    with pytest.raises(BadRequest, match=r"at its end: n=2 AND"):
        reader.read("n=2 AND")


def test_brackets_and_length_have_a_limit_below_which_filters_are_tested(reader: FilterReader) -> None:
    def nested(depth: int) -> str:
        return "(n=1 OR NOT " * depth + "n=2" + ")" * depth

    assert reader.read(nested(BRACKETS_MAX))(ENTRY) in (True, False)
    with pytest.raises(BadRequest, match="brackets"):
        reader.read(nested(BRACKETS_MAX + 1))
    long = " OR ".join(f'word="{number:x}"' for number in range(4_000))[: LENGTH_MAX - 1].rpartition(" OR ")[0]
    assert reader.read(long)(ENTRY) is False
    with pytest.raises(BadRequest, match=f"{LENGTH_MAX} at most"):
        reader.read("n=1 OR " * (LENGTH_MAX // 7) + "n=1 OR n=1")


PIECES = ["n", "word", "names", "flag", "sites.name", "table.deep.n", "(", ")", "AND", "OR", "NOT", "=", "<", ">="]
PIECES += ["!=", "HAS", "ALL", "ANY", "ONLY", "LENGTH", "IS", "KNOWN", "UNKNOWN", "CONTAINS", "STARTS", "WITH", "ENDS"]
PIECES += ["TRUE", "FALSE", "1", "-2", "+3", "1.5", ".5", "5.", "1e3", "1e", '"a"', r'"\""', r'"\\"', '""', ",", ":"]
PIECES += ["é", "A", ""]
WHOLE = ["n=1", '"a"<word', 'names HAS ANY "a" , "b"', "names LENGTH > 2", "NOT (n=1 OR flag=TRUE)", "1 = n"]
WHOLE += ["word STARTS WITH n", 'names : sites HAS ONLY > "a" : < 3 , 1:2', 'names:sites:n HAS "a":3:.5']
WHOLE += ["n IS KNOWN AND NOT n IS UNKNOWN", "names HAS != 3"]


def drawn(rng: np.random.Generator) -> str:
    """A filter, or what is nearly one: some of its pieces replaced, lost or put in."""
    parts = [str(rng.choice(WHOLE)) for _ in range(int(rng.integers(1, 4)))]
    words = " AND ".join(parts).split()
    for _ in range(int(rng.integers(4))):
        place, kind = int(rng.integers(len(words))), int(rng.integers(3))
        words[place : place + (kind != 0)] = [] if kind == 1 and len(words) > 1 else [str(rng.choice(PIECES))]
    return str(rng.choice(["", " ", "\t"])).join(words) if rng.random() < 0.2 else " ".join(words)


@pytest.mark.fuzz
def test_the_language_is_the_one_that_the_reference_parser_reads(reader: FilterReader, fuzz: Fuzz) -> None:
    reference: Any = LarkParser().lark
    for rng in fuzz.cases(150):
        text = drawn(rng)
        try:
            # It reads none or several expressions beside each other, of which its server then takes the first.
            theirs = len(reference.parse(text).children) == 1
        except Exception:
            theirs = False
        try:
            reader.read(text)
            ours = True
        except NotImplementedResponse:
            ours = True
        except BadRequest as error:
            ours = "OPTIMADE's language" not in str(error.detail)
        if ours != theirs:
            fuzz.failed(f"{text!r}: the reference {'reads' if theirs else 'refuses'} it, ours does not agree")
        else:
            fuzz.ended("read by both" if ours else "refused by both")
