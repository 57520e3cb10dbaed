"""Writes requirements.lock and requirements-cuda.lock, with uv: `make lock`, or `make lock UPGRADE=1`.

uv resolves for every platform at once and takes the digests of all files of a version from the index. Two files, for
torch's CUDA libraries belong only beside PyPI's own build of torch, not beside a CPU build. Names of indexes and hosts
stay out: whatever index pip is set to is asked, and only digests are kept. Versions stay as they are where they still
fit; with the argument --upgrade the newest allowed ones come in, but for torch, whose builds lie on people's machines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = [
    {"sys_platform": platform, "platform_system": system, "platform_machine": machine, "python_full_version": full}
    | {"python_version": full.rpartition(".")[0], "implementation_name": "cpython", "os_name": "posix"}
    | {"platform_python_implementation": "CPython", "extra": ""}
    for platform, system, machine in (
        ("linux", "Linux", "x86_64"),
        ("linux", "Linux", "aarch64"),
        ("darwin", "Darwin", "arm64"),
    )
    for full in ("3.11.0", "3.11.99", "3.12.0", "3.12.99")
]
"""Where Hullward is installed; pins for other places are left out."""

CUDA = re.compile(r"(nvidia-(?!ml-py)|cuda-|triton$)")
"""Packages that PyPI's build of torch asks for by exact versions, and nothing else does."""

HEAD = """\
# Exact versions of everything, with the digests of their files, for Python 3.11 and 3.12 on Linux and macOS; written by
# `make lock`. How they are installed, and what each is for: docs/installation.md.
"""
CUDA_HEAD = """\
# The CUDA libraries that PyPI's own build of torch asks for on Linux; written by `make lock`, see requirements.lock.
"""
FILES = {"requirements.lock": (HEAD, False), "requirements-cuda.lock": (CUDA_HEAD, True)}
"""What each begins with, and whether it holds torch's CUDA libraries."""


def resolved(upgrade: bool) -> str:
    """What uv makes of pyproject.toml: each version with the digests of all its files.

    Args:
        upgrade: take the newest allowed versions in place of those in the files.
    """
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    index = os.environ.get("PIP_INDEX_URL") or asked.stdout.strip()
    before = "".join((ROOT / name).read_text(encoding="utf-8") for name in FILES if (ROOT / name).is_file())
    with TemporaryDirectory() as folder:
        found, kept = Path(folder, "found.txt"), Path(folder, "kept.txt")
        found.write_text(before, encoding="utf-8")  # uv keeps the versions that it finds where it writes
        kept.write_text("\n".join(re.findall(r"^torch==[^ \n]+", before, re.MULTILINE)), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11"]
            + ["--fork-strategy", "fewest", "--extra", "dev", "--extra", "slurm", "--generate-hashes", "--no-annotate"]
            + ["--no-header", "--quiet", "--no-config", "--constraint", str(kept), "--output-file", str(found)]
            + ["pyproject.toml"]
            + (["--upgrade"] if upgrade else []),
            cwd=ROOT,
            env={**os.environ, **({"UV_DEFAULT_INDEX": index} if index else {})},
            check=True,
        )
        return found.read_text(encoding="utf-8")


def pins(text: str) -> Iterator[tuple[str, str]]:
    """(name, lines) of each pin that is installed somewhere, without a marker that holds everywhere."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", text.strip()):
        first, *digests = block.split("\n")
        pin, _, marker = first.removesuffix(" \\").partition(" ; ")
        holds = [Marker(marker).evaluate(environment) for environment in ENVIRONMENTS] if marker else [True]
        if any(holds):
            shown = pin if all(holds) else f"{pin} ; {marker}"
            yield pin.partition("==")[0], "\n".join([f"{shown} \\", *digests]) + "\n"


def main() -> None:
    """Write both files."""
    found = list(pins(resolved("--upgrade" in sys.argv[1:])))
    for file, (head, is_cuda) in FILES.items():
        chosen = [lines for name, lines in found if bool(CUDA.match(name)) == is_cuda]
        (ROOT / file).write_text(head + "".join(chosen), encoding="utf-8")


if __name__ == "__main__":
    main()
