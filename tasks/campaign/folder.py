"""A campaign's folder: its lock, and what it says of who works there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from configs.campaign import CampaignConfig
from storage.checksums import DamagedFileError
from storage.documents import read_document, write_document
from tasks.discover.run import MANIFEST, hardware, locked, refuse_other
from tasks.files import package_versions
from tasks.source_code import project_digest

AGAIN = "run the same campaign again, which computes what is missing or damaged"
"""What to do about a damaged file, as the end of a sentence."""

SHARES = "shares.json"

Shares = Mapping[str, Mapping[str, int]]
"""Relaxations of a round by system and proposer."""

logger = logging.getLogger(__name__)


def identity_of(config: CampaignConfig) -> dict[str, Any]:
    """What makes a campaign the campaign that it is: where it looks, who proposes and learns, how rounds are shared
    out.

    A larger budget goes on in the same folder, as do other settings of what comes after relaxation.
    """
    names = {
        "seed", "systems", "rule", "proposers", "conditions", "sample", "allocation", "learning",
        "find_within_ev_per_atom",
    }  # fmt: skip
    stated = config.model_dump(mode="json", include=names)
    del stated["allocation"]["repeat"]
    return {**stated, "budget": {"per_round": config.budget.per_round}}


def recorded_shares(config: CampaignConfig) -> list[Shares]:
    """The shares of every round of the campaign when it last ended, where it is to be repeated; else none."""
    file = config.folder / SHARES
    if not config.allocation.repeat or not file.is_file():
        return []
    rounds: list[Shares] = read_document(file, AGAIN)["rounds"]
    return rounds


def record_shares(config: CampaignConfig, rounds: Sequence[Shares]) -> None:
    """Keep the shares of a campaign that has ended."""
    write_document(config.folder / SHARES, {"rounds": list(rounds)})


@contextmanager
def begun(config: CampaignConfig) -> Iterator[None]:
    """Hold the lock of the campaign's folder, whose manifest says what is done there.

    Raises:
        OtherRunError: if another campaign lies there; see identity_of.
        RunBusyError, DiskFullError: as tasks.discover.run.locked.
    """
    with locked(config.folder):
        file = config.folder / MANIFEST
        try:
            stated = read_document(file, AGAIN)["settings"] if file.is_file() else None
            if stated is not None:
                refuse_other(config.folder, identity_of(CampaignConfig.model_validate(stated)), identity_of(config))
        except (DamagedFileError, ValidationError) as error:
            logger.warning("%s is written anew (%s)", file, type(error).__name__)
        manifest = {
            "schema_version": 1,
            "name": config.name,
            "settings": config.model_dump(mode="json"),
            "code_sha256": project_digest(),
            "packages": package_versions(),
            "hardware": hardware(),
        }
        write_document(file, manifest, sort_keys=True)
        yield
