"""Writes docs/installation.md from pyproject.toml, requirements.lock and what is installed:
`python -m configs.installation > docs/installation.md`. A test holds the file to what this module writes.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"

PURPOSES = {
    "torch": "generators, potentials and their training",
    "lightning": "loop of a training",
    "safetensors": "weights that are read without running code",
    "numpy": "arrays",
    "scipy": "assignment, linear programs and distributions in hulls and metrics",
    "pandas": "results as data frames; kept below 3, which matminer refuses",
    "pyarrow": "tables of candidates and datasets",
    "pydantic": "settings and their checks",
    "pyyaml": "settings files",
    "pymatgen": "crystals, matching, phase diagrams, VASP files",
    "pymatgen-io-validation": "what the Materials Project holds calculations against",
    "ase": "GPAW's calculations; frames of extended XYZ",
    "spglib": "space groups",
    "smact": "charge balance of compositions",
    "matgl": "M3GNet and TensorNet potentials",
    "huggingface-hub": "finds and fetches the potentials that matgl's authors publish",
    "torch-geometric": "the layers of DimeNet; graphs of matgl",
    "chgnet": "the potential CHGNet and its weights",
    "sevenn": "the weights of the potentials SevenNet-0 and SevenNet-l3i5; not imported by us",
    "tad-dftd3": "reference coefficients of the dispersion DFT-D3",
    "tad-mctc": "radii of DFT-D3",
    "torch-sim-atomistic": "relaxation of many crystals at once",
    "atomate2": "VASP workflows and their input sets",
    "jobflow": "what atomate2's workflows are made of",
    "custodian": "corrects VASP's errors while it runs",
    "emmet-core": "documents of finished VASP calculations",
    "monty": "how the libraries of the Materials Project store objects",
    "phonopy": "phonons by displacements",
    "qtoolkit": "Slurm and PBS, one interface",
    "psutil": "processes and memory of DFT jobs",
    "maggma": "stores of DFT results: files or MongoDB",
    "mongomock-ng": "maggma's store in memory",
    "pymongo": "files of BSON's JSON; a MongoDB where a store is one",
    "mp-api": "client of the Materials Project",
    "httpx": "connections of OPTIMADE's client",
    "requests": "connections of the Materials Project's and OPTIMADE's clients",
    "urllib3": "connections of those clients, with proxies and limits",
    "optimade": "client, server, models and validator of OPTIMADE",
    "mongomock": "a store that OPTIMADE's server makes at start; not imported by us",
    "lark": "grammar of OPTIMADE's filters",
    "uvicorn": "the process that serves OPTIMADE",
    "prefect": "flows, tasks, deployments, UI",
    "prefect-dask": "tasks on several processes or machines",
    "fastapi": "layers of OPTIMADE's server; versions that Prefect's server starts with",
    "starlette": "layers of OPTIMADE's server",
    "sqlalchemy": "versions with which Prefect makes scheduled runs; not imported by us",
    "numba": "matching of crystals and the sums of SevenNet in native code",
    "matminer": "fingerprints of crystals for the metrics",
    "pyxtal": "random crystals of a space group, a baseline",
    "scikit-learn": "monotone and logistic curves of calibrations",
    "plotly": "interactive plots of reports",
    "matplotlib": "plots of reports",
    "pillow": "pictures of reports",
    "packaging": "names and versions of packages, for this page",
    "typer": "the command line",
    "rich": "progress and tables on the terminal",
    "dask-jobqueue": "workers in jobs of Slurm; an extra, `slurm`, for who installs without the lock",
}
"""What each dependency of pyproject.toml is there for."""

ASKED_ABOUT = ("amplitude-analytics", "apprise", "asyncpg", "boto3", "docker", "paramiko", "redis", "tables")
"""Packages in the lock that look as if they did not belong there."""

HEAD = """\
# Installation

`make` installs into `.venv` what a target needs, once, and again when a lock file changes. Python 3.11 or 3.12, on
Linux (x86_64, aarch64) or macOS 14 and newer (Apple silicon: torch has no other build for it). This page is written by
`python -m configs.installation > docs/installation.md`, and a test keeps the two equal.

## What is held to what

| file | what | held to |
|---|---|---|
| `requirements.lock` | everything, {n_pins} pins, tools of development included | SHA-256 of all files of a version |
| `requirements-cuda.lock` | the CUDA libraries of PyPI's own build of torch, {n_cuda} pins | the same |
| `pyproject.toml` | the ranges in which `make lock` looks for versions | |

pip installs with `--require-hashes --no-deps`: a file whose digest is not in the lock is refused, and nothing is
looked for beyond the lock; `pip check` then says whether anything is missing. Hullward itself is built with the
locked hatchling, without the network.

**torch is the exception.** Its build belongs to the machine (CPU, CUDA of some version), and each build is another
file, so `make` installs the locked version of torch first and alone, from wherever this machine's pip takes it, and
keeps one that is there; that one file is not checked. If it is PyPI's own build, its CUDA libraries come from
`requirements-cuda.lock`, by digest; if it is another, from where pip takes them, in the versions that this torch asks
for. `make TORCH_BUILD=locked` checks torch as well, and takes PyPI's own build: on Linux the one for CUDA.

