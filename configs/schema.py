"""The settings of a discovery run: one frozen pydantic model, composed of the rooms' own, and its YAML reader.

`DiscoverConfig` is the parameter of `flows/discover.py:discover`, so the Prefect UI shows it as a form. YAML files hold
only what differs from the defaults.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from configs.slurm_workers import SlurmWorkersConfig
from configs.yaml_text import MAX_YAML_CHARACTERS, YamlError, read_settings_text
from dft.campaign.config import DftConfig
from dft.config import BestPhononsConfig, HullConfig, InputsConfig, JudgeConfig, RelaxConfig, StoreConfig
from generative.config import ConditionsConfig, ElementSymbol, RunSampleConfig, ScreenConfig
from generative.datasets.config import DataConfig
from storage.settings import RoomConfig

CONFIG_FOLDER = Path(__file__).parent / "presets"
KEYS_BELONG = "keys come from the environment, such as MP_API_KEY, or from a Prefect Secret, never from settings"


SHOWN_ITEMS, SHOWN_CHARACTERS, SHOWN_FAULTS, SHOWN_SENTENCE = 20, 200, 20, 1000
"""So much of a wrong value, so many faults, and so much of what is said of each, a message repeats."""


class ConfigError(ValueError):
    """A settings file that cannot be used; the message is one sentence per fault."""


class ExecutionConfig(RoomConfig):
    """Where and how wide the run's chunks are computed. Changes no result."""

    runs_folder: str = Field("runs", description="folder that holds one folder per run")
    task_runner: Literal["threads", "processes", "dask", "dask-slurm"] = Field(
        "threads", description="threads or processes of this machine, a Dask cluster, or Dask workers in jobs of Slurm"
    )
    max_workers: int = Field(
        1, ge=1, le=1024, description="chunks computed at once; of dask-slurm, slurm.workers_max says so"
    )
    torch_threads: int = Field(2, ge=1, le=256, description="CPU threads of one chunk's tensor operations")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where networks run; auto takes a GPU if seen")
    dask_address: str | None = Field(
        None, description="scheduler address of a running Dask cluster; null starts one here"
    )
    slurm: SlurmWorkersConfig = Field(SlurmWorkersConfig(), description="the workers of dask-slurm")

    @model_validator(mode="after")
    def _workers_have_their_cores(self) -> Self:
        cores = self.slurm.cores
        if self.task_runner == "dask-slurm" and cores is not None and cores < self.torch_threads:
            raise ValueError(
                f"slurm.cores is {cores}, but torch_threads is {self.torch_threads}: expected a core for "
                "each, so raise the first or lower the second"
            )
        return self


class DiscoverConfig(RoomConfig):
    """One discovery run: a chemical system goes in, ranked new crystals with VASP inputs come out."""

    name: str = Field(
        "quickstart", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the run and of its folder"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of every random draw of the run")
    elements: tuple[ElementSymbol, ...] = Field(
        ("Al", "Ti", "N"), min_length=1, max_length=6, description="the chemical system, such as [Ta, W, B]"
    )
    data: DataConfig = Field(DataConfig(), description="known crystals")
    conditions: ConditionsConfig = Field(ConditionsConfig(), description="what to generate")
    sample: RunSampleConfig = Field(RunSampleConfig(), description="how to generate")
    screen: ScreenConfig = Field(ScreenConfig(), description="validity, uniqueness, novelty")
    relax: RelaxConfig = Field(RelaxConfig(), description="pre-relaxation")
    hull: HullConfig = Field(HullConfig(), description="convex hull")
    judge: JudgeConfig = Field(JudgeConfig(), description="a second opinion on the best candidates")
    phonons: BestPhononsConfig = Field(BestPhononsConfig(), description="dynamical stability of the best candidates")
    inputs: InputsConfig = Field(InputsConfig(), description="VASP inputs")
    store: StoreConfig = Field(StoreConfig(), description="job documents")
    dft: DftConfig = Field(DftConfig(), description="DFT of the best candidates")
    execution: ExecutionConfig = Field(ExecutionConfig(), description="where the work runs")

    @model_validator(mode="after")
    def _distinct_elements(self) -> Self:
        if len(set(self.elements)) != len(self.elements):
            raise ValueError(f"elements {list(self.elements)} names an element twice: list each one once")
        fewest, _ = self.conditions.n_elements(len(self.elements))
        if self.conditions.policy in ("enumerate", "likely") and fewest > len(self.elements):
            raise ValueError(
                f"conditions.n_elements_min is {fewest}, but elements lists only "
                f"{len(self.elements)}: lower it or name more elements"
            )
        return self

    @model_validator(mode="after")
    def _slabs_keep_their_vacuum(self) -> Self:
        if self.screen.dimensions == 2 and self.relax.vacuum == "free":
            raise ValueError(
                "screen.dimensions is 2, but relax.vacuum is 'free': a relaxation would do away with the vacuum of "
                "slabs, so say 'held'"
            )
        return self

    @model_validator(mode="after")
    def _phonons_have_their_potential(self) -> Self:
        if self.phonons.potential == "judge" and self.judge.potential is None:
            raise ValueError("phonons.potential is 'judge', but judge.potential is null: name a judge, or say 'relax'")
        return self

    def relaxed_by(self, potential: str | None) -> Self:
        """The same run with the judge's relaxation, by this potential, in place of `relax`; as it is for None."""
        if potential is None:
            return self
        return self.model_copy(update={"relax": self.judge.relaxation(self.relax, potential)})


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence per fault of a pydantic error: the field, the value, and what is allowed.

    Args:
        error: as raised by `model`.
        model: the settings model, whose fields are named where a key is unknown.
    """
    faults = error.errors(include_url=False)[: 2 * SHOWN_FAULTS]
    # A list with a wrong item is reported a second time as a whole (as too short, say): a consequence, not a fault.
    causes = [f for f in faults if not any(o["loc"][: len(f["loc"])] == f["loc"] != o["loc"] for o in faults)]
    sentences = []
    for fault in causes:
        field = ".".join(str(part) for part in fault["loc"]) or "the settings"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            owner = ".".join(str(part) for part in fault["loc"][:-1]) or "the top level"
            known = allowed_keys(model, fault["loc"][:-1])
            close = get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
            given = "value not repeated" if holds_secret(field) else f"value given: {harmless(fault['input'])!r}"
            hint = KEYS_BELONG if holds_secret(field) else hint
            sentences.append(f"{field} is not a setting: {owner} has no such key ({given}); {hint}")
        elif fault["type"] == "missing":
            sentences.append(f"{field} is missing: it has no default")
        elif fault["type"] == "value_error":
            sentences.append(f"{field}: {message}")
        else:
            sentences.append(f"{field} is {harmless(fault['input'])!r}: {message[:1].lower()}{message[1:]}")
    return sentences


def holds_secret(name: str) -> bool:
    """Whether a setting's name promises a secret. No setting does, but a user may have tried."""
    return re.search(r"key|token|secret|passw|credential|authori[sz]ation", name, re.IGNORECASE) is not None


