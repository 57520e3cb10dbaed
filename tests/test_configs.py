"""Settings: what is shipped can be read, what is wrong is said in one sentence, and Prefect is given the same."""

from __future__ import annotations

import ast
import importlib
import re
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pymatgen.core.composition import Composition

from configs.adaptive_cell_reproduction import AdaptiveCellReproductionConfig
from configs.campaign import CampaignConfig
from configs.command_line import IngestRequest, ingest_settings, run_settings, sample_changes, settings_of
from configs.dft_jobs import DftJobsConfig
from configs.evaluation import BenchmarkConfig, EvaluateConfig, GeneratorEntry
from configs.ingest import IngestConfig, parse_ingest
from configs.judges import JudgesConfig
from configs.modification import ModifyConfig
from configs.overrides import override
from configs.rediscovery import RediscoveryConfig
from configs.reproduction import AnyReproduction, ReproductionConfig
from configs.schema import ConfigError, DiscoverConfig, load, parse
from configs.unet_reproduction import UNetReproductionConfig
from dft.config import StoreConfig
from dft.engines.registry import AnyEngineConfig
from generative.config import ELEMENTS, SampleConfig
from generative.datasets.config import FilesSource, FilterConfig, Source
from generative.systems.cdvae.config import CDVAESampler
from generative.training.config import TrainConfig
from storage.settings import RoomConfig

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("flows", "tasks", "configs", "generative", "dft", "storage")
RUNS = ("quickstart", "ternary", "binary", "perovskite", "ta-w-b", "cu-si-k")
INGESTS = ("materials-project", "aflow", "optimade")
KEY = "Zq7PlantedKeyNobodyShouldSee"
BAD: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"sampel": {}}, ("sampel", "no such key", "did you mean 'sample'")),
    ({"sample": {"n_candidate": 3}}, ("sample.n_candidate", "3", "n_candidates")),
    ({"elements": ["Zz"]}, ("elements.0", "'Zz'", "from H to Lr")),
    ({"elements": ["Ta", "W", "Ta"]}, ("elements", "'Ta', 'W', 'Ta'", "once")),
    ({"elements": ["Ta", "B"], "conditions": {"n_elements_min": 3}}, ("conditions.n_elements_min", "3", "2")),
    ({"relax": {"fmax_ev_per_ang": -1}}, ("relax.fmax_ev_per_ang", "-1", "greater than 0")),
    ({"relax": {"fmax_ev_per_ang": "0.05 eV/A"}}, ("relax.fmax_ev_per_ang", "0.05 eV/A", "valid number")),
    ({"inputs": {"preset": "mp"}}, ("inputs.preset", "'mp'", "'mp-relax'", "'vdw'")),
    ({"data": {"sources": [{"kind": "web"}]}}, ("data.sources.0", "'web'", "'files', 'prototypes'")),
    (
        {"dft": {"engine": {"name": "potential", "command": "gpaw"}}},
        ("dft.engine.potential.command", "no such key", "expected one of", "max_steps", "potential"),
    ),
    ({"data": {"sources": []}}, ("data.sources", "[]", "at least 1")),
    ({"conditions": {"policy": "given"}}, ("formulas", "empty", "at least one")),
    ({"conditions": {"policy": "grid"}}, ("formulas", "'grid'", "at least one")),
    (
        {"conditions": {"policy": "sites", "formulas": ["TaB2"], "spacegroup": 191, "smact_filter": True}},
        ("smact_filter is true", "'sites'", "expected false"),
    ),
    ({"conditions": {"grid": {"spacegroups": [225, 0]}}}, ("conditions.grid", "[225, 0]", "1 to 230")),
    ({"conditions": {"spacegroup": 231}}, ("conditions.spacegroup", "231", "230")),
    ({"screen": {"volume_per_atom_min_ang3": 200}}, ("volume_per_atom_min_ang3", "200", "150")),
    ({"name": "My Run"}, ("name", "'My Run'", "[a-z0-9]")),
    (
        {"execution": {"task_runner": "ray"}},
        ("execution.task_runner", "'ray'", "'threads', 'processes', 'dask' or 'dask-slurm'"),
    ),
    (
        {"store": {"mongodb_uri_variable": "mongodb://u:p@h"}},
        ("mongodb_uri_variable", "NAME of an environment variable"),
    ),
]


