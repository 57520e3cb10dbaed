"""Writes docs/settings.md from the settings models themselves: `python -m configs.document > docs/settings.md`.

Every field carries its meaning and bounds (see configs/schema.py), so its documentation is made, not kept. A test holds
the file to what this module writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from configs.adaptive_cell_reproduction import (
    AdaptiveCellReproductionConfig,
    CompoundsConfig,
    KnownStructuresConfig,
    SiteData,
)
from configs.campaign import CampaignConfig, ElementList, SystemsRule
from configs.condition_reproduction import (
    AskedProperty,
    ConditionData,
    ConditionReproductionConfig,
    EnergiesConfig,
    FormulasConfig,
    PropertiesConfig,
    RelaxationsConfig,
)
from configs.dft_jobs import DftJobsConfig
from configs.evaluation import BenchmarkConfig, EvaluateConfig, GeneratorEntry, JudgeConfig
from configs.ingest import IngestConfig
from configs.judges import JudgedPotential, JudgesConfig
from configs.modification import ModifyConfig
from configs.rediscovery import ProposerEntry, RediscoveryConfig, SharedBudgetConfig
from configs.reproduction import DatasetEntry, GroundStateConfig, ReproductionConfig
from configs.schema import DiscoverConfig
from configs.unet_reproduction import PolymorphData, UNetReproductionConfig
from dft.campaign.config import DftConfig
from dft.engines.config import EngineConfig
from dft.engines.registry import AnyEngineConfig
from generative.config import GeneratorShare, LearnedGenerator, RunSampleConfig, SampleConfig
from generative.datasets.config import DataConfig, NetworkSource, Source
from generative.training.config import TrainConfig

HEAD = """\
# Settings

Every setting of a run, of a campaign, of an ingest, of a training, of an evaluation, of a reproduction, of a
modification and of DFT jobs, with its default, what is allowed, and what it means. This file is written by
`python -m configs.document > docs/settings.md` from the models that check the settings, and a test keeps the two equal.

A YAML file states only what differs from these defaults; `configs/*.yaml` are examples. A single setting is changed on
the command line by its dotted name: `hullward discover ternary --set sample.n_candidates=64`. A wrong name, type or
value is refused with one sentence that says what is allowed. [guide.md](guide.md) shows how they are used.
"""
RUN = """\
# A run

