"""Settings of known crystals: where they come from, and which of them are kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from generative.config import MAX_ATOMS, ElementSymbol, ReducedFormula
from storage.settings import RoomConfig


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