@pytest.mark.parametrize(("settings", "said"), BAD, ids=[next(iter(s)) + str(i) for i, (s, _) in enumerate(BAD)])
def test_a_wrong_setting_is_one_sentence_with_field_value_and_what_is_allowed(
    settings: dict[str, Any], said: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError) as caught:
        load(DiscoverConfig, file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    for part in said:
        assert part in message
    assert "\n" not in message
    assert message.count(";") <= 1  # one fault, at most one remark on it


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"- a\n- b\n", "holds a list"), (b"a: [1\n", "not readable as YAML"), (b"\xff\xfe\x00", "not readable as YAML")],
)
def test_a_file_without_settings_is_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(DiscoverConfig, file)


def test_two_faults_are_both_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(DiscoverConfig, {"seed": -1, "elements": ["Zz", "B", "Qq"]}, "x.yaml")
    assert all(part in str(caught.value) for part in ("seed", "elements.0", "elements.2"))
    assert "elements is" not in str(caught.value)


def test_a_wrong_training_setting_names_the_training_keys() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_steps'"):
        parse(TrainConfig, {"max_step": 3}, "train.yaml")


@pytest.mark.parametrize("name", RUNS)
def test_shipped_settings_load_under_their_own_name(name: str) -> None:
    assert load(DiscoverConfig, name).name == name


def test_every_shipped_file_is_a_run_or_a_training_or_an_ingest() -> None:
    stems = {file.stem for file in (ROOT / "configs" / "presets").glob("*.yaml")}
    assert stems == {
        *RUNS,
        "train-adaptive-cell",
        "train-cdvae",
        "train-cgcnn-features",
        "train-condition-cdvae",
        "train-wyckoff",
        "train-hullward-wyckoff",
        "train-flow",
        "train-flow-start",
        "train-unet",
        "benchmark-generators",
        "rediscovery",
        "rediscovery-small",
        "campaign-borides",
        "campaign-small",
        "judges",
        "reproduce-dp-cdvae",
        "reproduce-unet",
        "ingest-bilayers",
        "vdw-bilayers",
        "reproduce-adaptive-cell",
        "reproduce-condition-cdvae",
        "reproduce-condition-cdvae-real",
        *(f"ingest-{name}" for name in INGESTS),
    }
    assert load(TrainConfig, "train-flow").name == "hullward-flow"
    assert load(TrainConfig, "train-cdvae").kind == "cdvae"
    assert load(TrainConfig, "train-condition-cdvae").kind == "condition-cdvae-energy"
    assert load(TrainConfig, "train-unet").kind == "unet-flow-uniform"
    assert load(ReproductionConfig, "reproduce-dp-cdvae").name == "dp-cdvae"
    assert load(UNetReproductionConfig, "reproduce-unet").paper == "conditional-unet"
    # What is compared is the network of the preset that trains it alone.
    reproduced = load(AdaptiveCellReproductionConfig, "reproduce-adaptive-cell").training_of_model()
    alone = load(TrainConfig, "train-adaptive-cell")
    assert (reproduced.system, reproduced.exclude) == (alone.system, alone.exclude)
    assert [s.path for s in reproduced.data.sources] == [s.path for s in alone.data.sources]  # type: ignore[union-attr]
    assert (reproduced.max_steps, reproduced.adam_lr, reproduced.ema) == (alone.max_steps, alone.adam_lr, alone.ema)
    assert load(RediscoveryConfig, "rediscovery").name == "large"
    assert load(RediscoveryConfig, "rediscovery-small").n_systems == 8
    assert load(JudgesConfig, "judges").labels is not None
    assert load(CampaignConfig, "campaign-small").systems == ("Ti-B", "Nb-B", "Nb-Ti-B")
    assert load(CampaignConfig, "campaign-borides").name == "borides"
    assert load(DiscoverConfig, "vdw-bilayers").relax.vacuum == "held"


@pytest.mark.parametrize("name", INGESTS)
def test_a_shipped_ingest_asks_the_database_of_its_name_and_asks_it_again_each_time(name: str) -> None:
    config = load(IngestConfig, f"ingest-{name}")
    assert config.name == name
    assert [source.kind for source in config.data.sources] == [name]
    assert config.data.refresh
    assert config.folder == Path("runs") / "datasets" / name


