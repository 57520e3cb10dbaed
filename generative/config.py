"""Settings of the generative room: conditions, sampling, screening; data and training have their own files. Torch-free.

Every model is frozen and refuses unknown fields; every field says its unit. YAML files hold only what differs from
these defaults (see configs/schema.py for how they are composed and read).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from storage.settings import RoomConfig

MAX_ATOMS = 64
"""Largest cell the packaged generator accepts, atoms."""

FEW_ELEMENTS, MOST_ELEMENTS = 3, 4
"""Elements of a chemical system that cells of CELL_ATOMS do for, and most that formulas have unless more are asked for:
of 4,867 crystals of the Materials Project with up to 52 atoms (mpts_52, validation part) 8 % have five and more."""

CELL_ATOMS, CELL_ATOMS_OF_MANY = 16, 28
"""Most atoms of a cell unless another number is asked for. Of the crystals of four elements and more in that file 21 %
fit into 16 atoms, 51 % into 28."""

# The symbols are spelled out so that reading a config needs no pymatgen import (0.1 s) and the UI's form can list them.
_SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru
Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At
Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr
"""
ELEMENTS = tuple(_SYMBOLS.split())


def _known_element(symbol: str) -> str:
    if symbol not in ELEMENTS:
        raise ValueError(f"{symbol!r} is not a chemical element: expected a symbol from H to Lr, such as 'Ta'")
    return symbol


ElementSymbol = Annotated[str, AfterValidator(_known_element)]
"""A chemical symbol from H to Lr."""


_PART = r"[A-Z][a-z]?\d*"


def _formula(text: str) -> str:
    symbols = re.findall(r"[A-Z][a-z]?", text)
    if not re.fullmatch(rf"({_PART}|\(({_PART})+\)\d*)+", text) or not set(symbols) <= set(ELEMENTS):
        raise ValueError(f"{text!r} is no formula: expected reduced formulas such as 'Al2O3'")
    return text


ReducedFormula = Annotated[str, AfterValidator(_formula)]
"""A formula of whole numbers; with brackets as pymatgen writes them, such as Ba(PO3)2."""


class GridConfig(RoomConfig):
    """Space groups and formation energies that are asked of each formula, every one with every other."""

    spacegroups: tuple[int, ...] = Field((), description="international numbers to ask for; empty leaves them open")
    energy_from_ev_per_atom: float | None = Field(
        None,
        ge=-6,
        le=3,
        description="first formation energy, eV/atom; null takes that of the hull of the known crystals at the "
        "formula, by their own formation energies",
    )
    energy_offset_ev_per_atom: float = Field(0.0, ge=-3, le=3, description="added to the first energy, eV/atom")
    energy_step_ev_per_atom: float = Field(-0.01, ge=-1, le=1, description="from one energy to the next, eV/atom")
    n_energies: int = Field(21, ge=0, le=1000, description="energies asked for; 0 leaves them open")

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        bad = [s for s in self.spacegroups if not 1 <= s <= 230]
        if bad or len(set(self.spacegroups)) != len(self.spacegroups):
            raise ValueError(
                f"spacegroups is {list(self.spacegroups)}: expected international numbers from 1 to 230, each once"
            )
        return self


