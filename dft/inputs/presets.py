"""VASP relaxation settings, one per published protocol, as atomate2 makers.

What a paper states is taken to the letter; what it leaves open is chosen here, the same for all of them, and listed in
docs/dft.md. Energies of different presets share no hull.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

from atomate2.vasp.jobs.base import BaseVaspMaker
from atomate2.vasp.jobs.core import RelaxMaker
from atomate2.vasp.jobs.mp import MPGGARelaxMaker
from atomate2.vasp.sets.core import RelaxSetGenerator
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints
from pymatgen.io.vasp.sets import MPRelaxSet

from dft.config import InputsConfig, Preset
from dft.inputs.incar_tags import changed, physics_tags
from dft.inputs.slabs import MESH_DENSITY_ANG3, SlabSettings

KBAR_PER_GPA = 10.0

MP_POTCAR_FUNCTIONAL = "PBE"
"""The family behind the Materials Project's GGA energies; another one would take candidates off its hull."""

_HUBBARD_TAGS = ("LDAU", "LDAUTYPE", "LDAUU", "LDAUJ", "LDAUL", "LDAUPRINT")

_CHOSEN_HERE: dict[str, Any] = {
    "GGA": "PE",  # atomate2's own relaxation is PBEsol
    # The papers name PBE and no Hubbard U, which atomate2 adds to oxides and fluorides of transition metals.
    **dict.fromkeys(_HUBBARD_TAGS),
    # Gaussian smearing, narrow: right for insulators and safe for metals, when a new crystal may be either.
    "ISMEAR": 0,
    "SIGMA": 0.05,
    "LREAL": False,
    # Written out, though they are atomate2's own: another version of it may have others.
    "ALGO": "Fast",
    "ISPIN": 2,
    "LASPH": True,
    "NELM": 200,
    "PREC": "Accurate",
    "LWAVE": False,
    # Files of many megabytes that a relaxation has no use for.
    **dict.fromkeys(("LAECHG", "LVTOT", "LELF", "LMIXTAU", "LORBIT")),
}
"""INCAR tags of the paper presets that their papers leave open; None removes a tag that atomate2 would write."""

_MP_DENSITY = {"reciprocal_density": MESH_DENSITY_ANG3}

_MP_EDITION: dict[str, Any] = {
    "ALGO": "Fast",
    "ENCUT": 520,
    "IBRION": 2,
    "ISIF": 3,
    "ISPIN": 2,
    "LASPH": True,
    "LREAL": "Auto",
    "NELM": 100,
    "NSW": 99,
    "PREC": "Accurate",
    "SIGMA": 0.05,
}
"""What pymatgen's MPRelaxSet says for every crystal, as of edition 1 of the presets."""


@dataclass(frozen=True)
class Protocol:
    """What one paper states of its relaxations.

    Attributes:
        incar: the tags it fixes.
        kpoints: its mesh; where the paper names none, the Materials Project's density, 64 per A^-3 of reciprocal cell.
        vdw: dispersion correction by pymatgen's name, or None.
        source: where the settings are stated.
    """

    incar: dict[str, Any]
    kpoints: Kpoints | dict[str, int]
    vdw: str | None
    source: str


def protocol(preset: Preset) -> Protocol | None:
    """The paper's settings behind a preset; None for mp-relax, which is atomate2's own."""
    dp_cdvae = {"ENCUT": 800, "EDIFF": 1e-5, "EDIFFG": -1e-5}
    dp_cdvae_source = "Pakornchote et al., Sci. Rep. 2024, DFT calculations"
    if preset is Preset.MP_RELAX:
        return None
    if preset is Preset.CONDITIONAL_GENERATION:
        tags = {"ENCUT": 500, "EDIFF": 1e-5, "EDIFFG": -1e-2}
        return Protocol(tags, _MP_DENSITY, None, "Novitskiy et al., Unleashing the power of novel conditional ..., 7.1")
    if preset is Preset.DP_CDVAE:
        return Protocol(dp_cdvae, Kpoints.monkhorst_automatic((5, 5, 5)), None, dp_cdvae_source)
    if preset is Preset.DP_CDVAE_10GPA:
        tags = {**dp_cdvae, "PSTRESS": 10 * KBAR_PER_GPA}
        return Protocol(tags, Kpoints.monkhorst_automatic((5, 5, 5)), None, dp_cdvae_source)
    if preset is Preset.VDW:
        tags = {"ENCUT": 550, "EDIFF": 1e-6, "EDIFFG": -0.05, "IVDW": 11}  # as pymatgen's "dftd3" has it
        return Protocol(tags, _MP_DENSITY, "dftd3", "Gao et al., Deep generative model for ... heterostructures")
    raise ValueError(f"preset {preset!r} is unknown: expected one of {', '.join(Preset)}")


