"""Settings of the generative room: data, conditions, sampling, screening; training has its own file. Torch-free.

Every model is frozen and refuses unknown fields; every field says its unit. YAML files hold only what differs from
these defaults (see configs/schema.py for how they are composed and read).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

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


class FilterConfig(RoomConfig):
    """Which rows of a source are kept; a row outside is counted in the manifest, not quarantined."""

    elements: tuple[ElementSymbol, ...] | None = Field(
        None, description="keep crystals made of these elements only (any subset); null keeps all"
    )
    n_elements_min: int = Field(1, ge=1, description="fewest distinct elements in a crystal")
    n_elements_max: int = Field(10, ge=1, description="most distinct elements in a crystal")
    n_atoms_min: int = Field(1, ge=1, description="fewest atoms in the primitive cell")
    n_atoms_max: int = Field(200, ge=1, description="most atoms in the primitive cell")
    e_above_hull_max_ev_per_atom: float | None = Field(
        None, ge=0, description="largest energy above hull as the source states it, eV/atom; null keeps all"
    )
    formulas: tuple[ReducedFormula, ...] | None = Field(
        None, description="keep the polymorphs of these reduced formulas, such as [TiO2, Al2O3]; null keeps all"
    )
    spacegroups: tuple[int, ...] | None = Field(
        None, description="keep these international space-group numbers (1-230); null keeps all"
    )
    dimensions: Literal[2, 3] | None = Field(
        None,
        description="2 keeps slabs, which have more than 8 A of vacuum in one direction, with their vacuum, and merges "
        "them whatever its width; 3 keeps crystals without any; null keeps all",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.n_elements_min > self.n_elements_max:
            raise ValueError(f"n_elements_min {self.n_elements_min} exceeds n_elements_max {self.n_elements_max}")
        if self.n_atoms_min > self.n_atoms_max:
            raise ValueError(f"n_atoms_min {self.n_atoms_min} exceeds n_atoms_max {self.n_atoms_max}")
        bad = [s for s in self.spacegroups or () if not 1 <= s <= 230]
        if bad:
            raise ValueError(f"spacegroups contains {bad[0]}: international numbers run from 1 to 230")
        return self


DEFAULT_JSON_MB = 500.0


class SourceConfig(RoomConfig):
    """Base of the settings of sources of known crystals; each has a `kind` of its own."""

    OPENED_BY: ClassVar[str] = ""
    """'module:function' of the generative.datasets.sources.Opener that makes the source."""
    NEEDS_SCORER: ClassVar[bool] = False
    """Whether its crystals are relaxed and scored by the run's potential."""

    def inputs(self, resolve: Callable[[str], Path]) -> dict[str, list[Path]]:
        """Files of the user's that are read: where one has changed, the source is read again.

        Args:
            resolve: finds a path as the user wrote it.

        Returns: Files by the setting that names them; a file that is not there is left out, for ingest to say.
        """
        return {}


class FilesSource(SourceConfig):
    """Crystals from files: CIF, POSCAR, extended XYZ, pymatgen JSON, CSV with a CIF column, Parquet, or a folder."""

    OPENED_BY: ClassVar[str] = "generative.datasets.files:open_files"
    kind: Literal["files"] = "files"
    path: str = Field(
        description="file or folder; 'assets:...' is looked up under HULLWARD_ASSETS, 'package:...' in the package"
    )
    method: str = Field(
        "unknown",
        description="level of theory of the energies in the file, such as 'PBE/PBE+U (Materials Project)'; "
        "energies of different methods never share a hull",
    )
    origin: Literal["reported", "hypothetical", "unstated"] = Field(
        "unstated",
        description="whether crystals of the file that do not say so themselves (`theoretical`, `origin`) have been "
        "made or found (reported) or only been computed (hypothetical)",
    )
    limit: int | None = Field(None, ge=1, description="read at most this many rows; null reads all")
    json_mb_max: float = Field(
        DEFAULT_JSON_MB,
        gt=0,
        le=100_000,
        description="largest JSON file, MB unpacked; it takes some 10 times as much memory. JSON lines (.jsonl) are "
        "read line by line and have no such limit",
    )

    def inputs(self, resolve: Callable[[str], Path]) -> dict[str, list[Path]]:
        """The file, or all files of the folder."""
        path = resolve(self.path)
        return {self.path: sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())}