def harmless(value: Any) -> Any:
    """A value given by a user as a message may repeat it: what stands under the name of a secret is left out."""
    if isinstance(value, dict):
        shown = list(value.items())[:SHOWN_ITEMS]
        return {name: "***" if holds_secret(str(name)) else harmless(inner) for name, inner in shown}
    if isinstance(value, int) and value.bit_length() > 256:  # Python writes none of thousands of digits
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, str):
        return value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "..."
    if isinstance(value, list | tuple):
        return [harmless(inner) for inner in value[:SHOWN_ITEMS]] + ["..."] * (len(value) > SHOWN_ITEMS)
    return value


def allowed_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys of the settings model found at this place of another one, such as ('data', 'sources', 0, 'files')."""
    found, tags = [model], set[str]()
    for part in path:
        if isinstance(part, int):
            continue
        of_kind = [m for m in found if any(m.model_fields[tag].default == part for tag in tags)]
        found, tags = (of_kind, set()) if of_kind else _below(found, part)
    return sorted({name for m in found for name in m.model_fields})


def tells_kind(models: Sequence[type[BaseModel]], path: Sequence[str]) -> bool:
    """Whether a setting, such as ('data', 'sources', '0', 'kind'), says of which kind those beside it are."""
    found, tags = list(models), set[str]()
    for part in path[:-1]:
        if not part.isdigit():
            found, tags = _below(found, part)
    return path[-1] in tags


def _below(models: Sequence[type[BaseModel]], name: str) -> tuple[list[type[BaseModel]], set[str]]:
    """The models that a setting of these may be of, and the names of the settings that tell those apart."""
    fields = [model.model_fields[name] for model in models if name in model.model_fields]
    found = [model for field in fields for model in _models_in(field.annotation)]
    return found, {tag for field in fields for tag in _tags_of(field)}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every settings model in a type such as tuple[A | B, ...] | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models_in(inner)]


def _tags_of(annotation: Any) -> list[str]:
    """Names of settings that tell the models of a type apart, such as 'kind' in tuple[Annotated[A | B, ...], ...]."""
    if isinstance(annotation, FieldInfo):
        own = [annotation.discriminator] if isinstance(annotation.discriminator, str) else []
        return own + _tags_of(annotation.annotation)
    return [tag for one in get_args(annotation) for tag in _tags_of(one)]


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], settings: dict[str, Any], origin: str) -> M:
    """Settings as this model, read from `origin` (a file name, said in errors).

    Raises: ConfigError: naming the field, the value, and what is allowed.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        faults = [fault[:SHOWN_SENTENCE] for fault in describe(error, model)]
        more = ["and more"] if error.error_count() > SHOWN_FAULTS else []
        raise ConfigError(f"{origin}: " + "; ".join(faults[:SHOWN_FAULTS] + more)) from None


def read_yaml(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The settings in a YAML file, or in one shipped with Hullward by its bare name ('quickstart').

    Raises: ConfigError: if the file is missing or does not hold settings.
    """
    file = Path(path)
    if not file.suffix and not file.exists():
        file = CONFIG_FOLDER / f"{path}.yaml"
    if not file.is_file():
        shipped = ", ".join(sorted(f.stem for f in CONFIG_FOLDER.glob("*.yaml")))
        raise ConfigError(f"{path}: no such settings file; shipped with Hullward: {shipped}")
    try:
        with file.open(encoding="utf-8-sig") as lines:
            settings = read_settings_text(lines.read(MAX_YAML_CHARACTERS + 1))
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"{file}: not readable: {error.strerror}") from None
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: holds a {type(settings).__name__}, expected settings as 'key: value' lines")
    return file, settings


def load(model: type[M], path: str | Path) -> M:
    """Settings from a YAML file, or from one shipped with Hullward by its bare name ('quickstart'), as this model.

    Raises: ConfigError: if the file is missing, is not YAML, or holds a wrong setting.
    """
    file, settings = read_yaml(path)
    return parse(model, settings, str(file))
