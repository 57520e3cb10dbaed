"""Systems are loaded when they are named: whoever reads checkpoints pays for the one that a checkpoint holds."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("more", "systems"),
    [
        ("", set()),
        ("generative.checkpoints.generator_type('package:hullward-flow')", {"crystal_flow", "trainable"}),
    ],
)
def test_checkpoints_load_no_system_but_the_one_that_is_named(more: str, systems: set[str]) -> None:
    code = f"import sys, generative.checkpoints\n{more}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    found = {name.split(".")[2] for name in loaded if name.startswith("generative.systems.")}
    assert found - {"interface", "registry"} == systems
    heavy = ("lightning", "matminer", "numba", "scipy.optimize", "smact", "spglib", "pymatgen.analysis")
    assert not [name for name in loaded if name.startswith(heavy)]
    if not more:
        assert not [name for name in loaded if name.startswith(("generative.networks", "generative.processes"))]