class PrototypesSource(SourceConfig):
    """AFLOW prototypes decorated with the chemical system's elements, relaxed and scored by the run's potential."""

    OPENED_BY: ClassVar[str] = "generative.datasets.prototypes:open_prototypes"
    NEEDS_SCORER: ClassVar[bool] = True
    kind: Literal["prototypes"] = "prototypes"
    n_elements_max: int = Field(3, ge=1, le=4, description="most distinct elements in a decorated prototype")
    n_atoms_max: int = Field(12, ge=1, le=MAX_ATOMS, description="most atoms in the prototype's primitive cell")
    per_formula_max: int = Field(6, ge=1, description="prototypes kept per compound's formula, smallest cells first")


class BilayersSource(SourceConfig):
    """Janus III-VI bilayers put together here, relaxed and labelled by the run's potential: a stand-in for J2DH-8. The
    potential should have dispersion (CHGNet+D3), and `relax.vacuum` must be held.
    """

    OPENED_BY: ClassVar[str] = "generative.datasets.bilayers:open_bilayers"
    NEEDS_SCORER: ClassVar[bool] = True
    kind: Literal["bilayers"] = "bilayers"
    metals: tuple[Literal["Al", "Ga", "In"], ...] = Field(
        ("Al", "Ga", "In"), min_length=1, description="metals of the monolayers"
    )
    chalcogens: tuple[Literal["S", "Se", "Te"], ...] = Field(
        ("S", "Se", "Te"), min_length=1, description="chalcogens of the monolayers"
    )
    limit: int | None = Field(
        600, ge=1, description="bilayers drawn of the 19,926 that all these elements make; null takes all"
    )
    seed: int = Field(0, ge=0, description="of the order in which they are drawn; a larger limit adds to a smaller one")
    vacuum_ang: float = Field(20.0, ge=12, le=60, description="vacuum between the slabs, angstrom")


class NetworkSource(SourceConfig):
    """What all databases on the network have in common. A run's chemical system and `data.filters` are sent along."""

    endpoint: str | None = Field(
        None, description="address of the database, http(s); null takes the provider's own. No key may stand in it"
    )
    where: str | None = Field(
        None, description="further condition in the database's own query language, joined to the others by AND"
    )
    n_sites_min: int | None = Field(None, ge=1, description="fewest atoms in the cell as the database stores it")
    n_sites_max: int | None = Field(None, ge=1, description="most atoms in the cell as the database stores it")
    limit: int | None = Field(None, ge=1, description="download at most this many records; null downloads all")
    page_size: int = Field(500, ge=1, le=10_000, description="records asked for at once")
    requests_per_second: float = Field(2.0, gt=0, le=1000, description="most requests sent per second")
    attempts: int = Field(6, ge=1, le=20, description="tries per request before giving up")
    backoff_s: float = Field(1.0, ge=0, le=60, description="wait before the first retry, s; doubled before each next")
    retry_after_max_s: float = Field(300.0, ge=0, description="longest wait a server may ask for (Retry-After), s")
    connect_timeout_s: float = Field(10.0, gt=0, description="longest wait for a connection, s")
    read_timeout_s: float = Field(60.0, gt=0, description="longest silence within a reply, s")
    reply_timeout_s: float = Field(600.0, gt=0, description="longest time a whole reply may take, s")
    reply_mb_max: float = Field(512.0, gt=0, description="largest reply, unpacked, MB")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # The address itself is not repeated: what is wrong with it may be the key in it.
        if self.endpoint is not None and not re.fullmatch(r"https?://[^@?#\s]+", self.endpoint):
            raise ValueError(
                "endpoint: expected http:// or https:// and no user, key, query or fragment; keys come from the "
                "environment or a Prefect Secret"
            )
        if self.n_sites_min and self.n_sites_max and self.n_sites_min > self.n_sites_max:
            raise ValueError(f"n_sites_min {self.n_sites_min} exceeds n_sites_max {self.n_sites_max}")
        return self