Where a version has no wheel, pip builds it from its source file, whose digest is checked; the build's own tools
(setuptools) are not. On Linux x86_64 and macOS these are bibtexparser, nvidia-ml-py3 and pandarallel, on Linux aarch64
also chgnet, which needs a C compiler.

`make lock` writes both files again after a change of `pyproject.toml`, with the versions that are there where they
still fit; `make lock UPGRADE=1` takes the newest allowed ones, but for torch. It asks the index that pip is set to, for
all platforms at once, with [uv](https://docs.astral.sh/uv/) in an environment of its own.

`make audit` asks [pip-audit](https://pypi.org/project/pip-audit/), in an environment of its own, for known advisories.
It exits with 1 where there are any. Where the service does not answer for every pin, as behind a mirror of the index,
which has no advisories, it says so and exits with 69: no answer is never taken for a clean one. (make shows these as
`Error 1` and `Error 69`.)
"""
DIRECT = """\
## What each dependency is for

The last columns count pins: all that a dependency brings, itself included, and those that would go with it because
nothing else needs them; 0 where others need the dependency itself.

| dependency | version | what for | brings | alone |
|---|---|---|---:|---:|
"""
TOOLS = """\
## Tools of development

| tool | version | brings | alone |
|---|---|---:|---:|
"""
OTHERS = """\
## What looks as if it did not belong

Nothing of ours imports these; they come with what is named.

| package | needed by | which comes with |
|---|---|---|
"""

Node = tuple[str, str]
"""A package and one of its extras; the empty one is the package itself."""


def project_requirements() -> tuple[list[Requirement], list[Requirement]]:
    """Dependencies of pyproject.toml: of the program with its extras, and of its development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = ([*project["dependencies"], *extras["slurm"]], extras["dev"])
    program, tools = ([Requirement(text) for text in one] for one in listed)
    return program, tools


def pins_of(lock: Path) -> dict[str, str]:
    """Version by canonical name of a lock file's pins."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ \n;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def _nodes(requirement: Requirement) -> Iterator[Node]:
    name = canonicalize_name(requirement.name)
    yield from ((name, extra) for extra in ("", *requirement.extras))


@lru_cache(maxsize=2000)
def needs(node: Node) -> tuple[Node, ...]:
    """What an installed package asks for on this machine; nothing if it is not installed."""
    name, extra = node
    try:
        asked = distribution(name).requires or []
    except PackageNotFoundError:
        return ()
    wanted = [Requirement(text) for text in asked]
    return tuple(
        found
        for one in wanted
        if one.marker is None or one.marker.evaluate({"extra": extra})
        for found in _nodes(one)
        if found != node
    )


def reached(roots: Iterable[Requirement]) -> set[Node]:
    """All that these bring, themselves included."""
    waiting = [node for root in roots for node in _nodes(root)]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(needs(node))
    return seen


def _names(roots: Iterable[Requirement]) -> set[str]:
    return {name for name, _ in reached(roots)}


def counts(one: Requirement, everything: list[Requirement], pins: dict[str, str]) -> str:
    """Pins that a dependency brings, and those that no other dependency brings: two cells of a row."""
    brought = _names([one])
    others = _names(other for other in everything if other is not one)
    return f"{len(brought & pins.keys())} | {len((brought - others) & pins.keys())}"


def chains(name: str, program: list[Requirement]) -> tuple[list[str], list[str]]:
    """Who asks for a package, and with which dependencies of ours it comes."""
    asking = {parent for parent, extra in reached(program) if name in (node for node, _ in needs((parent, extra)))}
    ours = {canonicalize_name(one.name) for one in program if name in _names([one])}
    return sorted(asking), sorted(ours)


def page() -> str:
    """The whole of docs/installation.md."""
    program, tools = project_requirements()
    pins, cuda = pins_of(LOCK), pins_of(ROOT / "requirements-cuda.lock")
    everything = [*program, *tools]
    direct = [
        f"| {one.name} | {pins[canonicalize_name(one.name)]} | {PURPOSES[one.name]} | {counts(one, everything, pins)} |"
        for one in program
    ]
    developing = [
        f"| {one.name} | {pins[canonicalize_name(one.name)]} | {counts(one, everything, pins)} |" for one in tools
    ]
    others = [
        f"| {name} | {', '.join(asking)} | {', '.join(ours)} |"
        for name in ASKED_ABOUT
        for asking, ours in [chains(name, program)]
    ]
    sections = (
        HEAD.format(n_pins=len(pins), n_cuda=len(cuda)),
        DIRECT + "\n".join(direct) + "\n",
        TOOLS + "\n".join(developing) + "\n",
        OTHERS + "\n".join(others) + "\n",
    )
    return "\n".join(sections)


if __name__ == "__main__":
    sys.stdout.write(page())
