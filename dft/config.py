"""Settings of the dft room: potential, relaxation, hull, VASP inputs, job store. Torch-free."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from storage.settings import RoomConfig


class RelaxConfig(RoomConfig):
    """Pre-relaxation of cell and positions with a machine-learned potential (FIRE on torch-sim)."""

    potential: str = Field(
        "M3GNet-MP-2021.2.8-PES",
        description="a registered name, as of dft/potentials/registry.py or another package; or a folder, or any name "
        "under HULLWARD_ASSETS/models, in matgl's cache, or on matgl's hub; with '+D3' behind it, as CHGNet+D3, "
        "dispersion (DFT-D3, zero damping) is added, which layers need",
    )
    fallback: str | None = Field(
        "CHGNet", description="used, and said aloud, when the potential cannot be found; null makes that an error"
    )
    fmax_ev_per_ang: float = Field(0.05, gt=0, le=1, description="largest force (cell forces included), eV/A")
    max_steps: int = Field(
        300, ge=0, le=100_000, description="optimiser steps per crystal; 0: its energy as it is, with nothing relaxed"
    )
    pressure_gpa: float = Field(0.0, ge=-100, le=1000, description="external pressure, GPa")
    chunk_size: int = Field(32, ge=1, le=4096, description="crystals per chunk (one task, one file)")
    batch_atoms_max: int = Field(512, ge=1, description="most atoms relaxed at once; bounds memory")
    explode_force_ev_per_ang: float = Field(
        1000.0, gt=0, description="a crystal whose largest force exceeds this after the first steps has exploded, eV/A"
    )
    explode_volume_ratio: float = Field(
        5.0, gt=1, description="volume grown or shrunk by more than this factor counts as exploded"
    )
    symmetry: Literal["free", "kept"] = Field(
        "free",
        description="kept: a crystal relaxes in its space group, is then nudged and released, and relaxes freely; "
        "the lower end goes on",
    )
    vacuum: Literal["free", "held"] = Field(
        "free",
        description="held: the cell of a crystal with vacuum, more than 8 A without atoms, is strained within its "
        "plane alone; the height across it stays as it is, which for a slab has no equilibrium",
    )
    symprec_ang: float = Field(
        0.01, gt=0, le=0.5, description="where it is kept: how far an atom of the crystal as given may lie from it, A"
    )
    release_displacement_ang: float = Field(
        0.1, gt=0, le=0.5, description="how far atoms are moved at random before a crystal is released, A (rms)"
    )
    symmetric_fmax_ev_per_ang: float = Field(
        0.01,
        gt=0,
        le=1,
        description="where it is kept: the force to which a crystal relaxes in its group, and again when released, if "
        "that is below fmax_ev_per_ang, eV/A; beside a saddle point forces are small too",
    )
    release_tolerance_ev_per_atom: float = Field(
        0.002,
        ge=0,
        le=1,
        description="a released crystal that falls by more than this, eV/atom, was no minimum, and its end goes on",
    )

    @model_validator(mode="after")
    def _no_pressure_on_vacuum(self) -> Self:
        if self.vacuum == "held" and self.pressure_gpa:
            raise ValueError(
                f"pressure_gpa is {self.pressure_gpa:g} where vacuum is held: expected 0, for vacuum bears no pressure"
            )
        return self

    def criteria(self) -> dict[str, Any]:
        """What decides the outcome of a relaxation beside potential and crystals, for keys."""
        left_out = {"potential", "fallback", "chunk_size"}
        if self.symmetry == "free":  # and the rest of its settings decides nothing
            left_out |= {name for name in type(self).model_fields if name.startswith(("sym", "release_"))}
        if self.vacuum == "free":
            left_out.add("vacuum")
        return self.model_dump(mode="json", exclude=left_out)


class HullConfig(RoomConfig):
    """Competing phases and the convex hull."""

    references_max: int = Field(
        400,
        ge=1,
        description="most competing phases relaxed for one chemical system: all on the hull of their stated energies, "
        "even if these are more, then the nearest to it; what is left out is counted",
    )
    prototypes_within_ev_per_atom: float | None = Field(
        0.0,
        ge=0,
        le=1,
        description="decorated prototypes that no database holds become candidates themselves if they lie at most this "
        "far above the hull, eV/atom; null: none do",
    )
    stable_ev_per_atom: float = Field(
        0.1, ge=0, le=1, description="energy above hull below which a candidate counts as (meta)stable, eV/atom"
    )


class JudgeConfig(RoomConfig):
    """A second opinion on the best candidates, by a potential better and slower than that of `relax`.

    Bounds are in crystals and steps, so that results do not depend on the machine.
    """

    potential: str | None = Field(
        "SevenNet-l3i5", description="a potential, named as in relax.potential; null: no second opinion"
    )
    committee: tuple[str, ...] = Field(
        (), max_length=8, description="further potentials, whose spread about the judge is a column"
    )
    n_best: int = Field(25, ge=1, le=10_000, description="so many candidates are judged, best first")
    steps_max: int = Field(
        10,
        ge=0,
        le=100_000,
        description="optimiser steps by the judge, from the crystals that relax left; 0: their energies as they are. "
        "All other settings of relax hold here too",
    )
    phases_within_ev_per_atom: float = Field(
        0.1,
        ge=0,
        le=1,
        description="competing phases of a candidate's elements at most this far above the hull by relax.potential are "
        "judged too, eV/atom; elements, and what it would decompose into, always",
    )
    crystals_max: int = Field(
        150,
        ge=1,
        description="most crystals judged: candidates, elements and what they would decompose into, even if these are "
        "more, then the phases nearest to the hull; what is left out is counted",
    )
    chunk_size: int = Field(8, ge=1, le=4096, description="crystals per chunk (one task, one file)")

    @model_validator(mode="after")
    def _committee_has_a_judge(self) -> Self:
        if self.committee and self.potential is None:
            raise ValueError(
                f"committee names {', '.join(self.committee)}, but potential is null: name the judge there too"
            )
        return self

    def relaxation(self, relax: RelaxConfig, potential: str) -> RelaxConfig:
        """How one of these potentials relaxes what `relax` has relaxed."""
        changed = {"potential": potential, "fallback": None, "max_steps": self.steps_max, "chunk_size": self.chunk_size}
        return relax.model_copy(update=changed)


class DisplacementConfig(RoomConfig):
    """How phonons are computed: relaxation before them, displacements, supercell, mesh, threshold."""

    relax_fmax_ev_per_ang: float = Field(
        0.005, gt=0, le=0.1, description="the crystal is relaxed first, with the potential itself, to this force, eV/A"
    )
    relax_max_steps: int = Field(1000, ge=1, le=100_000, description="optimiser steps of that relaxation")
    displacement_ang: float = Field(0.02, gt=0, le=0.2, description="how far one atom is moved at a time, A")
    supercell_height_ang: float = Field(
        10.0,
        gt=0,
        le=40,
        description="least distance between opposite faces of the supercell, A: twice the reach of "
        "the force constants it resolves",
    )
    supercell_atoms_max: int = Field(1000, ge=1, description="a crystal that needs a larger supercell is refused")
    mesh_length_ang: float = Field(
        40.0, gt=0, le=200, description="the mesh of q-points has this many divisions per unit of |b*| (A^-1, no 2 pi)"
    )
    imaginary_thz: float = Field(
        0.1,
        gt=0,
        le=2,
        description="a mode counts as imaginary when its frequency lies further than this below zero, "
        "THz; interpolation between the supercell's own q-points is not better",
    )
    symprec_ang: float = Field(0.01, gt=0, le=0.5, description="tolerance within which symmetry is found, A")


class PhononConfig(DisplacementConfig):
    """Phonons of a crystal by finite displacements, with a potential."""

    pressure_gpa: float = Field(0.0, ge=-100, le=1000, description="external pressure of the relaxation, GPa")


class BestPhononsConfig(DisplacementConfig):
    """Phonons of the best crystals, at the pressure of `relax`."""

    n_best: int = Field(0, ge=0, le=1000, description="of so many crystals, best first; 0: of none")
    potential: Literal["relax", "judge"] = Field(
        "relax", description="whose: those of relax.potential, or of judge.potential"
    )

    def displacements(self) -> dict[str, Any]:
        """How the phonons of one candidate are computed, whichever candidate and potential it is."""
        return self.model_dump(mode="json", exclude={"n_best", "potential"})

    def at(self, pressure_gpa: float) -> PhononConfig:
        """The settings of one candidate's phonons."""
        return PhononConfig(pressure_gpa=pressure_gpa, **self.displacements())


