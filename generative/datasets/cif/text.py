"""CIF text to data blocks: names and values as written, nothing interpreted.

A CIF may hold several blocks: a leading one about the publication, one per crystal, several of one name. All are kept,
in their order. Names are compared as the CIF dictionary does: in any case, and with '.' for '_' (DDLm).
Source: the grammar of CIF 1.1, https://www.iucr.org/resources/cif/spec/version1.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from generative.datasets.checks import RecordError
from generative.datasets.limits import MAX_CIF_QUOTED, MAX_CIF_WORDS

_TOKEN = re.compile(
    r"""
      ^;(?P<field>.*?)(?:^;(?=\s|\Z)|(?P<open>\Z))
    | '(?P<single>[^\n]*?)'(?=\s|\Z)
    | "(?P<double>[^\n]*?)"(?=\s|\Z)
    | (?P<comment>\#[^\n]*)
    | (?P<bare>\S+)
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_HEADING = re.compile(r"(?:^|\s)data_", re.IGNORECASE)
_UNKNOWN = frozenset({"", "?", "."})
SITE_X = "_atom_site_fract_x"


@dataclass
class CifBlock:
    """One data block.

    Attributes:
        name: what follows 'data_'.
        text: the block as written, its heading included.
        values: name -> its value, or its column in a loop; names in lower case, '_' for '.'.
        repeated: names that stand twice in the block.
    """

    name: str
    text: str = ""
    values: dict[str, str | list[str]] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)

    def stated(self, *names: str) -> str | None:
        """The first of these values that is neither missing nor '?' nor '.'; of a column, its only entry."""
        for name in names:
            value = self.values.get(name, "")
            text = value if isinstance(value, str) else value[0] if len(value) == 1 else ""
            if text.strip() not in _UNKNOWN:
                return text.strip()
        return None

    def column(self, name: str) -> list[str] | None:
        """A loop's column, or a single value as a column of one; None if the block lacks it."""
        value = self.values.get(name)
        return [value] if isinstance(value, str) else value

    def number(self, *names: str) -> float:
        """The first of these values as a number; NaN if there is none."""
        return plain_number(self.stated(*names))

    def _put(self, name: str, value: str | list[str]) -> None:
        if name in self.values:
            self.repeated.add(name)
        self.values[name] = value


def plain_number(text: Any) -> float:
    """A CIF number without its bracketed uncertainty; NaN for '?', '.' and anything else that is no number."""
    try:
        return float(re.sub(r"\(\d*\)?$", "", str(text)))
    except ValueError:
        return math.nan


def _tokens(text: str) -> Iterator[tuple[str, bool, int]]:
    """Each token, whether it is bare (neither quoted nor a text field), and where it starts."""
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup
        if kind == "comment":
            continue
        if kind == "open":
            raise RecordError("a text field has no closing ';': expected a complete CIF; the file may be cut off")
        if kind == "field":
            yield found["field"].strip(), False, found.start()
        elif kind in ("single", "double"):
            yield found[kind], False, found.start()
        else:
            yield found["bare"], True, found.start()


def _is_value(token: tuple[str, bool, int]) -> bool:
    word, is_bare, _ = token
    return not is_bare or not (word.startswith("_") or re.match(r"(?:data|save)_|(?:loop|stop|global)_$", word, re.I))


def blocks_of(text: str) -> list[CifBlock]:
    """The data blocks of a CIF, in their order.

    Raises:
        RecordError: if a loop's values do not fill its columns, or a text field does not end.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    _refuse_slow(text)
    tokens = list(islice(_tokens(text), MAX_CIF_WORDS + 1))
    if len(tokens) > MAX_CIF_WORDS:
        raise RecordError(
            f"the CIF has more than {MAX_CIF_WORDS} words: expected one crystal with its atoms; leave out measured data"
        )
    blocks: list[CifBlock] = []
    starts: list[int] = []
    i = 0
    while i < len(tokens):
        word, is_bare, start = tokens[i]
        i += 1
        if not is_bare:
            continue  # a value without a name says nothing about the crystal
        if word.lower().startswith("data_"):
            blocks.append(CifBlock(word[5:]))
            starts.append(start)
        elif blocks and word.lower() == "loop_":
            i = _read_loop(blocks[-1], tokens, i)
        elif blocks and word.startswith("_"):
            i = _read_value(blocks[-1], text, tokens, i)
    for block, start, end in zip(blocks, starts, [*starts, len(text)][1:], strict=False):
        block.text = text[start:end]
    return blocks


def _refuse_slow(text: str) -> None:
    """Refuses lines of so many quotation marks that looking for the end of each takes minutes."""
    if (text.count("'") + text.count('"')) * len(text) <= MAX_CIF_QUOTED:
        return
    n_steps = sum((line.count("'") + line.count('"')) * len(line) for line in text.split("\n"))
    if n_steps > MAX_CIF_QUOTED:
        longest = max(map(len, text.split("\n")))
        raise RecordError(
            f"the CIF has lines of up to {longest} characters full of quotation marks: expected lines of at most 2048 "
            "characters, as CIF 1.1 has them"
        )


def _key(word: str) -> str:
    return word.lower().replace(".", "_")


def _read_value(block: CifBlock, text: str, tokens: list[tuple[str, bool, int]], i: int) -> int:
    """Puts the value of the name before token i; returns the place after it."""
    name, last = _key(tokens[i - 1][0]), i
    value: list[str] = []
    while i < len(tokens) and _is_value(tokens[i]):
        # A value of several words without quotes, such as P m -3 m, goes on to the end of its line.
        if value and "\n" in text[tokens[last][2] : tokens[i][2]]:
            break
        value.append(tokens[i][0])
        last = i
        i += 1
    block._put(name, " ".join(value))
    return i


def _read_loop(block: CifBlock, tokens: list[tuple[str, bool, int]], i: int) -> int:
    names: list[str] = []
    while i < len(tokens) and tokens[i][1] and tokens[i][0].startswith("_"):
        names.append(_key(tokens[i][0]))
        i += 1
    items: list[str] = []
    while i < len(tokens) and _is_value(tokens[i]):
        items.append(tokens[i][0].strip())
        i += 1
    if not names or len(items) % len(names):
        raise RecordError(
            f"a loop of {len(names)} columns ({', '.join(names[:3])}, ...) has {len(items)} values: expected a "
            "multiple; the file may be cut off in the middle of a line"
        )
    for k, name in enumerate(names):
        block._put(name, items[k :: len(names)])
    return i


def crystal_blocks(text: str) -> list[CifBlock]:
    """The blocks that list atoms; those about the publication, the measurement or a powder pattern do not.

    Raises:
        RecordError: as `blocks_of`.
    """
    blocks = blocks_of(text)
    return [block for block in blocks if any(x.strip() not in _UNKNOWN for x in block.column(SITE_X) or [])]


def crystal_texts(text: str) -> list[tuple[str, str]]:
    """(name, CIF) of each crystal of a file with several; equal names are numbered: 'x', 'x-2'.

    Returns:
        Nothing if the file holds at most one crystal or cannot be read: it is then one record as it stands.
    """
    if len(_HEADING.findall(text)) < 2:
        return []
    try:
        blocks = crystal_blocks(text)
    except RecordError:
        return []
    if len(blocks) < 2:
        return []
    taken: set[str] = set()
    found = []
    for block in blocks:
        base, n = block.name or "block", 1
        name = base
        while name in taken:
            n += 1
            name = f"{base}-{n}"
        taken.add(name)
        found.append((name, block.text))
    return found
