"""Levels of theory of a table's rows: energies of two levels share neither a hull nor an order."""

from __future__ import annotations


def level_of(method: str | None, run_type: str | None) -> str:
    """Name of the level at which a row's energies were made: its method, and the calculation behind them if stated."""
    return " / ".join(part for part in (method, run_type) if part) or "unknown"
