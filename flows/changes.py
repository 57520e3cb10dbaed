"""Settings that differ from a deployment's, given when it is run: `--param changes='["elements=[Hf, B]"]'`.

Prefect replaces a parameter as a whole, so a run with other elements would have to state all other settings again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from prefect.runtime import flow_run
from pydantic import BaseModel, Field

from configs.overrides import named_by_system, override
from configs.schema import parse

Changes = Annotated[
    tuple[str, ...],
    Field(
        description="settings that differ from those of config, as --set takes them: sample.n_candidates=64, or "
        "elements=[Hf, B]"
    ),
]

C = TypeVar("C", bound=BaseModel)


def changed(config: C, changes: Changes) -> C:
    """The settings with these changes made. A run of another chemical system is named by it, unless it is named.

    Raises: ConfigError: as for configs.overrides.override and configs.schema.parse.
    """
    if not changes:
        return config
    stated = config.model_dump(mode="json")
    return parse(type(config), named_by_system(override(stated, changes, type(config)), stated, changes), "changes")


def run_name(flow: str) -> Callable[[], str]:
    """How a run of a flow is called in the UI: by the name of its settings, changes made. For flow_run_name."""

    def name() -> str:
        given = flow_run.get_parameters()
        return f"{flow}-{changed(given['config'], given.get('changes', ())).name}"

    return name
