"""Numbers in sentences."""

from __future__ import annotations


def amount(n: int, one: str, many: str | None = None) -> str:
    """'1 job', '12 jobs': a number with what is counted.

    Args:
        n: how many.
        one: the singular, with what is said of it: 'job', 'record was left out'.
        many: the plural, such as 'records were left out'; None adds an s.
    """
    return f"{n} {one}" if n == 1 else f"{n} {many if many is not None else f'{one}s'}"
