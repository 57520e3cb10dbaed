"""Settings from a command's options, so that a stage on a user's own files has the same settings as in a run."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.evaluation import EvaluateConfig
from configs.ingest import IngestConfig, parse_ingest
from configs.overrides import merged, name_of_system, named_by_system, override
from configs.paths import AssetError, resolve
from configs.schema import CONFIG_FOLDER, ConfigError, DiscoverConfig, parse, read_yaml

ORIGIN = "the command line"
SYSTEM = re.compile(r"[A-Z][a-z]?(-[A-Z][a-z]?)*")
DATABASES = ("materials-project", "aflow")
"""Databases that are named by their kind alone; an OPTIMADE provider is named as 'optimade:alexandria'."""


@dataclass(frozen=True)
class IngestRequest:
    """What the options of `hullward ingest` say beside the sources; None, False and () leave the settings alone.

    Attributes:
        elements: the chemical system to keep to.
        method: level of theory of the energies, of files and of OPTIMADE providers.
        potential: scores prototypes.
        limit: most records of each source.
        where: further condition in a database's own query language.
        endpoint: address of a database.
        formulas: reduced formulas to keep.
        refresh: ask databases again.
        merge: keep a crystal that several sources hold once.
        name: of the dataset.
        out: its folder.
    """

    elements: Sequence[str] | None = None
    method: str | None = None
    potential: str | None = None
    limit: int | None = None
    where: str | None = None
    endpoint: str | None = None
    formulas: Sequence[str] = ()
    refresh: bool = False
    merge: bool = False
    name: str | None = None
    out: str | None = None


def elements_of(text: str | None) -> list[str] | None:
    """The elements of 'Ta-W-B' or 'Ta,W,B'; None for None. They are checked with the other settings."""
    return None if text is None else [part for part in re.split(r"[-,\s]+", text) if part]


def settings_of(
    changes: Mapping[str, Any],
    assignments: Sequence[str] | None,
    settings: Mapping[str, Any] | None = None,
    origin: str = ORIGIN,
) -> DiscoverConfig:
    """The defaults with these changes ('sample.n_candidates': 32, 'seed': 1; None changes nothing), then assignments.

    Args:
        changes: what options say.
        assignments: 'sample.n_candidates=32', made last.
        settings: as in a settings file; options go before them.
        origin: named in errors.

    Raises: ConfigError: naming the field, the value, and what is allowed.
    """
    stated = merged(settings or {}, _given(changes))
    return parse(DiscoverConfig, override(stated, assignments or (), DiscoverConfig), origin)


def _given(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def potential_changes(name: str | None) -> dict[str, Any]:
    """A potential asked for by name is not replaced by the fallback."""
    return {} if name is None else {"relax": {"potential": name, "fallback": None}}


def _settings_named(what: str) -> tuple[str, dict[str, Any]]:
    """Where settings come from, and the settings: of a file, of those shipped, or of a chemical system."""
    if SYSTEM.fullmatch(what) is None or Path(what).exists():
        file, stated = read_yaml(what)
        return str(file), stated
    _, stated = read_yaml("ternary")
    sources = [source for source in stated["data"]["sources"] if _is_here(source)]
    elements = elements_of(what) or []
    return what, {**stated, "elements": elements, "name": name_of_system(elements), "data": {"sources": sources}}


def _is_here(source: Mapping[str, Any]) -> bool:
    try:
        resolve(source.get("path", ""))
    except AssetError:
        return False
    return True


def run_settings(
    config: str,
    changes: Mapping[str, Any],
    assignments: Sequence[str] | None,
    settings: Mapping[str, Any] | None = None,
) -> DiscoverConfig:
    """The settings of a run from a YAML file, with settings that go before its own, changes as in `settings_of` that go
    before both, and assignments.

    A run of other elements than the file's is named by its system, such as 'b-mo-nb', unless a name is given. A
    chemical system in the place of a file, such as 'Nb-Mo-B', has the settings of `ternary` and, of its sources of
    known crystals, those that are on this machine: decorated prototypes at least.

    Raises: ConfigError: as for configs.schema.load.
    """
    origin, stated = _settings_named(config)
    given = {**(settings or {}), **_given(changes)}
    changed = override(merged(merged(stated, settings or {}), _given(changes)), assignments or (), DiscoverConfig)
    named = [*(f"{name}=" for name in given), *(assignments or ())]
    return parse(DiscoverConfig, named_by_system(changed, stated, named), origin)


def ingest_settings(
    sources: Sequence[str], request: IngestRequest, assignments: Sequence[str] | None = None
) -> IngestConfig:
    """Settings of an ingest: of a settings file, or of sources named on the command line.

    Args:
        sources: files, folders, 'prototypes', 'materials-project', 'aflow', 'optimade:PROVIDER'; or one settings file,
            of an ingest or a run, or the bare name of one shipped.
        request: what else the command's options say.
        assignments: further settings, made last.

    Raises: ConfigError: if a settings file stands among other sources, an option does not fit the sources, or a
        setting is wrong.
    """
    file = _settings_file(sources)
    if file is not None:
        path, settings = read_yaml(file)
        origin = str(path)
    else:
        settings, origin = _settings_of_sources(sources, request), ORIGIN
    settings = override(_asked(settings, request), assignments or (), IngestConfig)
    return parse_ingest(settings, origin)


def _settings_file(sources: Sequence[str]) -> str | None:
    """The settings file among the sources, if there is one."""
    files = [s for s in sources if s.endswith((".yaml", ".yml")) or (_is_shipped(s) and not Path(s).exists())]
    if files and len(sources) > 1:
        raise ConfigError(f"{', '.join(sources)}: a settings file names its own sources, so it must stand alone")
    return files[0] if files else None


def _is_shipped(name: str) -> bool:
    return re.fullmatch(r"[a-z0-9-]+", name) is not None and (CONFIG_FOLDER / f"{name}.yaml").is_file()


def _settings_of_sources(sources: Sequence[str], request: IngestRequest) -> dict[str, Any]:
    if "prototypes" in sources and not request.elements:
        raise ConfigError("prototypes need a chemical system to be decorated with: add --elements, such as Ta-W-B")
    listed = [source_settings(source, request.method) for source in sources]
    words = "-".join([*(Path(s).name.split(".")[0] for s in sources), *(request.elements or ())])
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:64].strip("-")
    return {"name": name or "known-crystals", "data": {"sources": listed}}


def source_settings(text: str, method: str | None = None) -> dict[str, Any]:
    """One source as named on the command line.

    Args:
        text: a database, 'prototypes', or a file or folder. A file called 'aflow' is './aflow'.
        method: level of theory, of files and of OPTIMADE providers.

    Raises: ConfigError: if an OPTIMADE provider is not named.
    """
    stated = {} if method is None else {"method": method}
    if text in DATABASES or text == "prototypes":
        return {"kind": text}
    if text == "optimade" or text.startswith("optimade:"):
        provider = text.removeprefix("optimade").removeprefix(":")
        if not provider:
            raise ConfigError(f"{text}: which provider? Name it behind a colon, such as optimade:alexandria")
        return {"kind": "optimade", "provider": provider, **stated}
    return {"kind": "files", "path": text, **stated}


def _asked(settings: dict[str, Any], request: IngestRequest) -> dict[str, Any]:
    """Settings with what the options say put in; what they leave open stays as it is."""
    changed = copy.deepcopy(settings)
    data = changed.setdefault("data", {})
    listed = data.get("sources", []) if isinstance(data, dict) else None
    if not isinstance(listed, list) or not all(isinstance(source, dict) for source in listed):
        return changed  # not settings at all, as `parse_ingest` will say
    databases = [source for source in listed if source.get("kind") in (*DATABASES, "optimade")]
    for option, value in (("where", request.where), ("endpoint", request.endpoint)):
        if value is None:
            continue
        if len(databases) != 1:
            raise ConfigError(
                f"--{option} belongs to one database, but the sources name {len(databases)}: name exactly one, or "
                "write a settings file"
            )
        databases[0][option] = value
    if request.limit is not None:
        for source in listed:
            if source.get("kind") != "prototypes":
                source["limit"] = request.limit
    if request.formulas:
        data["filters"] = {**(data.get("filters") or {}), "formulas": list(request.formulas)}
    flags = {"refresh": request.refresh, "merge": request.merge}
    data.update({name: True for name, wanted in flags.items() if wanted})
    whole = {"elements": request.elements, "out": request.out, "name": request.name}
    changed.update({name: value for name, value in whole.items() if value is not None})
    if request.potential is not None:
        changed["relax"] = {**(changed.get("relax") or {}), **potential_changes(request.potential)["relax"]}
    return changed


def sample_changes(
    formulas: Sequence[str],
    elements: Sequence[str],
    spacegroup: int | None = None,
    formation_energy_ev_per_atom: float | None = None,
    sites: Sequence[str] = (),
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """What to generate: these formulas, these inequivalent sites of a space group, or every stoichiometry of a chemical
    system with all or all but few elements.

    Raises: ConfigError: if none is given, formulas and sites both are, or sites without a space group.
    """
    if not formulas and not sites and not elements:
        raise ConfigError("nothing to generate: give --formula, such as TaBW, or --elements, such as Ta-W-B")
    if formulas and sites:
        raise ConfigError("--formula and --sites are both given: expected compositions or inequivalent sites")
    if sites and spacegroup is None:
        raise ConfigError(f"--sites {sites[0]} counts the sites of a space group: add --spacegroup, such as 191")
    if listed := [*formulas, *sites]:
        found = sorted({symbol for formula in listed for symbol in re.findall(r"[A-Z][a-z]?", formula)})
        asked: dict[str, Any] = {"policy": "sites" if sites else "given", "formulas": listed}
        chosen = list(elements) or found
    else:
        asked = {"policy": "likely"}
        chosen = list(elements)
    wished = {
        "spacegroup": spacegroup,
        "formation_energy_ev_per_atom": formation_energy_ev_per_atom,
        "targets": list(targets),
    }
    return {"elements": chosen, "conditions": {**asked, **wished}}


def draw_settings(
    asked: Mapping[str, Any],
    n: int,
    seed: int,
    checkpoints: Sequence[str],
    assignments: Sequence[str] | None,
    settings: Mapping[str, Any] | None = None,
    origin: str = ORIGIN,
) -> DiscoverConfig:
    """Settings of a draw without a run.

    Args:
        asked: what to generate, of sample_changes.
        n: crystals.
        seed: of every draw.
        checkpoints: who draws, as in generator_changes.
        assignments: as in settings_of, as the last two are.
        settings: as in a settings file.
        origin: named in errors.

    Raises: ConfigError: as settings_of.
    """
    given = {"sample.n_candidates": n, "sample.chunk_size": max(1, min(n, 64)), "seed": seed}
    return settings_of({**asked, **given, **generator_changes(checkpoints)}, assignments, settings, origin)


def evaluation_settings(
    stated: Mapping[str, Any],
    potential: str | None,
    assignments: Sequence[str] | None,
    settings: Mapping[str, Any] | None = None,
    origin: str = ORIGIN,
) -> EvaluateConfig:
    """Settings of an evaluation: what options state (None states nothing), over settings, then assignments.

    Raises: ConfigError: naming the field, the value, and what is allowed.
    """
    given = merged(settings or {}, _given({**stated, **potential_changes(potential)}))
    return parse(EvaluateConfig, override(given, assignments or (), EvaluateConfig), origin)


def generator_changes(checkpoints: Sequence[str]) -> dict[str, Any]:
    """Who draws: the generator shipped, the one that is named, or several with equal shares."""
    if len(checkpoints) > 1:
        return {"sample.generators": [{"checkpoint": checkpoint} for checkpoint in checkpoints]}
    return {"sample.checkpoint": checkpoints[0]} if checkpoints else {}
