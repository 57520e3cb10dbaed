"""What a process asks of its processor."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import torch
from generative.processor import keep_freed_memory, prepare_processor
small = torch.tensor([1e-30])
before = float(small * 1e-10)
prepare_processor()
print(before > 0, float(small * 1e-10) == 0.0, keep_freed_memory() or True, float(torch.tensor([1e-30]) * 1e-5) > 0)
"""


def test_numbers_out_of_range_are_zero_and_all_others_stay() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4
