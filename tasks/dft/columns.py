"""Headings of the job table, the same on the terminal and in Prefect; imports nothing."""

from __future__ import annotations

JOB_HEADINGS = {
    "formula": "formula",
    "purpose": "purpose",
    "state": "state",
    "attempts": "attempts",
    "energy_ev_per_atom": "energy eV/atom",
    "e_above_hull_ev_per_atom": "above hull eV/atom",
    "delta_e_ev_per_atom": "dE eV/atom",
    "delta_v_ang3_per_atom": "dV A^3/atom",
    "reason": "reason",
}
"""Heading, with its unit, by the key of dft.campaign.collection.rows_of, in order; each place puts its own name of a
job before them."""