def test_an_ingest_of_a_runs_settings_reads_what_the_run_would_read() -> None:
    run, config = load(DiscoverConfig, "ternary"), ingest_settings(["ternary"], IngestRequest())
    assert (config.data, config.elements, config.relax) == (run.data, run.elements, run.relax)
    # A run may be told apart by the place of its work alone.
    narrow = parse_ingest({"elements": ["Ta", "B", "W"], "execution": {"max_workers": 2, "runs_folder": "x"}}, "f")
    assert narrow.folder == Path("x/datasets/quickstart")


def test_prefect_deploys_the_shipped_settings() -> None:
    assert "pull" not in PREFECT
    deployed = {entry["name"]: entry for entry in DEPLOYMENTS}
    files = {name: name for name in RUNS} | {name: f"ingest-{name}" for name in INGESTS}
    files |= {"flow": "train-flow", "flow-start": "train-flow-start", "generators": "benchmark-generators"}
    files |= {"small": "rediscovery-small", "large": "rediscovery"}
    files |= {"borides": "campaign-borides", "borides-small": "campaign-small"}
    files |= {"dp-cdvae": "reproduce-dp-cdvae", "conditional-unet": "reproduce-unet"}
    files |= {"adaptive-cell": "reproduce-adaptive-cell", "condition-cdvae": "reproduce-condition-cdvae"}
    files |= {"condition-cdvae-real": "reproduce-condition-cdvae-real"}
    assert set(deployed) == {*files, "submit", "collect", "metastable"}
    assert ModifyConfig.model_validate(deployed["metastable"]["parameters"]["config"]).limit == 10
    # A step that comes due while another is at work would find nothing to do.
    for name, strategy in (("submit", "ENQUEUE"), ("collect", "CANCEL_NEW")):
        assert DftJobsConfig.model_validate(deployed[name]["parameters"]["config"]).action == name
        assert deployed[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": strategy}
    for name, file in files.items():
        written = yaml.safe_load((ROOT / "configs" / "presets" / f"{file}.yaml").read_text(encoding="utf-8"))
        assert deployed[name]["parameters"] == {"config": written}
        assert deployed[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    schedules = {entry["name"]: [s["active"] for s in entry.get("schedules", [])] for entry in DEPLOYMENTS}
    assert {name: active for name, active in schedules.items() if active} == {
        name: [False] for name in ("ternary", "borides", *INGESTS, "collect")
    }


@pytest.mark.parametrize(
    "model",
    [
        DiscoverConfig,
        TrainConfig,
        IngestConfig,
        EvaluateConfig,
        BenchmarkConfig,
        ReproductionConfig,
        AdaptiveCellReproductionConfig,
        ModifyConfig,
        DftJobsConfig,
        RediscoveryConfig,
        JudgesConfig,
        CampaignConfig,
    ],
)
def test_every_field_of_the_form_says_what_it_is(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    rooms = {model.__name__: schema, **schema["$defs"]}
    silent = [
        f"{room}.{name}"
        for room, stated in rooms.items()
        for name, field in stated.get("properties", {}).items()
        if not field.get("description") and "const" not in field
    ]
    assert not silent


FORMS: dict[str, Any] = {
    "benchmark": BenchmarkConfig, "campaign": CampaignConfig, "dft": DftJobsConfig, "discover": DiscoverConfig,
    "ingest": IngestConfig, "modify": ModifyConfig, "rediscovery": RediscoveryConfig, "reproduce": AnyReproduction,
    "train": TrainConfig,
}  # fmt: skip


def filled_in(value: Any, field: dict[str, Any], kinds: dict[str, Any]) -> Any:
    """What the form of Prefect 3.8's UI sends of a value that it begins with.

    Of several kinds it takes the one that has most of the value's keys, of equals the first, and adds its defaults.
    """
    field = {**kinds.get(field.get("$ref", "").rpartition("/")[2], {}), **field}
    if isinstance(value, dict):
        choices = [{**kinds.get(c.get("$ref", "").rpartition("/")[2], {}), **c} for c in field.get("anyOf", ())]
        choices += [{**kinds[c["$ref"].rpartition("/")[2]], **c} for c in field.get("oneOf", ())]
        field = max([field, *choices], key=lambda kind: len(set(value) & set(kind.get("properties", ()))))
        stated = {name: inner["default"] for name, inner in field.get("properties", {}).items() if "default" in inner}
        return {n: filled_in(v, field.get("properties", {}).get(n, {}), kinds) for n, v in {**stated, **value}.items()}
    if isinstance(value, list):
        return [filled_in(one, field.get("items", {}), kinds) for one in value]
    return value


PREFECT = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = PREFECT["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda entry: entry["name"])
def test_the_form_of_a_deployment_sends_what_the_deployment_says(deployment: dict[str, Any]) -> None:
    settings = TypeAdapter(FORMS[deployment["entrypoint"].rpartition(":")[2]])
    schema, stated = settings.json_schema(), deployment["parameters"]["config"]
    assert settings.validate_python(filled_in(stated, schema, schema["$defs"])) == settings.validate_python(stated)


def test_labels_of_the_form_are_names_with_units_and_choices_say_what_they_are() -> None:
    kinds = DiscoverConfig.model_json_schema()["$defs"]
    screen, files = kinds["ScreenConfig"]["properties"], kinds["FilesSource"]["properties"]
    assert screen["volume_per_atom_min_ang3"]["title"] == "Volume per atom min (Å³)"
    assert kinds["FilterConfig"]["properties"]["e_above_hull_max_ev_per_atom"]["title"] == "E above hull max (eV/atom)"
    assert kinds["SubmissionConfig"]["properties"]["memory_mb_per_thread"]["title"] == "Memory per thread (MB)"
    assert kinds["SubmissionConfig"]["properties"]["processes_per_node"]["title"] == "Processes per node"
    assert DiscoverConfig.model_json_schema()["properties"]["phonons"]["title"] == "Phonons"
    assert CampaignConfig.model_json_schema()["properties"]["rule"]["title"] == "Rule"
    assert [choice["title"] for choice in files["limit"]["anyOf"]] == ["whole number", "null"]
    assert [kinds[name]["title"] for name in ("MaterialsProjectSource", "VaspEngineConfig")] == [
        "Materials Project source", "VASP engine",
    ]  # fmt: skip


def test_single_settings_reach_into_sections_and_lists_and_leave_the_original_alone() -> None:
    settings = {"sample": {"n_candidates": 3}, "data": {"sources": [{"path": "a"}, {"path": "b"}]}}
    assigned = [
        "sample.n_candidates=32",
        "data.sources.1.path=c",
        "conditions.formulas=[TaB, W2B]",
        "relax.fallback=null",
    ]
    changed = override(settings, assigned)
    assert changed["sample"] == {"n_candidates": 32}
    assert changed["data"]["sources"] == [{"path": "a"}, {"path": "c"}]
    assert changed["conditions"]["formulas"] == ["TaB", "W2B"]
    assert changed["relax"] == {"fallback": None}
    assert settings == {"sample": {"n_candidates": 3}, "data": {"sources": [{"path": "a"}, {"path": "b"}]}}


OF_KINDS = {
    "dft.engine.name": get_args(get_args(AnyEngineConfig)[0]),
    "data.sources.1.kind": get_args(get_args(Source)[0]),
}


def with_kind(name: str, kind: BaseModel) -> dict[str, Any]:
    """A run's settings, all of them stated, with settings of this kind where the name is."""
    here = kind.model_dump(mode="json")
    if name.startswith("dft"):
        given = {"dft": {"engine": here}}
    else:
        given = {"data": {"sources": [{"kind": "prototypes"}, here]}}
    return DiscoverConfig.model_validate({"name": "x", "elements": ["Al", "N"], **given}).model_dump(mode="json")


def of_kind(model: type[BaseModel]) -> BaseModel:
    required = {"path": "assets:x.csv", "provider": "mp"}
    return model.model_validate({key: value for key, value in required.items() if key in model.model_fields})


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [(name, old, new) for name, kinds in OF_KINDS.items() for old, new in permutations(kinds, 2)],
)
def test_settings_of_a_kind_begin_anew_where_another_kind_is_assigned(
    name: str, old: type[BaseModel], new: type[BaseModel]
) -> None:
    tag, wanted = name.split(".")[-1], of_kind(new)
    stated = with_kind(name, of_kind(old))
    given = [f"{name}={getattr(wanted, tag)}"]
    own = [key for key in ("path", "provider") if key in new.model_fields]
    given += [f"{name.removesuffix(tag)}{key}={getattr(wanted, key)}" for key in own]
    for assignments in permutations(given):
        changed = parse(DiscoverConfig, override(stated, assignments, DiscoverConfig), "x")
        assert changed == DiscoverConfig.model_validate(with_kind(name, wanted))
    same = [f"{name}={getattr(of_kind(old), tag)}"]
    assert override(stated, same, DiscoverConfig) == stated


@pytest.mark.parametrize("assignment", ["n=", "=3", "sample", "a..b=1", "seed.x=1", "data.sources.7.path=x", "name=[1"])
def test_a_single_setting_of_another_form_is_refused(assignment: str) -> None:
    settings = {"seed": 1, "name": "x", "data": {"sources": [{"path": "a"}]}}
    if assignment == "n=":  # an empty value is YAML's null, and n is no setting
        with pytest.raises(ConfigError, match="no such key"):
            parse(DiscoverConfig, override(settings, [assignment]), "x")
        return
    with pytest.raises(ConfigError, match="--set"):
        override(settings, [assignment])


def test_a_chemical_system_alone_has_the_known_crystals_that_are_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HULLWARD_ASSETS", str(tmp_path))
    bare = run_settings("Nb-Mo-B", {"seed": 3}, ["sample.n_candidates=5"])
    assert (bare.name, bare.elements, bare.seed) == ("b-mo-nb", ("Nb", "Mo", "B"), 3)
    assert [source.kind for source in bare.data.sources] == ["prototypes"]
    assert bare.sample.n_candidates == 5
    for source in load(DiscoverConfig, "ternary").data.sources:
        if isinstance(source, FilesSource):
            (tmp_path / source.path.removeprefix("assets:")).parent.mkdir(exist_ok=True)
            (tmp_path / source.path.removeprefix("assets:")).touch()
    assert run_settings("Li-Fe-P-O", {}, None).data == load(DiscoverConfig, "ternary").data
    assert run_settings("Li", {"name": "lithium"}, None).name == "lithium"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Ta").write_text("name: of-a-file")
    assert run_settings("Ta", {}, None).name == "of-a-file"


def test_a_run_of_other_elements_than_the_files_is_named_by_its_system_unless_it_has_a_name() -> None:
    def name_of(*assigned: str, **changes: Any) -> str:
        return run_settings("ternary", {"name": None, **changes}, list(assigned)).name

    assert name_of() == "ternary"
    assert name_of(elements=["Nb", "Mo", "B"]) == name_of(elements=["B", "Nb", "Mo"]) == "b-mo-nb"
    assert name_of(elements=["W", "Ta", "B"]) == "ternary"  # the file's own system
    assert name_of(elements=["Nb", "Mo", "B"], name="mine") == "mine"
    assert name_of("name=stated", elements=["Nb", "Mo", "B"]) == "stated"


def test_formulas_alone_make_the_chemical_system() -> None:
    config = settings_of(sample_changes(["TaBW", "W2B"], [], None), None)
    assert config.elements == ("B", "Ta", "W")
    assert config.conditions.policy == "given"
    sites = settings_of(sample_changes([], [], 191, sites=["TaWB2", "TaB"]), None)
    assert (sites.elements, sites.conditions.policy) == (("B", "Ta", "W"), "sites")
    assert (sites.conditions.formulas, sites.conditions.spacegroup) == (("TaWB2", "TaB"), 191)
    asked = settings_of(sample_changes([], ["Ta", "B"], 194, -0.4), ["conditions.policy=likely"]).conditions
    assert (asked.spacegroup, asked.formation_energy_ev_per_atom) == (194, -0.4)
    assert (asked.policy, asked.n_elements(2)) == ("likely", (2, 2))


def test_files_given_to_ingest_are_not_restricted_unless_asked() -> None:
    config = ingest_settings(["a.csv", "b"], IngestRequest(method="PBE"))
    assert config.elements is None
    assert [(source.kind, source.method) for source in config.data.sources] == [("files", "PBE"), ("files", "PBE")]
    assert ingest_settings(["a.csv"], IngestRequest(elements=["Ta", "B"])).elements == ("Ta", "B")
    with pytest.raises(ConfigError, match="--elements"):
        ingest_settings(["prototypes"], IngestRequest())


def test_databases_are_named_by_one_word_and_a_file_of_that_name_by_its_path() -> None:
    words = ["materials-project", "aflow", "optimade:alexandria", "./aflow", "prototypes"]
    config = ingest_settings(words, IngestRequest(elements=["Ta", "W", "B"]))
    assert [source.kind for source in config.data.sources] == [
        *("materials-project", "aflow", "optimade", "files", "prototypes")
    ]
    assert config.data.sources[2].provider == "alexandria"
    with pytest.raises(ConfigError, match="optimade:alexandria"):
        ingest_settings(["optimade"], IngestRequest())


def test_options_of_an_ingest_reach_the_sources_they_belong_to() -> None:
    asked = IngestRequest(
        limit=7,
        where='elements HAS "Ta"',
        endpoint="http://127.0.0.1:1/v1",
        formulas=("TaB2",),
        refresh=True,
        merge=True,
    )
    data = ingest_settings(["optimade:alexandria", "a.csv"], asked).data
    database, file = data.sources
    assert (database.limit, database.where, database.endpoint) == (7, 'elements HAS "Ta"', "http://127.0.0.1:1/v1")
    assert file.limit == 7
    assert (data.filters.formulas, data.refresh, data.merge) == (("TaB2",), True, True)
    with pytest.raises(ConfigError, match="--where belongs to one database, but the sources name 2"):
        ingest_settings(["aflow", "optimade:mp"], IngestRequest(where="x"))
    with pytest.raises(ConfigError, match="--endpoint belongs to one database, but the sources name 0"):
        ingest_settings(["a.csv"], IngestRequest(endpoint="http://h"))


def test_options_stand_above_a_settings_file_and_single_settings_above_options(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ndata: {sources: [{kind: aflow, limit: 3}], filters: {n_atoms_max: 9}}\n")
    config = ingest_settings([str(file)], IngestRequest(limit=5, formulas=("TaB",)), ["data.filters.n_atoms_max=8"])
    assert config.data.sources[0].limit == 5
    assert (config.data.filters.n_atoms_max, config.data.filters.formulas) == (8, ("TaB",))
    assert ingest_settings(["ingest-aflow"], IngestRequest(name="other")).name == "other"
    with pytest.raises(ConfigError, match="must stand alone"):
        ingest_settings([str(file), "aflow"], IngestRequest())


SLIPS: list[tuple[dict[str, Any], list[str]]] = [
    ({"api_key": KEY}, []),
    ({"data": {"sources": [{"kind": "materials-project", "api_key": KEY}]}}, []),
    ({"data": {"sources": [{"kind": "materials-project", "headers": {"X-API-KEY": KEY}}]}}, []),
    ({"data": {"sources": [{"MP_API_KEY": KEY}]}}, []),
    ({"data": {"token": [KEY]}}, []),
    ({"data": {"sources": [{"kind": "aflow", "endpoint": f"https://user:{KEY}@host/"}]}}, []),
    ({"data": {"sources": [{"kind": "aflow", "endpoint": f"https://host/?api_key={KEY}"}]}}, []),
    ({}, [f"api_key={KEY}"]),
    ({}, [f"data.client_secret=[{KEY}"]),
    ({}, [f"MP_API_KEY {KEY}"]),
    ({}, [f"data={{password: {KEY}"]),
    ({"api_key": KEY}, ["api_key.value=1"]),
    ({"name": "x"}, [f"name.api_key={KEY}"]),
]


@pytest.mark.parametrize(("settings", "assignments"), SLIPS, ids=range(len(SLIPS)))
@pytest.mark.parametrize("reader", [parse_ingest, partial(parse, DiscoverConfig), partial(parse, TrainConfig)])
def test_a_key_written_among_the_settings_is_refused_and_not_repeated(
    settings: dict[str, Any], assignments: list[str], reader: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        reader(override(settings, assignments), "f.yaml")
    assert KEY not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # a traceback shows no more


def test_a_file_with_a_key_that_is_no_yaml_is_refused_without_repeating_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"name: x\napi_key: {KEY}: y\n")
    with pytest.raises(ConfigError, match=r"mapping values are not allowed here \(line 2, column") as caught:
        load(IngestConfig, file)
    assert KEY not in str(caught.value)


def settings_models() -> list[type[RoomConfig]]:
    """Every settings model of every room: the modules that derive one are imported, then asked."""
    for file in (file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))):
        classes = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.ClassDef)]
        if any(re.search(r"Config\b|Settings\b|Entry\b", ast.unparse(base)) for node in classes for base in node.bases):
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    found, waiting = [], [RoomConfig]
    while waiting:
        waiting += (model := waiting.pop()).__subclasses__()
        found.append(model)
    return [model for model in found if model.__module__.split(".")[0] in ROOMS]


