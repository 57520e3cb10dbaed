"""The documentation's pages in parts: their prose, their fenced blocks, and the command lines in these."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
SHELL = ("bash", "console", "sh")


@dataclass(frozen=True)
class Line:
    """A command line of a page.

    Attributes:
        page: its file's name.
        words: without prompt, comment, and variables set for it alone.
    """

    page: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return Path(self.words[0]).name or self.words[0]

    @property
    def text(self) -> str:
        return shlex.join(self.words)


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def lines_of(page: Path) -> Iterator[Line]:
    """Every command line in a shell block; a script that begins with #! is a file's text, not a command."""
    for block in blocks(page, *SHELL):
        if block.startswith("#!"):
            continue
        prompted = "\n$ " in "\n" + block  # then lines without a prompt are output
        for line in block.replace("\\\n", " ").splitlines():
            if prompted and not line.startswith("$ "):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield Line(page.name, tuple(words))


def lines(program: str | None = None) -> list[Line]:
    """The command lines of all pages, or those of one program."""
    found = [line for page in PAGES for line in lines_of(page)]
    return [line for line in found if program in (None, line.program)]
