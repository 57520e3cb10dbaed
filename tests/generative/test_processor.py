"""What a process asks of its processor."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import platform
import torch
from generative.processor import keep_freed_memory, prepare_processor
small = torch.tensor([1e-30])
before = float(small * 1e-10)
prepare_processor()
by_glibc = platform.libc_ver()[0] == "glibc"
print(before > 0, float(small * 1e-10) == 0.0, keep_freed_memory() == by_glibc, float(small * 1e-5) > 0)
"""


def test_numbers_out_of_range_are_zero_and_all_others_stay() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4
