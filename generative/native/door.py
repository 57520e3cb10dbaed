"""Whether crystals are compared in native code: numba is installed, and nobody refuses it."""

from __future__ import annotations

import os
from functools import lru_cache

from storage.native_code import is_installed

SWITCH = "HULLWARD_MATCHING"
"""Environment variable; the value 'pymatgen' makes every comparison of crystals pymatgen's own. Bonds and fingerprints
do not read it."""


@lru_cache(maxsize=1)
def is_available() -> bool:
    """Whether native matching can be used."""
    return os.environ.get(SWITCH, "") != "pymatgen" and is_installed()
