"""The settings of a campaign: which chemical systems, who proposes, what may be spent, when it stops. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema import ExecutionConfig
from dft.config import BestPhononsConfig, HullConfig, InputsConfig, JudgeConfig, RelaxConfig, StoreConfig
from generative.config import ELEMENTS, ConditionsConfig, ElementSymbol, GeneratorShare, SampleConfig, ScreenConfig
from generative.datasets.config import DataConfig
from storage.settings import RoomConfig

OF_ONE_SYSTEM = ("given", "grid", "training")
"""Policies whose formulas are those of one chemical system, or of its known crystals."""

MOST_ELEMENTS = 6
"""Of a chemical system, as a run has them."""


class ElementList(RoomConfig):
    """Elements of which every system has so many."""

    elements: tuple[ElementSymbol, ...] = Field(
        (), description="symbols to choose among; empty: every element of which the dataset has a crystal"
    )
    n: int = Field(1, ge=1, le=MOST_ELEMENTS, description="so many distinct ones in every system")


class SystemsRule(RoomConfig):
    """Every system that can be put together from lists of elements, and passes the filters."""

    lists: tuple[ElementList, ...] = Field(
        min_length=1, max_length=MOST_ELEMENTS, description="what is chosen from each list, all elements distinct"
    )
    electronegativity_range_min: float = Field(
        0.0, ge=0, le=4, description="least difference between its most and least electronegative element, Pauling"
    )
    electronegativity_range_max: float = Field(
        4.0, ge=0, le=4, description="largest such difference; systems with an element without a value are left out"
    )
    charge_balanced: bool = Field(
        False,
        description="only systems with a formula of all their elements, of at most conditions.formula_atoms_max atoms, "
        "that SMACT can balance; metals among themselves always pass",
    )
    known_formulas_min: int = Field(
        0, ge=0, description="at least so many formulas of all its elements that the dataset knows"
    )
    known_formulas_max: int | None = Field(
        None, ge=0, description="at most so many: 0 leaves the gaps of the dataset, systems of which it knows nothing"
    )
    n_systems: int | None = Field(
        None, ge=1, description="so many at most, drawn at random with the seed; null takes all"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for number, one in enumerate(self.lists):
            if len(set(one.elements)) != len(one.elements):
                raise ValueError(f"lists.{number} names an element twice: list each one once")
            if one.elements and len(one.elements) < one.n:
                raise ValueError(
                    f"lists.{number} asks for {one.n} of {len(one.elements)} elements: lower n, or add some"
                )
        if (n := sum(one.n for one in self.lists)) > MOST_ELEMENTS:
            raise ValueError(f"lists ask for {n} elements together: a system has at most {MOST_ELEMENTS}")
        if self.electronegativity_range_min > self.electronegativity_range_max:
            raise ValueError(
                f"electronegativity_range_min is {self.electronegativity_range_min}, above the maximum "
                f"{self.electronegativity_range_max}: exchange them"
            )
        if self.known_formulas_max is not None and self.known_formulas_min > self.known_formulas_max:
            raise ValueError(
                f"known_formulas_min is {self.known_formulas_min}, above the maximum {self.known_formulas_max}: "
                "exchange them"
            )
        return self


class BudgetConfig(RoomConfig):
    """What a campaign may spend. The limits in hours depend on the machine, and so does what is found under them."""

    relaxations: int = Field(480, ge=1, le=10_000_000, description="relaxed candidates of all systems together")
    per_round: int = Field(96, ge=1, le=1_000_000, description="relaxations of a round, which are shared out at once")
    core_hours: float | None = Field(
        None,
        gt=0,
        description="no round begins once drawing, screening and relaxing have taken so many hours, times "
        "execution.torch_threads; null: no such limit. Results then depend on the machine",
    )
    wall_hours: float | None = Field(
        None,
        gt=0,
        description="no round begins once the rounds before have taken so many hours; null: no such limit. Results "
        "then depend on the machine",
    )


class AllocationConfig(RoomConfig):
    """How the relaxations of a round are shared out among systems and proposers."""

    policy: Literal["thompson", "uniform"] = Field(
        "thompson",
        description="thompson: the first round evenly, then each relaxation goes where a yield drawn from its "
        "posterior is highest; uniform: evenly, the control",
    )
    prior_finds: float = Field(
        1.0, gt=0, le=1000, description="Beta(prior_finds, prior_misses) is the prior of every yield"
    )
    prior_misses: float = Field(1.0, gt=0, le=1000, description="see prior_finds; 1 and 1: any yield is as likely")
    repeat: bool = Field(
        False,
        description="a campaign that has ended before is given the shares that it had then, so that only systems whose "
        "known crystals have changed since are worked on again: for schedules",
    )


class LearningConfig(RoomConfig):
    """Whether proposers learn from what the campaign finds, those that can: generators of kind wyckoff."""

    every_rounds: int | None = Field(
        None,
        ge=1,
        description="after so many rounds, and as many again, proposers learn from all finds so far; null: never",
    )
    votes: float = Field(
        1.0, gt=0, le=1000, description="as many crystals of the training as each find counts for, by its vote"
    )


class StopConfig(RoomConfig):
    """When a campaign ends before its budget is spent; asked after every round."""

    finds: int | None = Field(None, ge=1, description="once so many crystals have been found; null: never")
    rounds_without_find: int | None = Field(
        None, ge=1, description="once so many rounds in a row have found nothing; null: never"
    )


class NotifyConfig(RoomConfig):
    """Who is told of the end, or of a failure."""

    webhook_variable: str | None = Field(
        None,
        description="environment variable that holds the address to which a JSON text is posted (never the address "
        "itself); null: nobody is told",
    )

    @model_validator(mode="after")
    def _no_address(self) -> Self:
        if self.webhook_variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.webhook_variable):
            raise ValueError(
                "webhook_variable is no name of a variable: give the NAME of an environment variable that holds the "
                "address, so that no password reaches a config file or a manifest"
            )
        return self


class CampaignConfig(RoomConfig):
    """A campaign: many chemical systems, one budget of relaxations, which goes where it finds most."""

    name: str = Field(
        "campaign", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the campaign and of its folder"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of every random draw")
    systems: tuple[str, ...] = Field((), description="chemical systems, such as [Ti-B, Nb-Mo-B]")
    rule: SystemsRule | None = Field(None, description="further systems, by a rule; null: none")
    proposers: tuple[GeneratorShare, ...] = Field(
        (GeneratorShare(checkpoint="package:hullward-wyckoff"),),
        min_length=1,
        description="who draws candidates; shares are those of the draws and of an even budget",
    )
    find_within_ev_per_atom: float = Field(
        0.1,
        ge=0,
        le=1,
        description="a new crystal at most so far above the hull of all that is known is a find, eV/atom",
    )
    budget: BudgetConfig = Field(BudgetConfig(), description="what may be spent")
    allocation: AllocationConfig = Field(AllocationConfig(), description="where it goes")
    learning: LearningConfig = Field(LearningConfig(), description="what proposers make of finds")
    stop: StopConfig = Field(StopConfig(), description="when it ends early")
    notify: NotifyConfig = Field(NotifyConfig(), description="who is told of the end")
    data: DataConfig = Field(DataConfig(), description="known crystals; files are read once for all systems")
    conditions: ConditionsConfig = Field(
        ConditionsConfig(),
        description="what is asked for; n_elements_max is that of the system, and n_elements_min at most that",
    )
    sample: SampleConfig = Field(
        SampleConfig(n_candidates=4096, chunk_size=64),
        description="n_candidates: most draws of all proposers in one system; checkpoint and sampler are not used",
    )
    screen: ScreenConfig = Field(ScreenConfig(), description="validity, uniqueness, novelty")
    relax: RelaxConfig = Field(RelaxConfig(), description="potential and relaxation")
    hull: HullConfig = Field(
        HullConfig(), description="competing phases; decorated prototypes compete, and are nobody's find"
    )
    judge: JudgeConfig = Field(JudgeConfig(), description="a second opinion on the best of every system, at the end")
    phonons: BestPhononsConfig = Field(BestPhononsConfig(), description="of the best of every system, at the end")
    inputs: InputsConfig = Field(InputsConfig(), description="VASP inputs of the best of every system, at the end")
    store: StoreConfig = Field(StoreConfig(), description="job documents")
    execution: ExecutionConfig = Field(ExecutionConfig(), description="where the work runs")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.systems and self.rule is None:
            raise ValueError("systems is empty and rule is null: name systems, such as [Ti-B], or a rule")
        for system in self.systems:
            elements = elements_of_system(system)
            if bad := [e for e in elements if e not in ELEMENTS]:
                raise ValueError(f"systems names {system!r}: {bad[0]!r} is no element from H to Lr")
            if len(set(elements)) != len(elements) or not 1 <= len(elements) <= MOST_ELEMENTS:
                raise ValueError(
                    f"systems names {system!r}: expected 1 to {MOST_ELEMENTS} distinct elements joined by '-'"
                )
        labels = [entry.label for entry in self.proposers]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"proposers holds two that are called {twice[0]!r}: give each a name of its own")
        if alike := sorted(a for a in labels if proposer_of(a, set(labels) - {a}) is not None):
            raise ValueError(
                f"proposers holds one that is called {alike[0]!r}, as what another has learned would be: give it "
                "another name"
            )
        if self.conditions.policy in OF_ONE_SYSTEM:
            raise ValueError(f"conditions.policy is {self.conditions.policy!r}, whose formulas are of one system")
        if self.phonons.potential == "judge" and self.judge.potential is None:
            raise ValueError("phonons.potential is 'judge', but judge.potential is null: name a judge, or say 'relax'")
        return self

    @property
    def folder(self) -> Path:
        """Where the campaign's files lie."""
        return Path(self.execution.runs_folder) / "campaigns" / self.name


def learned_name(proposer: str, number: int) -> str:
    """What the checkpoint is called that a proposer has become after a round, counted from 0."""
    return f"{proposer}-after-{number}"


def proposer_of(name: str, proposers: Collection[str]) -> str | None:
    """The proposer of this name, or the one that the checkpoint of this name was made of; None if it is none's.

    Args:
        name: of a proposer, or as learned_name gives it.
        proposers: names of all.
    """
    if name in proposers:
        return name
    proposer, _, number = name.rpartition("-after-")
    return proposer if proposer in proposers and number.isdecimal() else None


def elements_of_system(text: str) -> tuple[str, ...]:
    """'Ti-B' as ('B', 'Ti'): alphabetically, as everywhere."""
    return tuple(sorted(part for part in re.split(r"[-,\s]+", text) if part))
