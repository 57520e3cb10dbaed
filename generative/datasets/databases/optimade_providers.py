"""OPTIMADE providers known by name: their address, the level of theory of their energies, and their own fields.

The OPTIMADE standard has no field for an energy; every provider has its own, under names that begin with '_' and its
prefix. This table says which of them become columns. It was put together from what public software asks these servers
for, and has not been held against the servers themselves; `notes` says where a meaning is not certain.
`config.fields` corrects it from a settings file, and whatever is not mapped stays in the column `extra` under the
provider's own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from generative.datasets.config import OptimadeSource
from generative.datasets.levels import MP2020
from generative.datasets.sources import SourceError

COLUMNS = (
    "energy_ev_per_atom",
    "formation_energy_ev_per_atom",
    "e_above_hull_ev_per_atom",
    "band_gap_ev",
    "spacegroup",
)
"""Columns of the table that a provider's field may fill."""

THEORETICAL = "theoretical"
"""Stands among the columns for the field that says whether a structure has only been computed (true) or reported."""


@dataclass(frozen=True)
class Provider:
    """One OPTIMADE provider.

    Attributes:
        base_url: the address before '/v1'.
        method: level of theory of its energies.
        fields: column -> the provider's field; dots lead into a nested one, '_mp_stability.gga_gga+u.energy'.
        per_cell: fields whose value is of the whole cell and is divided by the number of sites.
        sorts_by_id: whether it takes sort=id; None goes by what its /info/structures says.
        notes: what of this is not certain.
    """

    base_url: str
    method: str = "unknown"
    fields: Mapping[str, str] = field(default_factory=dict)
    per_cell: frozenset[str] = frozenset()
    sorts_by_id: bool | None = None
    notes: str = ""


_ALEXANDRIA_FIELDS = {
    "energy_ev_per_atom": "_alexandria_energy_corrected",
    "formation_energy_ev_per_atom": "_alexandria_formation_energy_per_atom",
    "e_above_hull_ev_per_atom": "_alexandria_hull_distance",
    "band_gap_ev": "_alexandria_band_gap",
    "spacegroup": "_alexandria_space_group",
}

_ALEXANDRIA_NOTES = (
    "_alexandria_energy_corrected is taken for the corrected total energy of the cell in eV; _alexandria_hull_distance "
    "for eV/atom above the hull of Alexandria's own phases, negative where a phase was not part of that hull"
)

PROVIDERS: Mapping[str, Provider] = {
    "alexandria": Provider(
        base_url="https://alexandria.icams.rub.de/pbe",
        method="PBE/PBE+U (Alexandria)",
        fields=_ALEXANDRIA_FIELDS,
        per_cell=frozenset({"_alexandria_energy_corrected"}),
        notes=_ALEXANDRIA_NOTES,
    ),
    "alexandria-pbesol": Provider(
        base_url="https://alexandria.icams.rub.de/pbesol",
        method="PBEsol (Alexandria)",
        fields=_ALEXANDRIA_FIELDS,
        per_cell=frozenset({"_alexandria_energy_corrected"}),
        notes=_ALEXANDRIA_NOTES,
    ),
    "mp": Provider(
        base_url="https://optimade.materialsproject.org",
        method=MP2020,
        fields={
            "formation_energy_ev_per_atom": "_mp_stability.gga_gga+u.formation_energy_per_atom",
            "e_above_hull_ev_per_atom": "_mp_stability.gga_gga+u.energy_above_hull",
        },
        notes="of the schemes in _mp_stability only gga_gga+u is read, so that energies of one row share a hull with "
        "those of another; a material without it has no energies, and the other schemes stay in `extra`",
    ),
    "oqmd": Provider(
        base_url="https://oqmd.org/optimade",
        method="PBE/PBE+U (OQMD)",
        fields={
            "formation_energy_ev_per_atom": "_oqmd_delta_e",
            "e_above_hull_ev_per_atom": "_oqmd_stability",
            "band_gap_ev": "_oqmd_band_gap",
        },
        notes="_oqmd_stability is the distance from the hull of all other phases: negative for a stable phase, by as "
        "much as the hull would rise without it; it is kept as stated, so that nothing of it is lost and a limit on "
        "the energy above hull selects the same phases. _oqmd_spacegroup is a Hermann-Mauguin symbol of unstated "
        "setting: the column `spacegroup` is left to spglib, the symbol stays in `extra`",
    ),
    "aflow": Provider(
        base_url="https://aflow.org/API/optimade",
        method="PBE/PBE+U (AFLOW)",
        fields={
            "energy_ev_per_atom": "_aflow_enthalpy_atom",
            "formation_energy_ev_per_atom": "_aflow_enthalpy_formation_atom",
            "band_gap_ev": "_aflow_egap",
            "spacegroup": "_aflow_spacegroup_relax",
        },
        notes="the names are AFLOW's own keywords with the prefix, which of them its OPTIMADE server has is not known; "
        "at zero pressure the enthalpy is the energy. The catalogs hold several functionals: the label is that of most",
    ),
    "jarvis": Provider(
        base_url="https://jarvis.nist.gov/optimade/jarvisdft",
        method="OptB88vdW (JARVIS)",
        fields={
            "formation_energy_ev_per_atom": "_jarvis_formation_energy_peratom",
            "e_above_hull_ev_per_atom": "_jarvis_ehull",
            "band_gap_ev": "_jarvis_optb88vdw_bandgap",
        },
        notes="the unit of _jarvis_ehull is taken for eV/atom",
    ),
}
"""Providers by the name that `OptimadeSource.provider` takes."""


def provider_of(config: OptimadeSource) -> Provider:
    """The provider a source asks, with the source's own address, label and fields over the known ones.

    Raises:
        SourceError: if `fields` names no column of the table.
    """
    known = PROVIDERS.get(config.provider)
    for column in config.fields:
        if column not in (*COLUMNS, THEORETICAL):
            raise SourceError(
                f"fields has the column {column!r}: expected one of {', '.join((*COLUMNS, THEORETICAL))}; fields of "
                "other names are kept in `extra` without being named"
            )
    provider = known or Provider(base_url="")
    return replace(
        provider,
        # The client adds '/v1' itself; many people copy an address that has it already.
        base_url=(config.endpoint or provider.base_url).rstrip("/").removesuffix("/v1"),
        method=config.method or provider.method,
        fields={**provider.fields, **config.fields},
    )
