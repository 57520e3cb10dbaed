"""What a user's own settings of atomate2 would add to every INCAR, and which of it may.

atomate2 updates each INCAR it writes from VASP_INCAR_UPDATES, of the environment or of a file in the home folder. How
work is shared out belongs there, since it depends on the machine. A cut-off belongs to the preset: from there it would
change the numbers of every preset under the same name.

Of the other settings of atomate2 and pymatgen, none reaches an input or an energy of the presets. The presets fix
symmetry and band-gap tolerances, VASP_INHERIT_INCAR and the pseudopotential family (PMG_DEFAULT_FUNCTIONAL is for
callers that name none). What PMG_VASP_PSP_SUB_DIRS puts in a family's place is found by the functional that POTCAR
itself states. The rest decides commands, folders, compression and warnings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomate2 import SETTINGS
from pymatgen.io.vasp.inputs import Incar, Potcar

from dft.inputs.incar_tags import CHANGES_NO_NUMBER, PARALLEL_TAGS, changed, physics_tags, shown

UPDATES_VARIABLE = "ATOMATE2_VASP_INCAR_UPDATES"


class UserSettingsError(ValueError):
    """Settings outside this program that would change what a preset computes."""


@dataclass(frozen=True)
class IncarUpdates:
    """Tags that atomate2 adds to every INCAR.

    Attributes:
        tags: by name.
        source: where they are set, in words.
        remedy: how to keep them from this program alone.
    """

    tags: dict[str, Any]
    source: str
    remedy: str


def incar_updates() -> IncarUpdates:
    """The user's VASP_INCAR_UPDATES, as atomate2 has read them at import."""
    tags = {str(tag).strip().upper(): value for tag, value in SETTINGS.VASP_INCAR_UPDATES.items()}
    if any(name.upper() == UPDATES_VARIABLE for name in os.environ):
        return IncarUpdates(tags, f"the environment variable {UPDATES_VARIABLE}", "take them out of it")
    file = Path(SETTINGS.CONFIG_FILE).expanduser()
    remedy = f"take them out of it, or set {UPDATES_VARIABLE}='{{}}' for this command, which counts before the file"
    return IncarUpdates(tags, f"VASP_INCAR_UPDATES of {file}", remedy)


def check_incar_updates(incar: Mapping[str, Any], preset: str) -> tuple[str, ...]:
    """Refuse updates that would change what a preset computes.

    Args:
        incar: the preset's tags for the crystal in question; an update that says the same is no change.
        preset: its name.

    Returns: A note on the tags that are let through; empty if there are none.

    Raises: UserSettingsError: if a tag that may change a number would get another value.
    """
    updates = incar_updates()
    if not updates.tags:
        return ()
    before = physics_tags(Incar.from_str(Incar(dict(incar)).get_str()))
    # Through text and back, since a quoted '300' is a number in the INCAR that VASP reads.
    after = before | physics_tags(Incar.from_str(Incar(updates.tags).get_str()))
    if apart := changed(before, after):
        sets = ", ".join(f"{tag} = {shown(now)}" for tag, (_, now) in apart.items())
        has = ", ".join(f"{tag} = {shown(was)}" if was != "absent" else f"no {tag}" for tag, (was, _) in apart.items())
        raise UserSettingsError(
            f"{updates.source} sets {sets}, where preset {preset} has {has}: energies would be of other settings under "
            f"the preset's name; {updates.remedy} (tags that change no number may stay there, such as "
            f"{', '.join(list(PARALLEL_TAGS)[:3])})"
        )
    passed = {tag: value for tag, value in updates.tags.items() if tag in CHANGES_NO_NUMBER}
    if not passed:
        return ()
    listed = ", ".join(f"{tag} = {value}" for tag, value in sorted(passed.items()))
    return (f"INCAR has {listed} from {updates.source}; no number depends on that",)


_EXCHANGE_CORRELATION = {"PBE": "PE", "LDA": "CA", "PW91": "91"}
"""How POTCAR's LEXCH names the functional that a family's data were made with."""


def check_potcar_family(potcar: Potcar, family: str) -> None:
    """Refuse POTCARs that state another functional than their family's, as a wrong PMG_VASP_PSP_SUB_DIRS gives them.

    Raises: UserSettingsError: with the symbols.
    """
    expected = _EXCHANGE_CORRELATION.get(family.partition("_")[0])
    wrong = {one.symbol: one.LEXCH for one in potcar if str(one.LEXCH).upper() != expected}
    if expected is not None and wrong:
        listed = ", ".join(f"{symbol} ({stated})" for symbol, stated in wrong.items())
        raise UserSettingsError(
            f"the POTCARs of {listed} state another functional than family {family}, whose LEXCH is {expected}: look "
            "at PMG_VASP_PSP_DIR and PMG_VASP_PSP_SUB_DIRS in pymatgen's settings"
        )
