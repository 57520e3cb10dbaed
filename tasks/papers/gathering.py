"""What a reproduction has measured so far: which results lie there for its settings, and why others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.paths import AssetError, project_version
from tasks.files import package_versions
from tasks.papers.results import NotReadyError, Place, Reproduction, Result
from tasks.papers.tables import Claims


@dataclass(frozen=True)
class Collected:
    """Results that lie there.

    Attributes:
        results: by place.
        missing: place -> why it has no result.
        foreign: places whose result other code or other packages have made.
    """

    results: Mapping[Place, Result]
    missing: Mapping[Place, str]
    foreign: tuple[Place, ...] = ()

    def notes(self) -> list[str]:
        """What a reader of the tables must know first."""
        said = []
        if self.missing:
            said.append(f"{len(self.missing)} results are missing; the last table names each with the reason.")
        if self.foreign:
            names = ", ".join(place.name for place in self.foreign[:4]) + (" ..." if len(self.foreign) > 4 else "")
            said.append(f"{len(self.foreign)} results were made by other code or packages than these: {names}.")
        return said + sorted({note for result in self.results.values() for note in result.notes})

    def as_dict(self, config: Any, claims: Claims) -> dict[str, Any]:
        """reproduction.json: every figure with its settings, error and budget, every claim, what is missing."""
        return {
            "schema_version": 1,
            "name": config.name,
            "settings": config.model_dump(mode="json", exclude_defaults=True, exclude={"execution", "workers"}),
            "versions": {"hullward": project_version(), **package_versions()},
            "results": [result.as_dict() for result in self.results.values()],
            "claims": claims.as_dicts(),
            "missing": [{**vars(place), "why": why} for place, why in self.missing.items()],
        }


def collect(
    config: Reproduction,
    places: Iterable[Place],
    expected: Callable[[Place], tuple[str, str]],
    failures: Mapping[Place, str],
) -> Collected:
    """The results that lie there for these settings, and for each one that does not, why.

    Args:
        config: the reproduction.
        places: of all results it has to give, in order.
        expected: digests of inputs, and of inputs with code, that a result has if it is made now; raises NotReadyError
            or AssetError with the reason where it cannot be made.
        failures: what has just failed, and how.
    """
    results: dict[Place, Result] = {}
    missing: dict[Place, str] = {}
    foreign = []
    for place in places:
        try:
            inputs, key = expected(place)
        except (NotReadyError, AssetError) as reason:
            missing[place] = str(reason)
            continue
        found = Result.read(place.file(config))
        if found is not None and found.inputs == inputs:
            results[place] = found
            foreign += [place] if found.key != key else []
            continue
        default = "the stage was not run" if found is None else "it was measured with other settings or files"
        missing[place] = failures.get(place, default)
    return Collected(results, missing, tuple(foreign))


def short_name(path: str) -> str:
    """The name of a file of crystals, without where it is looked up."""
    return Path(path.rpartition(":")[2]).name
