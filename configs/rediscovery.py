"""The settings of the benchmark of rediscovery: what is hidden, and who looks for it. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from configs.schema import ExecutionConfig, parse, read_yaml
from dft.config import HullConfig, RelaxConfig
from generative.config import ConditionsConfig, SampleConfig, ScreenConfig
from generative.datasets.config import FilesSource
from generative.training.config import TrainConfig
from storage.settings import RoomConfig

PORTFOLIO = "portfolio"
"""What several proposers together are called beside each alone."""

OF_ONE_SYSTEM = ("given", "grid", "sites")
"""Policies whose formulas belong to one chemical system."""


class ProposerEntry(RoomConfig):
    """One proposer of candidates: a checkpoint that is there, or one that is made without the hidden formulas."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name in tables and of its folder")
    checkpoint: str | None = Field(
        None,
        description="folder of a checkpoint, or 'package:NAME'; what it has learned from cannot be hidden: see `seen`",
    )
    seen: tuple[str, ...] | None = Field(
        None,
        description="files of crystals that the checkpoint has learned from, none of whose formulas is looked for; "
        "null takes those that its record names",
    )
    training: str | None = Field(
        None, description="YAML file of a training, or train-wyckoff: trained here, without the hidden formulas"
    )
    baseline: Literal["prototype-substitution", "training-copies", "random-symmetric"] | None = Field(
        None, description="a baseline that is made here of `templates`, without the hidden formulas"
    )
    settings: dict[str, Any] = Field(
        {}, description="of the training or the baseline, where they differ, such as {max_steps: 150}"
    )
    sampler: dict[str, Any] = Field({}, description="settings of its sampler; see `sample.sampler`")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        stated = [name for name in ("checkpoint", "training", "baseline") if getattr(self, name) is not None]
        if len(stated) != 1:
            raise ValueError(f"{self.name} names {stated}: expected one of checkpoint, training and baseline")
        if self.checkpoint is None and self.seen is not None:
            raise ValueError(f"{self.name} states seen, but is made without the hidden formulas: leave it out")
        if self.checkpoint is not None and self.settings:
            raise ValueError(f"{self.name} states settings, but is a checkpoint that is there: leave them out")
        return self

    def training_config(self, exclude_formulas: tuple[str, ...]) -> TrainConfig:
        """The training that it comes from, without these formulas.

        Raises: ConfigError: if the file is missing or holds a wrong setting.
        """
        assert self.training is not None  # asked of those alone that are trained
        file, stated = read_yaml(self.training)
        return parse(TrainConfig, {**stated, **self.settings, "exclude_formulas": exclude_formulas}, str(file))


class SharedBudgetConfig(RoomConfig):
    """One budget for all systems, shared out evenly and by yield, and counted from the same relaxations."""

    per_system: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4, 8, 16),
        description="relaxations per system, on average, after which is counted, ascending; those above the largest of "
        "`budgets` are left out; empty: not counted",
    )
    per_round: int = Field(2, ge=1, description="relaxations per system, on average, that are shared out at once")
    find_within_ev_per_atom: float = Field(
        0.1, ge=0, le=1, description="a new crystal at most so far above the hull of what is known is a find, eV/atom"
    )
    prior_finds: float = Field(1.0, gt=0, le=1000, description="as `allocation.prior_finds` of a campaign")
    prior_misses: float = Field(1.0, gt=0, le=1000, description="as `allocation.prior_misses` of a campaign")
    repeats: int = Field(
        200, ge=2, le=100_000, description="campaigns that are played for the mean, and resamples of systems for errors"
    )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.per_system) != sorted(set(self.per_system)):
            raise ValueError(f"per_system is {list(self.per_system)}: expected ascending numbers of relaxations from 1")
        return self