_STATIC: dict[str, Any] = {"NSW": 0, "IBRION": -1}
"""Energy, forces and stress of the crystal as it is; all else as in the preset's relaxation."""

_IONIC = frozenset({"NSW", "IBRION", "ISIF", "EDIFFG", "POTIM"})


def maker(
    preset: Preset, config: InputsConfig, *, is_static: bool = False, slab: SlabSettings | None = None
) -> BaseVaspMaker:
    """An atomate2 maker of one relaxation (cell and positions).

    Each call gives a copy of its own, since atomate2's input generators remember the last structure they were given.

    Args:
        preset: which settings.
        config: its `potcar_functional` holds for all presets but mp-relax.
        is_static: nothing moves.
        slab: what a crystal with vacuum has of its own; see dft.inputs.slabs.

    Returns: A maker whose relaxation, when it ends unconverged, is kept and flagged rather than raised as an error. It
        takes no tag from the settings of atomate2 on the machine where it runs (dft/inputs/user_settings.py).
    """
    made: Any = copy.deepcopy(_built(preset, config.potcar_functional))
    if is_static or slab is not None:
        own = {**(_STATIC if is_static else {}), **(slab.incar if slab is not None else {})}
        made.input_set_generator.user_incar_settings = {**made.input_set_generator.user_incar_settings, **own}
        if slab is not None and slab.mesh is not None:
            made.input_set_generator.user_kpoints_settings = slab.mesh
    built: BaseVaspMaker = made
    return built


@functools.cache  # atomate2 and pymatgen read their settings from YAML for every generator: tens of milliseconds
def _built(preset: Preset, potcar_family: str) -> BaseVaspMaker:
    stated = protocol(preset)
    common: dict[str, Any] = {
        "name": preset.value,
        "stop_children_kwargs": {"handle_unsuccessful": False},
        "write_input_set_kwargs": {"apply_incar_updates": False},
    }
    if stated is None:
        # As atomate2's MPGGARelaxMaker has it; the order is made before, since pymatgen's may split noble gases up.
        generator: Any = MPRelaxSet(
            force_gamma=True, auto_metal_kpoints=True, inherit_incar=False, sort_structure=False
        )
        return MPGGARelaxMaker(input_set_generator=generator, **common)
    kpoints: Any = stated.kpoints  # atomate2 takes both kinds but declares one
    functional: Any = potcar_family
    return RelaxMaker(
        input_set_generator=RelaxSetGenerator(
            user_incar_settings={**_CHOSEN_HERE, **stated.incar},
            user_kpoints_settings=kpoints,
            vdw=stated.vdw,
            user_potcar_functional=functional,
            # atomate2's defaults of these come from the user's settings.
            sym_prec=0.1,
            bandgap_tol=1e-4,
            inherit_incar=False,
        ),
        **common,
    )


def incar_of(
    structure: Structure,
    preset: Preset,
    config: InputsConfig,
    *,
    is_static: bool = False,
    slab: SlabSettings | None = None,
) -> Incar:
    """The INCAR of a preset for one crystal, without any tag from outside."""
    generator = maker(preset, config, is_static=is_static, slab=slab).input_set_generator
    written = generator.get_input_set(structure, potcar_spec=True).incar
    return Incar.from_str(Incar(written).get_str())  # as it is read back


def edition_tags(preset: Preset) -> dict[str, Any]:
    """The physics tags that a preset's edition states for every crystal, in one form; see dft.inputs.incar_tags."""
    stated = protocol(preset)
    tags = _MP_EDITION if stated is None else {**_CHOSEN_HERE, **stated.incar}
    return physics_tags({tag: value for tag, value in tags.items() if value is not None})


def departures(
    preset: Preset, written: dict[str, Any], expected: dict[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Physics tags of an INCAR that are not the preset's, with what was expected and what is there.

    Args:
        preset: whose INCAR it should be.
        written: physics tags of the INCAR as written.
        expected: physics tags of `incar_of` the crystal. Without them only what the edition states for every crystal is
            compared, and not what is to move.
    """
    edition = {tag: value for tag, value in edition_tags(preset).items() if tag not in _IONIC}
    if preset is Preset.MP_RELAX and written.get("ISMEAR") in (-5, 0):
        edition["ISMEAR"] = written["ISMEAR"]  # 0 where the mesh is too coarse for tetrahedra, by pymatgen's rule
    if expected is not None:
        return changed({**expected, **edition}, written)
    return changed(edition, {tag: value for tag, value in written.items() if tag in edition})


def potcar_functional(preset: Preset, config: InputsConfig) -> str:
    """The pseudopotential family that `maker` uses."""
    return MP_POTCAR_FUNCTIONAL if preset is Preset.MP_RELAX else config.potcar_functional