def test_no_settings_model_of_any_room_repeats_what_it_refuses() -> None:
    models = settings_models()
    assert {StoreConfig, IngestConfig, TrainConfig, DiscoverConfig} <= set(models)
    assert len(models) > 40
    repeating = []
    for model in models:
        for refused in ({"password": KEY}, {name: [{"password": KEY}] for name in model.model_fields}):
            try:
                model.model_validate(refused)
            except ValidationError as error:
                repeating += [model.__name__] * (KEY in str(error))
    assert not repeating


def test_every_settings_model_has_the_one_base() -> None:
    # What derives from pydantic's own base is a record in a file or a result, never settings.
    others = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for room in ROOMS
        for file in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "BaseModel" for base in node.bases)
    ]
    assert [name for name in others if re.search("Config|Settings|Sampler|Source", name)] == [
        "storage/settings.py: RoomConfig"
    ]


BEFORE = {"checkpoint": "mine", "n_candidates": 8, "chunk_size": 4, "n_steps": 50, "velocity_slope": 5.0}
"""The beginning of `sample` as versions wrote it in which all systems shared their settings: defaults included."""


@pytest.mark.parametrize(
    ("changed", "sampler"),
    [
        ({}, {}),
        ({"n_steps": 20, "churn": 0.1, "guidance": 2.0}, {"n_steps": 20, "guidance": 2.0}),
        ({"denoising": CDVAESampler().model_dump()}, {}),
        ({"denoising": {**CDVAESampler().model_dump(), "stride": 7}}, {"stride": 7}),
        ({"denoising": {"stride": 7}, "sampler": {"stride": 3}}, {"stride": 3}),
    ],
)
def test_settings_of_samplers_that_an_earlier_version_wrote_are_read(
    changed: dict[str, Any], sampler: dict[str, Any]
) -> None:
    found = SampleConfig.model_validate({**BEFORE, **changed})
    assert found.sampler == sampler
    assert (found.checkpoint, found.n_candidates, found.chunk_size) == ("mine", 8, 4)
    assert SampleConfig.model_validate(found.model_dump()) == found


def test_steps_of_a_compared_generator_that_an_earlier_version_wrote_are_read() -> None:
    entry = {"name": "one", "checkpoint": "here"}
    assert GeneratorEntry.model_validate({**entry, "n_steps": 20}).sampler == {"n_steps": 20}
    assert GeneratorEntry.model_validate({**entry, "n_steps": None}).sampler == {}


def test_every_formula_that_pymatgen_writes_can_be_named_in_a_filter() -> None:
    rng = np.random.default_rng(0)
    written = set()
    for _ in range(500):
        chosen = rng.choice(len(ELEMENTS), rng.integers(1, 5), replace=False)
        counts = {ELEMENTS[i]: int(rng.integers(1, 9)) for i in chosen}
        written.add(str(Composition(counts).reduced_formula))
    assert any("(" in formula for formula in written)
    kept = FilterConfig(formulas=tuple(sorted(written))).formulas
    assert kept is not None
    assert set(kept) == written
    for wrong in ("Xx2", "Ti2(AlN", "Ti(2)", "", "TiO2.5", "ti2", "()3"):
        with pytest.raises(ValueError, match="is no formula"):
            FilterConfig(formulas=(wrong,))