For `hullward discover FILE.yaml`, and the parameter `config` of the `discover` deployments.
"""
SOURCE = """\
`data.sources` is a list; each entry says its `kind`. On the command line an entry is named by its index, from 0:
`--set data.sources.0.limit=100`.
"""
SAMPLER = """\
Settings of the generator that `sample.checkpoint` holds; a setting that it does not know is refused by name.
"""
GENERATORS = """\
`sample.generators` is a list; each entry is a generator, and its candidates are its `share` of the sum of all shares.
[generator.md](generator.md#several-generators) shows how they are used.
"""
NETWORK = """\
Sources on the network, `materials-project`, `aflow` and `optimade`, share these settings; each one's own follow. Where
a kind has another default it is listed there. [ingest.md](ingest.md) shows how they are used.
"""
LEARNED = """\
`sample.learned` is a list that a [campaign whose proposers learn](campaigns.md#proposers-that-learn) writes into the
settings of its systems; no file of yours needs it.
"""
ENGINE = """\
What stands under `engine` depends on its `name`. [cluster.md](cluster.md) shows how engines are run.
"""
DFT_JOBS = """\
# DFT jobs of finished runs

The parameter `config` of the `dft` deployments. `dft` and its parts are those of a run.
"""
INGEST = """\
# An ingest

For `hullward ingest FILE.yaml`, and the parameter `config` of the `ingest` deployments. `data` and its parts, and
`relax`, are those of a run.
"""
TRAINING = """\
# A training

For `hullward train FILE.yaml --out FOLDER`, and the parameter `config` of the `train` deployment. `data` and its parts
are those of a run.
"""
EVALUATION = """\
# An evaluation

For `hullward evaluate`, whose options set them, and by `--set`. `relax`, `hull` and `execution` are those of a run.
[evaluation.md](evaluation.md) says what the protocols measure.
"""
BENCHMARK = """\
# A benchmark of generators

For `hullward benchmark generators FILE.yaml`, and the parameter `config` of the `benchmark` deployment; further
settings are those of an evaluation, and `sample` of a run.
"""
REDISCOVERY = """\
# A benchmark of rediscovery

For `hullward benchmark rediscovery FILE.yaml`, and the parameter `config` of the `rediscovery` deployments.
`conditions`, `screen`, `relax`, `hull` and `execution` are those of a run, `sample.n_candidates` and
`sample.chunk_size` too; `known` and `templates` are lists of sources of kind `files`.
[rediscovery.md](rediscovery.md) says what is measured.
"""
CAMPAIGN = """\
# A campaign

For `hullward campaign run FILE.yaml`, and the parameter `config` of the `campaign` deployments. `data`, `conditions`,
`screen`, `relax`, `hull`, `judge`, `phonons`, `inputs`, `store` and `execution` are those of a run, as are
`sample.n_candidates` and `sample.chunk_size`; `proposers` is a list of what stands in `sample.generators`.
[campaigns.md](campaigns.md) says how they work together.
"""
JUDGES = """\
# A benchmark of judges

For `hullward benchmark judges FILE.yaml`. `relax` and `execution` are those of a run; `crystals` and the list `phases`
are sources of kind `files`. [numbers.md](numbers.md#how-far-a-verdict-can-be-trusted) says what is measured.
"""
SYSTEM = """\
What stands under `system` depends on `kind`. [generator.md](generator.md) says more of the settings of `crystal-flow`.
"""

REPRODUCTION = """\
# A reproduction

For `hullward reproduce FILE.yaml`, and the parameter `config` of the `reproduce` deployment. `training` and `regressor`
are settings of a training; `sample`, `execution` and `relax`, which stands in `ground_state`, are those of a run.
[dp-cdvae.md](dp-cdvae.md) says what is measured.
"""

UNET_REPRODUCTION = """\
# A reproduction of conditional generation and modification

For `hullward reproduce FILE.yaml` with `paper: conditional-unet`, and the parameter `config` of the `reproduce`
deployments. `training` holds settings of a training; `sample` and `execution` are those of a run.
[conditional-unet.md](conditional-unet.md#the-papers-figures) says what is measured.
"""

ADAPTIVE_CELL_REPRODUCTION = """\
# A reproduction of the adaptive-cell model

For `hullward reproduce FILE.yaml` with `paper: adaptive-cell`, and the parameter `config` of the `reproduce`
deployments. `training` holds settings of a training; `sample`, `execution`, and `relax`, `data`, `hull` and `phonons`,
which stand in `known` and `compounds`, are those of a run.
[adaptive-cell.md](adaptive-cell.md#the-papers-results) says what is measured.
"""

CONDITION_REPRODUCTION = """\
# A reproduction of ConditionCDVAE+

For `hullward reproduce FILE.yaml` with `paper: condition-cdvae`, and the parameter `config` of the `reproduce`
deployments. `training`, `flow` and `judge` hold settings of a training; `sample`, `execution` and `relax` are those
of a run. [condition-cdvae.md](condition-cdvae.md#the-papers-results) says what is measured.
"""

MODIFICATION = """\
# A modification

For `hullward modify`, whose options set them, and by `--set`; and the parameter `config` of the flow `modify`.
`sample`, `screen`, `relax`, `phonons` and `execution` are those of a run.
[conditional-unet.md](conditional-unet.md#polymorphs-of-your-crystal) says what is done.
"""

BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "and below"}
UNBOUNDED = 2**31 - 1
"""A seed's upper bound is the machine's, not something to document."""

Schema = Mapping[str, Any]


def document() -> str:
    """All settings as Markdown: the text of docs/settings.md."""
    parts = [HEAD, RUN, *_sections(DiscoverConfig)]
    parts += [DFT_JOBS, _table(DftJobsConfig, "", skip=("dft",))]
    parts += [INGEST, *_sections(IngestConfig, skip=("data", "relax"))]
    parts += [TRAINING, _table(TrainConfig, "", skip=("data",))]
    parts += [f"## system\n\n{SYSTEM}", *_systems()]
    parts += [EVALUATION, *_sections(EvaluateConfig, skip=("relax", "hull", "execution"))]
    parts += [BENCHMARK, _table(BenchmarkConfig, "", skip=(*JudgeConfig.model_fields, "sample"))]
    parts.append(_table(GeneratorEntry, "generators."))
    shared = ("conditions", "screen", "relax", "hull", "execution", "sample")
    parts += [REDISCOVERY, _table(RediscoveryConfig, "", skip=(*shared, "shared_budget"))]
    parts += [_table(ProposerEntry, "proposers."), _table(SharedBudgetConfig, "shared_budget.")]
    of_run = tuple(name for name in CampaignConfig.model_fields if name in DiscoverConfig.model_fields)
    of_run = tuple(name for name in of_run if name not in ("name", "seed"))
    parts += [CAMPAIGN, *_sections(CampaignConfig, skip=of_run), "## rule\n", _table(SystemsRule, "rule.")]
    parts.append(_table(ElementList, "rule.lists."))
    parts += [JUDGES, _table(JudgesConfig, "", skip=("crystals", "relax", "execution"))]
    parts.append(_table(JudgedPotential, "potentials."))
    nested = ("training", "regressor", "sample", "ground_state", "execution")
    parts += [REPRODUCTION, _table(ReproductionConfig, "", skip=nested)]
    parts.append(_table(DatasetEntry, "datasets."))
    parts.append(_table(GroundStateConfig, "ground_state.", skip=("relax",)))
    parts += [UNET_REPRODUCTION, _table(UNetReproductionConfig, "", skip=("training", "sample", "execution"))]
    parts.append(_table(PolymorphData, "datasets."))
    nested = ("training", "sample", "execution", "known", "compounds")
    parts += [ADAPTIVE_CELL_REPRODUCTION, _table(AdaptiveCellReproductionConfig, "", skip=nested)]
    parts += [_table(SiteData, "datasets."), _table(KnownStructuresConfig, "known.", skip=("relax",))]
    parts.append(_table(CompoundsConfig, "compounds.", skip=("data", "relax", "hull", "phonons")))
    asked_for = ("relaxations", "energies", "formulas", "properties")
    of_others = ("training", "flow", "judge", "sample", "execution", *asked_for)
    parts += [CONDITION_REPRODUCTION, _table(ConditionReproductionConfig, "", skip=of_others)]
    parts += [_table(ConditionData, "datasets."), _table(AskedProperty, "datasets.properties.")]
    parts += [_table(RelaxationsConfig, "relaxations.", skip=("relax",)), _table(PropertiesConfig, "properties.")]
    parts += [_table(EnergiesConfig, "energies.", skip=("relax",)), _table(FormulasConfig, "formulas.")]
    parts += [MODIFICATION, _table(ModifyConfig, "", skip=("sample", "screen", "relax", "phonons", "execution"))]
    return "\n".join(parts)


def _sections(model: type[BaseModel], prefix: str = "", skip: tuple[str, ...] = ()) -> Iterator[str]:
    """A table of the model's own settings, then a section for every model inside it that is not skipped."""
    inner: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner[name] = kind
    heading = f"## {prefix.removesuffix('.')}\n\n{_about(model)}\n\n" if prefix else ""
    yield heading + _table(model, prefix, skip=tuple(name for name in inner if name != "engine"))
    if model is DftConfig:
        yield f"## dft.engine\n\n{ENGINE}"
        for engine in engine_models():
            name = engine.model_fields["name"].default
            yield f"### name: {name}\n\n{_about(engine)}\n\n{_table(engine, 'dft.engine.')}"
    if model is DataConfig:
        yield f"## data.sources\n\n{SOURCE}"
        (union, *_) = get_args(Source)
        databases = [source for source in get_args(union) if issubclass(source, NetworkSource)]
        for source in get_args(union):
            if source not in databases:
                yield _source(source)
        yield f"### databases on the network\n\n{NETWORK}\n{_table(NetworkSource, '')}"
        for database in databases:
            shared = set(NetworkSource.model_fields) - set(database.__annotations__)
            yield _source(database, skip=tuple(shared))
    if issubclass(model, SampleConfig):
        yield f"## sample.sampler\n\n{SAMPLER}"
        yield from _samplers()
    if model is RunSampleConfig:
        yield f"## sample.generators\n\n{GENERATORS}\n{_table(GeneratorShare, '')}"
        yield f"## sample.learned\n\n{LEARNED}\n{_table(LearnedGenerator, '')}"
    for name, nested in inner.items():
        if issubclass(nested, EngineConfig):
            continue
        if name not in skip:
            yield from _sections(nested, f"{prefix}{name}.")


def engine_models() -> list[type[EngineConfig]]:
    """The settings model of every DFT engine."""
    (union, *_) = get_args(AnyEngineConfig)
    return [model for model in (get_args(union) or (union,)) if issubclass(model, EngineConfig)]


def _samplers() -> Iterator[str]:
    """Settings of sampling of every system that has any, once for all that share them."""
    from generative.systems.registry import places, system_type  # loads torch

    owners: dict[type[BaseModel], list[str]] = {}
    for name in places():
        owners.setdefault(system_type(name).sampler_type, []).append(name)
    for model, names in owners.items():
        if model.model_fields:
            yield f"### sampler of {', '.join(names)}\n\n{_about(model)}\n\n{_table(model, 'sample.sampler.')}"


def _systems() -> Iterator[str]:
    """The settings of every system that can be trained; of those that are another's, what differs from it."""
    from generative.systems.registry import of_kind, system_type  # loads torch
    from generative.systems.trainable import Trainable

    above: dict[type[BaseModel], str] = {}
    for kind in of_kind(Trainable):
        config = system_type(kind).config_type
        base = next((model for model in config.__mro__ if model in above), None)
        text = f"### kind: {kind}\n\n{_about(config)}\n\n"
        if base is None:
            text += _table(config, "system.")
        else:
            stated, inherited = config.model_fields, base.model_fields
            same = [n for n, f in stated.items() if n in inherited and f.default == inherited[n].default]
            text += f"As `{above[base]}`" + (", but for:\n\n" if len(same) < len(stated) else ".\n")
            text += _table(config, "system.", skip=tuple(same)) if len(same) < len(stated) else ""
        above.setdefault(config, kind)
        yield text


def _source(source: type[BaseModel], skip: tuple[str, ...] = ()) -> str:
    return f"### kind: {source.model_fields['kind'].default}\n\n{_about(source)}\n\n{_table(source, '', skip)}"


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(model: type[BaseModel], prefix: str, skip: tuple[str, ...] = ()) -> str:
    schema = model.model_json_schema()
    lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    # A setting that a source inherits stands before its own; what names the source comes first all the same.
    for name, stated in sorted(schema["properties"].items(), key=lambda item: item[0] != "kind"):
        if name in skip:
            continue
        if name in ("kind", "name") and "const" in stated:
            what = "kind of source" if name == "kind" else "engine"
            default, allowed, meaning = "required", f"`{stated['const']}`", f"names the {what}"
        else:
            if name == "engine":
                stated = {**stated, "default": stated["default"]["name"], "oneOf": [], "$ref": ""}
            default = f"`{_text(stated['default'])}`" if "default" in stated else "required"
            allowed, meaning = _allowed(stated, schema.get("$defs", {})), " ".join(stated["description"].split())
        cells = (f"`{prefix}{name}`", default, allowed, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    """A default as it would stand in YAML."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _allowed(stated: Schema, definitions: Schema) -> str:
    """What a JSON schema allows, in a few words."""
    if stated.get("$ref"):
        return _allowed({**definitions[stated["$ref"].rpartition("/")[2]]}, definitions)
    if "anyOf" in stated:
        parts = [_allowed(option, definitions) for option in stated["anyOf"]]
        return "; or ".join(parts)
    if "oneOf" in stated:
        return "one of several kinds, see below"
    if "enum" in stated:
        return ", ".join(f"`{value}`" for value in stated["enum"])
    kind = stated.get("type")
    if kind == "null":
        return "`null`"
    if kind == "boolean":
        return "`true`, `false`"
    if kind in ("integer", "number"):
        noun = "whole number" if kind == "integer" else "number"
        return f"{noun}{_bounds(stated)}"
    if kind == "array":
        return _list_of(stated, definitions)
    if kind == "object":
        return "names and values, see below"
    return f"text of the form `{stated['pattern']}`" if "pattern" in stated else "text"


def _bounds(stated: Schema) -> str:
    said = []
    for key, word in BOUNDS.items():
        bound = stated.get(key)
        if bound is not None and bound < UNBOUNDED:
            said.append(f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:g}")
    return ", " + " ".join(said) if said else ""


def _list_of(stated: Schema, definitions: Schema) -> str:
    low, high = stated.get("minItems"), stated.get("maxItems")
    count = f" of {low} to {high}" if low and high else f" of at least {low}" if low else ""
    item = _allowed(stated.get("items", {}), definitions)
    return f"list{count} ({item})"


if __name__ == "__main__":
    sys.stdout.write(document())