class RediscoveryConfig(RoomConfig):
    """The benchmark of rediscovery: stable crystals are hidden, and every proposer looks for them at equal expense."""

    name: str = Field(
        "rediscovery", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the benchmark and of its folder"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the choice of systems, of draws and of resampling")
    reference: str = Field(
        "assets:data/mp_20_biternary_test.csv.gz",
        description="crystals with energies above hull, among which the hidden ones are chosen: a file ingest reads",
    )
    stable_ev_per_atom: float = Field(
        0.0,
        ge=0,
        le=1,
        description="energy above hull, as the reference states it, up to which a crystal is looked for",
    )
    n_systems: int = Field(40, ge=1, le=100_000, description="chemical systems, drawn at random")
    n_elements: tuple[int, ...] = Field((2, 3), min_length=1, description="distinct elements of a system")
    n_atoms_max: int = Field(12, ge=1, description="most atoms in the primitive cell of a crystal that is looked for")
    budgets: tuple[int, ...] = Field(
        (16, 64, 256), min_length=1, description="relaxations after which is counted what was found, ascending"
    )
    proposers: tuple[ProposerEntry, ...] = Field(min_length=1, description="who proposes candidates")
    portfolio: dict[str, float] = Field(
        {}, description="proposers that share a campaign, with their shares, such as {wyckoff: 3, substitution: 1}"
    )
    shared_budget: SharedBudgetConfig = Field(
        SharedBudgetConfig(),
        description="what one budget over all systems would have found, for those that share the portfolio, or for all "
        "proposers where there is none",
    )
    known: tuple[FilesSource, ...] = Field(
        min_length=1, description="known crystals of the campaigns, without the hidden formulas: novelty, and the hull"
    )
    templates: tuple[FilesSource, ...] = Field((), description="crystals that the baselines are made of")
    conditions: ConditionsConfig = Field(
        ConditionsConfig(),
        description="what every proposer is asked for, in the same order; n_elements_* are set to those of the system",
    )
    sample: SampleConfig = Field(
        SampleConfig(n_candidates=2048, chunk_size=512),
        description="n_candidates: most draws of a proposer in a system; checkpoint and sampler are not used",
    )
    screen: ScreenConfig = Field(ScreenConfig(), description="validity, uniqueness, novelty")
    relax: RelaxConfig = Field(RelaxConfig(), description="potential and relaxation")
    hull: HullConfig = Field(HullConfig(), description="competing phases")
    workers: int = Field(1, ge=1, le=64, description="processes that parse crystals")
    execution: ExecutionConfig = Field(ExecutionConfig(), description="where the work is done")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [entry.name for entry in self.proposers]
        if len(set(names)) != len(names) or PORTFOLIO in names:
            raise ValueError(f"proposers are called {names}: give each a name of its own, other than {PORTFOLIO!r}")
        same = [entry.model_dump_json(exclude={"name"}) for entry in self.proposers]
        if twice := [name for name, words in zip(names, same, strict=True) if same.count(words) > 1]:
            raise ValueError(f"proposers {twice} would draw the same candidates: leave one out, or change its sampler")
        if unknown := sorted(set(self.portfolio) - set(names)):
            raise ValueError(f"portfolio names {unknown[0]!r}: expected some of {', '.join(names)}")
        if bad := [name for name, share in self.portfolio.items() if not 0 < share <= 1e6]:
            raise ValueError(f"portfolio.{bad[0]} is {self.portfolio[bad[0]]}: expected a share above 0 and to 1e6")
        if list(self.budgets) != sorted(set(self.budgets)) or self.budgets[0] < 1:
            raise ValueError(f"budgets is {list(self.budgets)}: expected ascending numbers of relaxations from 1")
        if self.budgets[-1] > self.sample.n_candidates:
            raise ValueError(
                f"sample.n_candidates is {self.sample.n_candidates}, fewer draws than the {self.budgets[-1]} "
                "relaxations of budgets: raise it"
            )
        if self.n_atoms_max > (most := self.conditions.atoms_max(max(self.n_elements))):
            raise ValueError(
                f"n_atoms_max is {self.n_atoms_max}, but cells of at most {most} atoms are "
                "asked for: raise conditions.n_atoms_max"
            )
        if self.conditions.policy in OF_ONE_SYSTEM:
            raise ValueError(f"conditions.policy is {self.conditions.policy!r}, whose formulas are of one system")
        if not self.templates and any(e.baseline not in (None, "random-symmetric") for e in self.proposers):
            raise ValueError("templates is empty, but a baseline is made of known crystals: name files of them")
        return self

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        return self.shared_folder / self.name

    @property
    def shared_folder(self) -> Path:
        """Where crystals that were read, proposers that were made and relaxed phases lie, for all such benchmarks."""
        return Path(self.execution.runs_folder) / "rediscovery"

    @property
    def sharing(self) -> dict[str, float]:
        """Who shares a budget with whom, and its share: the portfolio, or all alike."""
        return self.portfolio or {entry.name: 1.0 for entry in self.proposers}

    @property
    def campaigns(self) -> tuple[str, ...]:
        """Every proposer alone, then all together where they share."""
        return (*(entry.name for entry in self.proposers), *((PORTFOLIO,) if self.portfolio else ()))