class Preset(StrEnum):
    """VASP relaxation settings, each with its source."""

    MP_RELAX = "mp-relax"
    CONDITIONAL_GENERATION = "conditional-generation"
    DP_CDVAE = "dp-cdvae"
    DP_CDVAE_10GPA = "dp-cdvae-10gpa"
    VDW = "vdw"


class InputsConfig(RoomConfig):
    """VASP inputs of the best candidates."""

    preset: Preset = Field(Preset.CONDITIONAL_GENERATION, description="VASP settings; docs/dft.md lists each one")
    top_n: int = Field(5, ge=0, le=10_000, description="write inputs for this many best-ranked candidates")
    potcar_functional: str = Field("PBE_54", description="pseudopotential family; mp-relax always takes PBE, its own")


class StoreConfig(RoomConfig):
    """Where job documents go."""

    kind: str = Field("sqlite", pattern="^(sqlite|mongodb)$", description="embedded SQLite, or MongoDB")
    path: str = Field("jobs.sqlite", description="SQLite file, relative to the run folder")
    mongodb_uri_variable: str = Field(
        "HULLWARD_MONGODB_URI", description="environment variable that holds the MongoDB address (never the address)"
    )
    database: str = Field("hullward", description="MongoDB database")
    collection: str = Field("jobs", description="collection or table of job documents")

    @model_validator(mode="after")
    def _no_address(self) -> Self:
        if "://" in self.mongodb_uri_variable:
            raise ValueError(
                "mongodb_uri_variable holds an address: give the NAME of an environment variable instead, so that no "
                "password reaches a config file or the run's manifest"
            )
        return self
