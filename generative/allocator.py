"""Freed memory stays with the process, so that the tensors of the next step find their pages mapped."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's names for them, malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory(pad_bytes: int = 1 << 28) -> bool:
    """Ask the C library not to hand freed memory back to the system; whether it agreed.

    Without it glibc maps every tensor beyond some size anew, and the kernel clears its pages: a tenth of a training
    step on a processor. Only glibc knows the setting; elsewhere nothing changes. It holds until the process ends.

    Args: pad_bytes: by which the heap grows at a time.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    asked = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, pad_bytes))
    return all(mallopt(name, value) == 1 for name, value in asked)