class MaterialsProjectSource(NetworkSource):
    """The Materials Project through mp-api. The key: environment variable MP_API_KEY, or the Prefect Secret block
    'materials-project-api-key'; it has no setting, so that it cannot be written into a file.
    """

    OPENED_BY: ClassVar[str] = "generative.datasets.databases.materials_project:open_materials_project"
    kind: Literal["materials-project"] = "materials-project"
    thermo_type: Literal["GGA_GGA+U", "R2SCAN", "GGA_GGA+U_R2SCAN"] = Field(
        "GGA_GGA+U",
        description="energies of which scheme: corrected GGA/GGA+U, pure r2SCAN, or the Materials Project's mixing of "
        "both, which must be asked for; records whose energy is of another calculation are refused",
    )
    page_size: int = Field(200, ge=1, le=1000, description="records asked for at once")


class AflowSource(NetworkSource):
    """AFLOW through its AFLUX search API; no key."""

    OPENED_BY: ClassVar[str] = "generative.datasets.databases.aflow:open_aflow"
    kind: Literal["aflow"] = "aflow"
    catalogs: tuple[Literal["ICSD", "LIB1", "LIB2", "LIB3", "LIB4", "LIB5", "LIB6"], ...] | None = Field(
        None, description="parts of AFLOW to search; null searches all"
    )


OPTIMADE_PROVIDERS = ("alexandria", "alexandria-pbesol", "mp", "oqmd", "aflow", "jarvis")
"""Those whose address is known; see datasets/databases/optimade_providers.py."""


class OptimadeSource(NetworkSource):
    """Any OPTIMADE provider; `where` is an OPTIMADE filter, such as 'nelements=2 AND nsites<20'."""

    OPENED_BY: ClassVar[str] = "generative.datasets.databases.optimade:open_optimade"
    kind: Literal["optimade"] = "optimade"
    provider: str = Field(
        "alexandria",
        pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        description="alexandria, alexandria-pbesol, mp, oqmd, aflow, jarvis, or any name for an `endpoint` of your own",
    )
    method: str | None = Field(
        None, description="level of theory of its energies; null takes the provider's known one, else 'unknown'"
    )
    fields: dict[str, str] = Field(
        {},
        description="column of the table -> the provider's field for it, such as {formation_energy_ev_per_atom: "
        "_my_eform}; added to, and before, the known ones",
    )
    page_size: int = Field(100, ge=1, le=10_000, description="records asked for at once")

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if self.provider not in OPTIMADE_PROVIDERS and self.endpoint is None:
            raise ValueError(
                f"provider {self.provider!r} is not known: expected one of {', '.join(OPTIMADE_PROVIDERS)}, or "
                "`endpoint` with the address of its OPTIMADE server"
            )
        return self


Source = Annotated[
    FilesSource | PrototypesSource | BilayersSource | MaterialsProjectSource | AflowSource | OptimadeSource,
    Field(discriminator="kind"),
]


class DataConfig(RoomConfig):
    """Where known crystals come from: the reference of novelty and the competing phases of the hull."""

    sources: tuple[Source, ...] = Field(
        (PrototypesSource(),), min_length=1, description="read in order; rows of all sources form one table"
    )
    filters: FilterConfig = Field(FilterConfig(), description="applied to every source")
    merge: bool = Field(
        False,
        description="keep a crystal that several sources hold once, with all ids and energies (StructureMatcher's "
        "default tolerances); the first source in the list wins",
    )
    refresh: bool = Field(
        False,
        description="ask databases on the network again and fetch what has changed; false takes a finished download "
        "as it is",
    )
    workers: int = Field(1, ge=1, le=64, description="processes that parse crystals")


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