class ConditionsConfig(RoomConfig):
    """What is asked of the generator: which compositions, and optionally which symmetry and formation energy."""

    policy: Literal["enumerate", "likely", "given", "grid", "open", "sites", "training"] = Field(
        "likely",
        description="likely: stoichiometries of the chemical system up to the limits below, first what a model of "
        "known crystals finds most probable for these elements; enumerate: the same, all in turn; given: the formulas "
        "listed; grid: each of these in every space group at every energy of `grid`, its smallest cell; open: "
        "no composition, as a generator for a property may be asked; sites: each of "
        "these read as inequivalent sites of `spacegroup`, such as TaWB2 for one site of Ta, one of W and two of B, "
        "whose numbers of atoms are left to the generator, so that n_atoms_min and n_atoms_max do not apply (without "
        "formulas: one or two sites of each of n_elements_min to n_elements_max elements, at most 4; without a space "
        "group: in each of the 32 most common whose cells have fixed angles); training: "
        "compositions of the training data inside the chemical system",
    )
    formulas: tuple[str, ...] = Field(
        (),
        description="reduced formulas for policies 'given' and 'grid', as 'Ta2BW'; for 'sites' sites of each element",
    )
    grid: GridConfig = Field(GridConfig(), description="what policy 'grid' asks of every formula")
    n_elements_min: int | None = Field(
        None,
        ge=1,
        le=6,
        description="fewest distinct elements in an enumerated formula; null: three, or all where there are fewer",
    )
    n_elements_max: int | None = Field(
        None,
        ge=1,
        le=6,
        description="most distinct elements in an enumerated formula; null: all, but no more than four (or than "
        "n_elements_min)",
    )
    formula_atoms_max: int = Field(8, ge=1, le=MAX_ATOMS, description="most atoms in an enumerated formula unit")
    n_atoms_min: int = Field(2, ge=1, le=MAX_ATOMS, description="fewest atoms in a generated cell")
    n_atoms_max: int | None = Field(
        None,
        ge=1,
        le=MAX_ATOMS,
        description="most atoms in a generated cell; null: 16, or 28 where the chemical system has more than three "
        "elements; of a listed formula four formula units, or what is written, where these are more (LiFePO4: 28)",
    )
    smact_filter: bool = Field(
        False,
        description="draw only charge-balanced formulas (SMACT); off by default because it refuses real borides and "
        "intermetallics such as TaB2",
    )
    spacegroup: int | None = Field(
        None,
        ge=1,
        le=230,
        description="international space-group number to ask for; cells that its Wyckoff positions cannot hold are "
        "left out of the plan",
    )
    formation_energy_ev_per_atom: float | None = Field(
        None, ge=-6, le=3, description="formation energy to ask for, eV/atom; null leaves it free"
    )
    targets: tuple[str, ...] = Field(
        (),
        description="further numbers to ask for, each NAME=NUMBER of a column that the generator was trained on, such "
        "as [band_gap_ev=1.5]",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "formation_energy_ev_per_atom" in self.numbers:
            raise ValueError("targets holds formation_energy_ev_per_atom, which is a setting of its own: give it there")
        if self.policy in ("given", "grid") and not self.formulas:
            raise ValueError(
                f"formulas is empty: policy {self.policy!r} needs at least one reduced formula, such as 'Ta2BW'"
            )
        if self.policy == "sites" and self.smact_filter:
            raise ValueError(
                "smact_filter is true: policy 'sites' leaves compositions open, so that no charges can be balanced; "
                "expected false"
            )
        if self.n_elements_min and self.n_elements_max and self.n_elements_min > self.n_elements_max:
            raise ValueError(f"n_elements_min {self.n_elements_min} exceeds n_elements_max {self.n_elements_max}")
        if self.n_atoms_max and self.n_atoms_min > self.n_atoms_max:
            raise ValueError(f"n_atoms_min {self.n_atoms_min} exceeds n_atoms_max {self.n_atoms_max}")
        return self

    def n_elements(self, of: int) -> tuple[int, int]:
        """Fewest and most distinct elements in a formula, for a chemical system of so many."""
        low = min(3, of) if self.n_elements_min is None else self.n_elements_min
        return (min(low, self.n_elements_max or low), self.n_elements_max or max(low, min(MOST_ELEMENTS, of)))

    def settled(self, n_elements: int) -> Self:
        """The same limits, stated where they follow from a chemical system of so many elements; most atoms of listed
        formulas, which follow from each, are left open.
        """
        fewest, most = self.n_elements(n_elements)
        atoms = self.n_atoms_max if self.formulas else self.atoms_max(n_elements)
        return self.model_copy(update={"n_elements_min": fewest, "n_elements_max": most, "n_atoms_max": atoms})

    def atoms_max(self, n_elements: int, listed: tuple[int, int] | None = None) -> int:
        """Most atoms in a cell.

        Args:
            n_elements: of the chemical system.
            listed: of a listed formula, atoms in its formula unit and as it is written.
        """
        if self.n_atoms_max is not None:
            return self.n_atoms_max
        size, written = listed or (0, 0)
        usual = CELL_ATOMS if n_elements <= FEW_ELEMENTS else CELL_ATOMS_OF_MANY
        at_least = max(4 * size, written, self.n_atoms_min)
        return min(MAX_ATOMS, max(usual, at_least))

    @property
    def numbers(self) -> dict[str, float]:
        """The targets, by name."""
        return dict(_number_of(target) for target in self.targets)


def _number_of(target: str) -> tuple[str, float]:
    name, _, number = target.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise ValueError(f"targets holds {target!r}: expected a column and a number, such as band_gap_ev=1.5")
    return name, value


class SamplerSettings(RoomConfig):
    """How a system draws or modifies crystals; a system without settings has these."""

    def in_id(self) -> dict[str, Any]:
        """What of it enters a candidate's id: what differs from the defaults. So a setting that comes with a later
        version leaves the ids that were given before as they are.
        """
        defaults = type(self)().model_dump(mode="json")
        return {name: value for name, value in self.model_dump(mode="json").items() if value != defaults[name]}


class SampleConfig(RoomConfig):
    """How crystals are drawn from the generator."""

    checkpoint: str = Field(
        "package:hullward-wyckoff", description="folder of a checkpoint; 'package:NAME' is one shipped with Hullward"
    )
    n_candidates: int = Field(256, ge=1, le=1_000_000, description="crystals to draw")
    chunk_size: int = Field(64, ge=1, le=8192, description="crystals per chunk (one task, one file)")
    sampler: dict[str, Any] = Field(
        {},
        description="settings of the generator that the checkpoint holds, where they differ from its defaults, such as "
        "{n_steps: 100} for crystal-flow; every system has its own, listed below",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, given: Any) -> Any:
        """Settings of a sampler that an earlier version wrote beside the others: those that were changed."""
        if not isinstance(given, dict) or not given.keys() & {*_FLAT_BEFORE, "denoising"}:
            return given
        defaults = {**_FLAT_BEFORE, **_DENOISING_BEFORE}
        written = {name: given[name] for name in _FLAT_BEFORE if name in given} | dict(given.get("denoising") or {})
        kept = {name: value for name, value in given.items() if name not in {*_FLAT_BEFORE, "denoising"}}
        changed = {name: value for name, value in written.items() if name not in defaults or value != defaults[name]}
        return {**kept, "sampler": {**changed, **dict(given.get("sampler") or {})}}


_FLAT_BEFORE = {"n_steps": 50, "velocity_slope": 5.0, "churn": 0.1, "guidance": 1.0}
"""Settings that stood in SampleConfig itself, whichever system read them, and their defaults."""

_DENOISING_BEFORE = {
    "reverse": "eq7", "stride": 1, "level_stride": 1, "steps_per_level": 100, "step_scale": 1e-4, "stop_below_ang": 0.0,
    "type_noise": 0.0, "keep_composition": False, "force_atom_count": False, "force_types": False, "latent_steps": 200,
    "latent_rate": 0.05, "latent_prior": 0.01,
}  # fmt: skip
"""Those of the CDVAE family, which stood there as `denoising`."""


class GeneratorShare(RoomConfig):
    """One of several generators that the candidates of a run are shared out among."""

    checkpoint: str = Field(description="folder of a checkpoint; 'package:NAME' is one shipped with Hullward")
    share: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="of the candidates, beside the shares of the others: 1 and 1 are halves, as 5 and 5",
    )
    sampler: dict[str, Any] = Field({}, description="settings of this generator; see `sample.sampler`")
    name: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]{0,63}$",
        description="name in tables; null takes the last part of the checkpoint's path",
    )

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.name or Path(self.checkpoint.removeprefix("package:")).name or self.checkpoint


