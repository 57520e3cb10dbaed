"""What is to be said of the k-points behind a hull: meshes that no one density gives, meshes too sparse for metals.

Energies of metals converge slowly with the mesh. A mesh that is fixed (5x5x5 of the preset dp-cdvae) is dense in a
large cell and sparse in a small one, so phases of one hull are off by unlike amounts though their settings are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dft.inputs.kpoints import ADEQUATE_METAL_DENSITY_ANG3, KPointSampling, density_bounds
from dft.records import DFTRecord

METAL_GAP_EV = 0.05
"""A gap below this, about two kT at room temperature, counts as none."""


@dataclass(frozen=True)
class KPointNotes:
    """Sentences on the k-points of records.

    Attributes:
        of_record: by id of the record; only those of which there is something to say.
        of_hull: on all of them together; empty where all is well.
    """

    of_record: dict[str, str]
    of_hull: tuple[str, ...]


def kpoint_notes(records: Mapping[str, DFTRecord]) -> KPointNotes:
    """What the reader of a hull should know of its k-points.

    Records are sampled unlike where no one density gives all of their meshes (dft.inputs.kpoints.density_bounds). Those
    that are too sparse for the densest mesh among them are named. A metal is too sparsely sampled where its mesh is one
    of a density below ADEQUATE_METAL_DENSITY_ANG3. Records without k-points say nothing.

    Args:
        records: by id, those that share a hull.
    """
    sampled = {name: record for name, record in sorted(records.items()) if record.kpoints is not None}
    bounds = {name: _bounds(record) for name, record in sampled.items()}
    said: dict[str, list[str]] = {name: [] for name in sampled}
    of_hull = []
    densest = max(bounds, key=lambda name: bounds[name][0], default="")
    if unlike := [name for name in sampled if bounds[name][1] < bounds[densest][0]]:
        sparsest = min(unlike, key=lambda name: bounds[name][1])
        for name in unlike:
            said[name].append(
                f"k-points ({_text(sampled[name])}) sparser than those of {_named(sampled[densest])} "
                f"({_text(sampled[densest])})"
            )
        of_hull.append(
            f"k-points of unlike density share this hull, from {_text(sampled[sparsest])} "
            f"({_named(sampled[sparsest])}) to {_text(sampled[densest])} ({_named(sampled[densest])}), points per "
            f"A^-3 of the reciprocal cell: {len(unlike)} of {len(sampled)} records are sparser than the densest "
            "asks for, so their energies are off by another amount; compute all with a mesh of one density"
        )
    for name in sampled:
        if is_metal(sampled[name]) and bounds[name][1] < ADEQUATE_METAL_DENSITY_ANG3:
            said[name].append(
                f"k-points ({_text(sampled[name])}) sparse for a metal: expected at least "
                f"{ADEQUATE_METAL_DENSITY_ANG3:.0f} A^3"
            )
    if sparse := [name for name in sampled if any("for a metal" in one for one in said[name])]:
        of_hull.append(
            f"metals with fewer k-points than {ADEQUATE_METAL_DENSITY_ANG3:.0f} per A^-3 of the reciprocal cell: "
            f"{len(sparse)}, such as {_named(sampled[sparse[0]])} ({_text(sampled[sparse[0]])}); their energies are "
            "not converged: compute them with a denser mesh"
        )
    return KPointNotes({name: "; ".join(notes) for name, notes in said.items() if notes}, tuple(of_hull))


def is_metal(record: DFTRecord) -> bool:
    """Whether a record's crystal has no gap, as its engine says; else, whether it holds metals alone."""
    gap_ev = record.resolved.get("bandgap_ev")
    if gap_ev is not None:
        return float(gap_ev) < METAL_GAP_EV
    return all(element.is_metal for element in record.structure.composition.element_composition)


def _bounds(record: DFTRecord) -> tuple[float, float]:
    assert record.kpoints is not None
    return density_bounds(record.kpoints, (record.initial_structure.lattice, record.structure.lattice))


def _text(record: DFTRecord) -> str:
    sampling: KPointSampling | None = record.kpoints
    return "" if sampling is None else sampling.text


def _named(record: DFTRecord) -> str:
    return f"{record.structure.composition.reduced_formula} {record.candidate_id}"
