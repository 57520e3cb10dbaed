"""Pages of the site that docs/ does not hold, and links as the site has them: a hook of MkDocs (mkdocs.yml).

The pages are written to be read in the repository. In the site README.md is the index, notebooks and model cards are
pages, and a file that a page links to and that lies elsewhere in the repository comes along, below source/.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
NAMED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
REFERENCE = """\
# Reference

The public names of `import hullward`; [From Python](python.md) shows them at work.

"""
FENCE = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CARD = re.compile(r"generative/weights/([a-z-]+)/MODEL_CARD\.md")


def place_of(file: str) -> str:
    """Where a file of the repository is in the site, both relative to their roots."""
    if file in NAMED:
        return NAMED[file]
    if card := CARD.fullmatch(file):
        return f"cards/{card[1]}.md"
    if file.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", file.removeprefix("docs/"))
    return f"source/{file}"


def as_page(notebook: str) -> str:
    """The cells of a notebook as Markdown; it holds no outputs."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def reference() -> str:
    """Every public name of the package, for mkdocstrings."""
    text = (ROOT / "hullward" / "__init__.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^__all__ = \[(.*?)\]", text, re.M | re.S)
    return REFERENCE + "\n\n".join(f"::: hullward.{name}" for name in re.findall(r'"(\w+)"', listed)) + "\n"


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """The text with what is outside its fenced blocks changed."""
    ends = [(0, 0), *(found.span() for found in FENCE.finditer(text)), (len(text), len(text))]
    pieces = []
    for (start, end), (following, _) in zip(ends, ends[1:], strict=False):
        pieces += [text[start:end], change(text[end:following])]
    return "".join(pieces)


def linked(text: str, file: str) -> list[str]:
    """Files of the repository that a page links to."""
    found: list[str] = []

    def look(part: str) -> str:
        found.extend(LINK.findall(part))
        return part

    outside_fences(text, look)
    targets = (target.partition("#")[0] for target in found if not re.match(r"\w+:|#", target))
    return [posixpath.normpath(posixpath.join(posixpath.dirname(file), target)) for target in targets]


def files_of_the_site() -> list[str]:
    """Files of the repository that become pages, and those that pages link to."""
    pages = [*NAMED, *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
    pages += [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("generative/weights/*/MODEL_CARD.md"))]
    notebooks = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))]
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages}
    others = {target for page, text in texts.items() for target in linked(text, page)}
    return sorted({*pages, *notebooks, *(name for name in others if (ROOT / name).is_file())})


ORIGINS = {place_of(file): file for file in files_of_the_site()}
"""File of the repository by its place in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what docs/ does not hold, and leave out notebooks as files."""
    for place, file in ORIGINS.items():
        if file == f"docs/{place}":
            continue
        content = (ROOT / file).read_bytes()
        if file.endswith(".ipynb"):
            files.remove(files.src_uris[file.removeprefix("docs/")])
            content = as_page(content.decode()).encode()
        files.append(File.generated(config, place, content=content))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository as links within the site."""
    place = page.file.src_uri
    if place not in ORIGINS:
        return markdown
    here = posixpath.dirname(ORIGINS[place])

    def moved(found: re.Match[str]) -> str:
        target, mark, anchor = found[1].partition("#")
        if re.match(r"\w+:", found[1]) or not target:
            return found[0]
        there = place_of(posixpath.normpath(posixpath.join(here, target)))
        return f"]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{mark}{anchor})"

    return outside_fences(markdown, lambda text: LINK.sub(moved, text))