class LearnedGenerator(RoomConfig):
    """A checkpoint that a campaign has made of one of its generators and of its finds."""

    checkpoint: str = Field(description="folder of the checkpoint")
    name: str = Field(min_length=1, description="name in tables")
    learned_from: str = Field(description="name of the entry of `generators`, whose sampler it has too")


class RunSampleConfig(SampleConfig):
    """How the candidates of a run are drawn: by one generator, or by several with shares."""

    generators: tuple[GeneratorShare, ...] = Field(
        (),
        description="several generators with shares of the candidates, instead of `checkpoint` and `sampler`, which "
        "then stay at their defaults; see below",
    )
    learned: tuple[LearnedGenerator, ...] = Field(
        (),
        description="checkpoints that a campaign has made of `generators`, in order; set by campaigns that learn. Each "
        "answers the plan of its generator again, in as many places of its own behind all others",
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if unknown := sorted({one.learned_from for one in self.learned} - {one.label for one in self.generators}):
            raise ValueError(f"learned names {unknown[0]!r}, which is none of generators: list that one there")
        if not self.generators:
            return self
        # Forms and files of earlier runs state the defaults too: only what differs from them was asked for.
        defaults = SampleConfig()
        for name in ("checkpoint", "sampler"):
            if getattr(self, name) != getattr(defaults, name):
                raise ValueError(
                    f"{name} and generators are both given: every entry of generators has a {name} of its own, so move "
                    f"it there, or leave generators out"
                )
        labels = [*(entry.label for entry in self.generators), *(one.name for one in self.learned)]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"generators holds two that are called {twice[0]!r}: give each a name of its own")
        return self


class ScreenConfig(RoomConfig):
    """Validity, uniqueness and novelty before any relaxation. Defaults: the CDVAE protocol's validity rule and
    pymatgen StructureMatcher's default tolerances.
    """

    min_distance_ang: float = Field(
        0.5, ge=0, description="shortest distance between any two atoms, self-images included, angstrom"
    )
    volume_per_atom_min_ang3: float = Field(2.0, gt=0, description="smallest volume per atom, A^3")
    volume_per_atom_max_ang3: float = Field(150.0, gt=0, description="largest volume per atom, A^3")
    max_angle_deviation_deg: float = Field(
        75.0, gt=0, lt=90, description="cell angles must lie within 90 degrees +- this"
    )
    smact_filter: bool = Field(
        False, description="reject compositions without charge balance (SMACT); always recorded as a column"
    )
    ltol: float = Field(0.2, gt=0, le=1, description="StructureMatcher fractional length tolerance")
    stol: float = Field(0.3, gt=0, le=1, description="StructureMatcher site tolerance, units of (V/N)^(1/3)")
    angle_tol_deg: float = Field(5.0, gt=0, le=45, description="StructureMatcher angle tolerance, degrees")
    dimensions: Literal[2, 3] = Field(
        3,
        description="2: candidates must be slabs, with more than 8 A of vacuum in one direction and no layers more "
        "than 5 A apart; they are measured and compared in cells with 10 A of vacuum",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.volume_per_atom_min_ang3 >= self.volume_per_atom_max_ang3:
            raise ValueError(
                f"volume_per_atom_min_ang3 {self.volume_per_atom_min_ang3} must lie below volume_per_atom_max_ang3 "
                f"{self.volume_per_atom_max_ang3}"
            )
        return self
