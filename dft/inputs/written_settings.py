"""The settings of a calculation as its files hold them: INCAR, KPOINTS and POTCAR in one form, and their digest.

Left out is what changes no number: tags that share out the work or write further files (dft/inputs/incar_tags.py),
comments, titles of KPOINTS, order and layout of the lines. A change of anything else changes the digest.
"""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

from pymatgen.io.vasp.inputs import Incar, Kpoints, Potcar

from dft.inputs.incar_tags import canonical, physics_tags
from storage.digests import json_digest, text_digest


def written_settings(folder: Path) -> dict[str, Any]:
    """What INCAR, KPOINTS and POTCAR (or POTCAR.spec with POTCAR.functional) of a folder settle, as plain JSON.

    Of a run that custodian has corrected, the files it began with.
    """
    return {
        "incar": written_incar(folder),
        "kpoints": _kpoints(first_text(folder, "KPOINTS")),
        "potcar": _potcar(folder),
    }


def written_digest(folder: Path) -> str:
    """SHA-256 of a folder's written settings. It is one crystal's: MAGMOM, mesh and species are among them."""
    return json_digest(written_settings(folder))


def written_incar(folder: Path) -> dict[str, Any]:
    """The physics tags of a folder's INCAR; see dft.inputs.incar_tags."""
    return physics_tags(Incar.from_str(first_text(folder, "INCAR") or ""))


def first_text(folder: Path, name: str) -> str | None:
    """A file's text as it was before custodian changed it, gzipped or not; None without the file."""
    for one in (f"{name}.orig", name):
        if (text := text_of(folder, one)) is not None:
            return text
    return None


def text_of(folder: Path, name: str) -> str | None:
    """A file's text, gzipped or not; None without the file."""
    if (folder / name).is_file():
        return (folder / name).read_text(encoding="utf-8")
    if (folder / f"{name}.gz").is_file():
        return gzip.decompress((folder / f"{name}.gz").read_bytes()).decode("utf-8")
    return None


def _kpoints(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    stated = Kpoints.from_str(text).as_dict()
    return {name: canonical(value) for name, value in stated.items() if name != "comment" and not name.startswith("@")}


def _potcar(folder: Path) -> Any:
    if (text := text_of(folder, "POTCAR")) is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that pymatgen does not know the data, which the notes have said
            singles = list(Potcar.from_str(text))
        return [{"symbol": one.symbol, "titel": one.TITEL, "sha256": text_digest(one.data)} for one in singles]
    spec, family = text_of(folder, "POTCAR.spec"), text_of(folder, "POTCAR.functional")
    return {"symbols": (spec or "").split(), "family": (family or "").strip()}
