"""Settings from a command's options, so that a stage on a user's own files has the same settings as in a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from configs.overrides import override
from configs.schema import ConfigError, DiscoverConfig, parse, read_yaml

ORIGIN = "the command line"


def elements_of(text: str | None) -> list[str] | None:
    """The elements of 'Ta-W-B' or 'Ta,W,B'; None for None. They are checked with the other settings."""
    return None if text is None else [part for part in re.split(r"[-,\s]+", text) if part]


def settings_of(changes: Mapping[str, Any], assignments: Sequence[str] | None) -> DiscoverConfig:
    """The defaults with these changes ('sample.n_candidates': 32, 'seed': 1; None changes nothing), then assignments.

    Raises: ConfigError: naming the field, the value, and what is allowed.
    """
    settings: dict[str, Any] = {}
    for name, value in changes.items():
        room, _, field = name.partition(".")
        if value is None:
            continue
        if field:
            settings.setdefault(room, {})[field] = value
        else:
            settings[room] = value
    return parse(override(settings, assignments or ()), ORIGIN)


def potential_changes(name: str | None) -> dict[str, Any]:
    """A potential asked for by name is not replaced by the fallback."""
    return {} if name is None else {"relax": {"potential": name, "fallback": None}}


def run_settings(config: str, changes: Mapping[str, Any], assignments: Sequence[str] | None) -> DiscoverConfig:
    """The settings of a run from a YAML file, with top-level changes (None changes nothing) and assignments.

    Raises: ConfigError: as for configs.schema.load.
    """
    file, stated = read_yaml(config)
    changed = {**stated, **{name: value for name, value in changes.items() if value is not None}}
    return parse(override(changed, assignments or ()), str(file))


def ingest_settings(
    sources: Sequence[str],
    elements: Sequence[str] | None,
    method: str,
    potential: str | None,
    assignments: Sequence[str] | None,
) -> tuple[DiscoverConfig, tuple[str, ...] | None]:
    """Settings of an ingest, and the chemical system to keep to; None keeps all.

    Args:
        sources: files, folders, 'prototypes', or one settings file.
        elements: the chemical system, if one was given.
        method: level of theory of the energies in the files.
        potential: scores prototypes; None takes the default.
        assignments: further settings.

    Raises: ConfigError: if a settings file stands among other sources, or a setting is wrong.
    """
    if any(source.endswith((".yaml", ".yml")) for source in sources):
        if len(sources) > 1:
            raise ConfigError(f"{', '.join(sources)}: a settings file names its own sources, so it must stand alone")
        config = run_settings(sources[0], {"elements": elements}, assignments)
        return config, config.elements
    if "prototypes" in sources and not elements:
        raise ConfigError("prototypes need a chemical system to be decorated with: add --elements, such as Ta-W-B")
    listed = [
        {"kind": "prototypes"} if source == "prototypes" else {"kind": "files", "path": source, "method": method}
        for source in sources
    ]
    changes = {"data": {"sources": listed}, "elements": elements, "conditions.n_elements_min": 1}
    config = settings_of({**changes, **potential_changes(potential)}, assignments)
    return config, config.elements if elements else None


def sample_changes(formulas: Sequence[str], elements: Sequence[str], spacegroup: int | None) -> dict[str, Any]:
    """What to generate: these formulas, or every stoichiometry of a chemical system with all or all but few elements.

    Raises: ConfigError: if neither is given.
    """
    if not formulas and not elements:
        raise ConfigError("nothing to generate: give --formula, such as TaBW, or --elements, such as Ta-W-B")
    if formulas:
        found = sorted({symbol for formula in formulas for symbol in re.findall(r"[A-Z][a-z]?", formula)})
        asked: dict[str, Any] = {"policy": "given", "formulas": list(formulas)}
        chosen = list(elements) or found
    else:
        most = min(len(elements), 6)
        asked = {"policy": "enumerate", "n_elements_min": min(3, most), "n_elements_max": most}
        chosen = list(elements)
    return {"elements": chosen, "conditions": {**asked, "spacegroup": spacegroup}}
