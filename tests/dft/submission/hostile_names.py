"""Names of folders that mean something to a shell, to a queue's head, or to a pattern."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

MARK = "it-ran"
"""File that whatever runs a part of a name leaves in its working directory, or where MARK_VARIABLE says."""
MARK_VARIABLE = "HULLWARD_TEST_MARK"
RUN = f"touch {MARK} ${{{MARK_VARIABLE}}}"

PARTS = (
    *(f"$({RUN})", f"`{RUN}`", f";{RUN};", f"&{RUN}&", f"|{RUN}|", f"\n{RUN}\n", f"'\n{RUN}\n'", f'"\n{RUN}\n"'),
    *(f"' ;{RUN}; '", f'" ;{RUN}; "', f"\\'$({RUN})", f"$'\\n{RUN}\\n'", f"${{x:=$({RUN})}}", f"<({RUN})", f"&&{RUN}"),
    *(" ", "  ", "\t", "\r", "\n", "'", '"', "\\", "\\n", "$", "$$", "$HOME", "${PATH}", "~", "!", "!!", "#", "*", "?"),
    *("[a-z]", "{a,b}", "(", ")", "<", ">", "%j", "%", "{python}", "{folder}", "-rf", "--", "=", ",", "@", "^"),
    *(
        "\n#SBATCH --job-name=other\n",
        "\n#PBS -N other\n",
        "\n#$ -N other\n",
        " JobState=COMPLETED ",
        "<><>",
        "é",
        "子",
    ),
    *("\udcff", "\x01", "\x7f", "\x1b[31m", "\u2028"),
)


def hostile_name(rng: np.random.Generator) -> str:
    """A folder's name of one to four parts, some with letters between them; of any bytes that a name may hold."""
    parts = [str(PARTS[int(i)]) for i in rng.integers(len(PARTS), size=int(rng.integers(1, 5)))]
    name = "".join(part + ("a" if rng.random() < 0.5 else "") for part in parts).replace("/", "_")
    while len(os.fsencode(name)) > 200:
        name = name[:-1]
    return name if name.strip(".") else f"{name}a"


def marks(place: Path) -> list[Path]:
    """Files that something in a name has left below a folder, or in this process's own."""
    return [Path(folder) / MARK for folder, _, files in os.walk(place) if MARK in files] + [
        file for file in [Path(MARK)] if file.exists()
    ]
