"""The settings of an evaluation and of the benchmark of generators, and their readers. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from configs.schema import DiscoverConfig, ExecutionConfig
from dft.config import HullConfig, RelaxConfig
from generative.config import SampleConfig
from storage.settings import RoomConfig

ProtocolName = Literal["cdvae", "airi", "adaptive-cell", "condition-cdvae", "sun", "all"]
DatasetName = Literal["mp-20", "mp-20-ps", "mp-20-sg16", "mpts-52", "perov-5", "carbon-24", "j2dh-8", "none"]
"""Data sets with results in papers; -ps is the polymorph split, -sg16 without monoclinic and triclinic crystals."""


class JudgeConfig(RoomConfig):
    """What is measured of samples, whoever drew them."""

    reference: str | None = Field(
        None,
        description="true crystals (the test set): a file or folder that ingest reads; null leaves out what needs it",
    )
    train: str | None = Field(
        None,
        description="crystals that are not new (the training set), and competing phases of the hull; null leaves out "
        "what needs it",
    )
    phases: tuple[str, ...] = Field(
        (), description="files of further competing phases, beside the training set; they do not count for novelty"
    )
    elemental_prototypes: bool = Field(
        True,
        description="where no competing phase is an element of a sample, take AFLOW's elemental prototypes of it: "
        "without the elements there is no hull",
    )
    protocols: tuple[ProtocolName, ...] = Field(("cdvae",), min_length=1, description="what is measured; `all` is all")
    dataset: DatasetName = Field(
        "none", description="whose rows of papers stand beside the figures, and whose cut-offs coverage takes"
    )
    cov_struct_cutoff: float | None = Field(
        None, gt=0, description="coverage: largest distance of structure fingerprints; null is the data set's own"
    )
    cov_comp_cutoff: float | None = Field(
        None, gt=0, description="coverage: largest distance of composition fingerprints; null is the data set's own"
    )
    magpie_scaler: Literal["cdvae", "reference"] = Field(
        "cdvae",
        description="coverage: what standardises composition fingerprints: CDVAE's published constants, or mean and "
        "spread of the reference, which no paper's figure compares with",
    )
    oxidation_states: Literal["cdvae", "smact14", "icsd24"] = Field(
        "cdvae",
        description="composition validity: whose oxidation states: those of SMACT 2.2.1, with which CDVAE's figures "
        "are made, or the installed SMACT's list of 2014 or of 2024",
    )
    targets: Literal["auto", "id", "index"] = Field(
        "auto",
        description="which true crystal a sample is compared with: the one whose id it carries (ID, or ID#2, ID#3 for "
        "further samples), the one in the same place, or whichever of the two fits",
    )
    task: Literal["prediction", "reconstruction"] = Field(
        "prediction",
        description="what the samples are: predicted for a target's composition, or decoded from an encoded target; "
        "says which rows of papers compare",
    )
    gate: Literal["none", "structure", "cdvae"] = Field(
        "none", description="what a sample must pass before it is matched with its target; published: cdvae"
    )
    n_drawn: int | None = Field(
        1000,
        ge=1,
        description="valid samples drawn at random for the distances of property distributions, published: 1000; "
        "fewer leave them undefined; null takes all valid ones",
    )
    energies: bool = Field(
        False, description="compute energies of samples and reference with the potential, for their distribution"
    )
    regressor: str | None = Field(
        None,
        description="compute these energies with a regressor instead, as CDVAE does: a file of its authors' own "
        "(carbon, perovskite or mp20 .safetensors, with NAME.hparams.yaml beside) or a checkpoint of "
        "`kind: dimenet-regressor`",
    )
    limit: int | None = Field(
        None, ge=1, description="relax at most this many samples, drawn at random with the seed; null relaxes all"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of every random choice")
    workers: int = Field(1, ge=1, le=64, description="processes for fingerprints and matching")
    cache: str | None = Field(None, description="folder that keeps fingerprints between evaluations; null keeps none")
    relax: RelaxConfig = Field(RelaxConfig(), description="potential and relaxation")
    hull: HullConfig = Field(HullConfig(), description="competing phases")
    execution: ExecutionConfig = Field(ExecutionConfig(), description="where the work is done")

    @model_validator(mode="after")
    def _both_cutoffs(self) -> Self:
        if (self.cov_struct_cutoff is None) != (self.cov_comp_cutoff is None):
            raise ValueError(
                f"cov_struct_cutoff is {self.cov_struct_cutoff} and cov_comp_cutoff {self.cov_comp_cutoff}: coverage "
                "needs both or neither"
            )
        return self

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.energies and self.regressor is not None:
            raise ValueError(f"energies is true and regressor {self.regressor}: one model computes them, so name one")
        return self

    def as_run(self) -> DiscoverConfig:
        """The settings of a run with the same potential, hull and machine, as the stages take them."""
        return DiscoverConfig(seed=self.seed, relax=self.relax, hull=self.hull, execution=self.execution)


class EvaluateConfig(JudgeConfig):
    """One evaluation: files of samples go in, figures, tables and a report come out."""

    samples: str = Field(min_length=1, description="crystals to be judged: a file or folder that ingest reads")
    out: str | None = Field(None, min_length=1, description="folder of the results; null is evaluations/<samples>")

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        if self.out:
            return Path(self.out)
        name = Path(self.samples.rpartition(":")[2]).name.partition(".")[0]
        return Path(self.execution.runs_folder) / "evaluations" / (name or "samples")


class GeneratorEntry(RoomConfig):
    """One generator of the benchmark."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name in tables and of its folder")
    checkpoint: str = Field(description="folder of a checkpoint; 'package:NAME' is one shipped with Hullward")
    sampler: dict[str, Any] = Field(
        {}, description="settings of this generator's sampler, such as {n_steps: 100}; see `sample.sampler`"
    )
    missing: Literal["error", "skip"] = Field(
        "error", description="what a checkpoint that is not there means: an error, or a row that says so"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, given: Any) -> Any:
        """`n_steps` by itself, as an earlier version wrote it."""
        if not isinstance(given, dict) or "n_steps" not in given:
            return given
        steps, kept = given["n_steps"], {name: value for name, value in given.items() if name != "n_steps"}
        return kept if steps is None else {**kept, "sampler": {"n_steps": steps, **dict(kept.get("sampler") or {})}}


class BenchmarkConfig(JudgeConfig):
    """A comparison of generators: each draws crystals for the same compositions and is judged by the same protocols."""

    name: str = Field(
        "generators", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the benchmark and of its folder"
    )
    generators: tuple[GeneratorEntry, ...] = Field(min_length=1, description="who is compared")
    n: int = Field(1000, ge=1, le=100_000, description="compositions for which each generator draws")
    n_per_target: int = Field(
        1, ge=1, le=100, description="crystals per composition; the best of the first k of them is reported for every k"
    )
    sample: SampleConfig = Field(SampleConfig(), description="sampler; checkpoint and n_candidates are not used")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [entry.name for entry in self.generators]
        if len(set(names)) != len(names):
            raise ValueError(f"generators {names} name one twice: give each its own name")
        if self.reference is None:
            raise ValueError("reference is null: a benchmark draws crystals for the compositions of a test file")
        return self

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        return Path(self.execution.runs_folder) / "benchmarks" / self.name
