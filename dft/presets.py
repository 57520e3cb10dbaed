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
from pymatgen.io.vasp.inputs import Kpoints

from dft.config import InputsConfig, Preset

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
    "LWAVE": False,
    # Files of many megabytes that a relaxation has no use for.
    **dict.fromkeys(("LAECHG", "LVTOT", "LELF", "LMIXTAU", "LORBIT")),
}
"""INCAR tags of the paper presets that their papers leave open; None removes a tag that atomate2 would write."""

_MP_DENSITY = {"reciprocal_density": 64}


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
        tags = {"ENCUT": 550, "EDIFF": 1e-6, "EDIFFG": -0.05}
        return Protocol(tags, _MP_DENSITY, "dftd3", "Gao et al., Deep generative model for ... heterostructures")
    raise ValueError(f"preset {preset!r} is unknown: expected one of {', '.join(Preset)}")


_STATIC: dict[str, Any] = {"NSW": 0, "IBRION": -1}
"""Energy, forces and stress of the crystal as it is; all else as in the preset's relaxation."""


def maker(preset: Preset, config: InputsConfig, *, is_static: bool = False) -> BaseVaspMaker:
    """An atomate2 maker of one relaxation (cell and positions).

    Each call gives a copy of its own, since atomate2's input generators remember the last structure they were given.

    Args:
        preset: which settings.
        config: its `potcar_functional` holds for all presets but mp-relax.
        is_static: nothing moves.

    Returns: A maker whose relaxation, when it ends unconverged, is kept and flagged rather than raised as an error.
    """
    made: Any = copy.deepcopy(_built(preset, config.potcar_functional))
    if is_static:
        tags = made.input_set_generator.user_incar_settings
        made.input_set_generator.user_incar_settings = {**tags, **_STATIC}
    built: BaseVaspMaker = made
    return built


@functools.cache  # atomate2 and pymatgen read their settings from YAML for every generator: tens of milliseconds
def _built(preset: Preset, potcar_family: str) -> BaseVaspMaker:
    stated = protocol(preset)
    keep_unconverged = {"handle_unsuccessful": False}
    if stated is None:
        return MPGGARelaxMaker(name=preset.value, stop_children_kwargs=keep_unconverged)
    kpoints: Any = stated.kpoints  # atomate2 takes both kinds but declares one
    functional: Any = potcar_family
    return RelaxMaker(
        name=preset.value,
        input_set_generator=RelaxSetGenerator(
            user_incar_settings={**_CHOSEN_HERE, **stated.incar},
            user_kpoints_settings=kpoints,
            vdw=stated.vdw,
            user_potcar_functional=functional,
        ),
        stop_children_kwargs=keep_unconverged,
    )


def potcar_functional(preset: Preset, config: InputsConfig) -> str:
    """The pseudopotential family that `maker` uses."""
    return MP_POTCAR_FUNCTIONAL if preset is Preset.MP_RELAX else config.potcar_functional
