"""Settings: what is shipped can be read, what is wrong is said in one sentence, and Prefect is given the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.options import ingest_settings, sample_changes, settings_of
from configs.overrides import override
from configs.schema import ConfigError, DiscoverConfig, load, parse
from configs.training import load_training, parse_training
from generative.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("quickstart", "ternary", "binary", "perovskite")
BAD: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"sampel": {}}, ("sampel", "no such key", "did you mean 'sample'")),
    ({"sample": {"n_candidate": 3}}, ("sample.n_candidate", "3", "n_candidates")),
    ({"elements": ["Zz"]}, ("elements.0", "'Zz'", "from H to Lr")),
    ({"elements": ["Ta", "W", "Ta"]}, ("elements", "'Ta', 'W', 'Ta'", "once")),
    ({"elements": ["Ta", "B"]}, ("conditions.n_elements_min", "3", "2")),
    ({"relax": {"fmax_ev_per_ang": -1}}, ("relax.fmax_ev_per_ang", "-1", "greater than 0")),
    ({"relax": {"fmax_ev_per_ang": "0.05 eV/A"}}, ("relax.fmax_ev_per_ang", "0.05 eV/A", "valid number")),
    ({"inputs": {"preset": "mp"}}, ("inputs.preset", "'mp'", "'mp-relax'", "'vdw'")),
    ({"data": {"sources": [{"kind": "web"}]}}, ("data.sources.0", "'web'", "'files', 'prototypes'")),
    ({"data": {"sources": []}}, ("data.sources", "[]", "at least 1")),
    ({"conditions": {"policy": "given"}}, ("formulas", "empty", "at least one")),
    ({"conditions": {"spacegroup": 231}}, ("conditions.spacegroup", "231", "230")),
    ({"screen": {"volume_per_atom_min_ang3": 200}}, ("volume_per_atom_min_ang3", "200", "150")),
    ({"name": "My Run"}, ("name", "'My Run'", "[a-z0-9]")),
    ({"execution": {"task_runner": "ray"}}, ("execution.task_runner", "'ray'", "'threads', 'processes' or 'dask'")),
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
        load(file)
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
        load(file)


def test_two_faults_are_both_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"seed": -1, "elements": ["Zz", "B", "Qq"]}, "x.yaml")
    assert all(part in str(caught.value) for part in ("seed", "elements.0", "elements.2"))
    assert "elements is" not in str(caught.value)


def test_a_wrong_training_setting_names_the_training_keys() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_steps'"):
        parse_training({"max_step": 3}, "train.yaml")


@pytest.mark.parametrize("name", RUNS)
def test_shipped_settings_load_under_their_own_name(name: str) -> None:
    assert load(name).name == name


def test_every_shipped_file_is_either_a_run_or_a_training() -> None:
    stems = {file.stem for file in (ROOT / "configs").glob("*.yaml")}
    assert stems == {*RUNS, "train-flow", "train-flow-start"}
    assert load_training("train-flow").name == "hullward-flow"


def test_prefect_deploys_the_shipped_settings() -> None:
    stated = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    deployed = {entry["name"]: entry for entry in stated["deployments"]}
    assert set(deployed) == {*RUNS, "flow", "flow-start"}
    for name in deployed:
        file = name if name in RUNS else f"train-{name}"
        written = yaml.safe_load((ROOT / "configs" / f"{file}.yaml").read_text(encoding="utf-8"))
        assert deployed[name]["parameters"] == {"config": written}
        assert deployed[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert "pull" not in stated
    schedules = [s for entry in stated["deployments"] for s in entry.get("schedules", [])]
    assert [s["active"] for s in schedules] == [False]


@pytest.mark.parametrize("model", [DiscoverConfig, TrainConfig])
def test_every_field_of_the_form_says_what_it_is(model: type[DiscoverConfig] | type[TrainConfig]) -> None:
    schema = model.model_json_schema()
    rooms = {model.__name__: schema, **schema["$defs"]}
    silent = [
        f"{room}.{name}"
        for room, stated in rooms.items()
        for name, field in stated.get("properties", {}).items()
        if not field.get("description") and "const" not in field
    ]
    assert not silent


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


@pytest.mark.parametrize("assignment", ["n=", "=3", "sample", "a..b=1", "seed.x=1", "data.sources.7.path=x", "name=[1"])
def test_a_single_setting_of_another_form_is_refused(assignment: str) -> None:
    settings = {"seed": 1, "name": "x", "data": {"sources": [{"path": "a"}]}}
    if assignment == "n=":  # an empty value is YAML's null, and n is no setting
        with pytest.raises(ConfigError, match="no such key"):
            parse(override(settings, [assignment]), "x")
        return
    with pytest.raises(ConfigError, match="--set"):
        override(settings, [assignment])


def test_formulas_alone_make_the_chemical_system() -> None:
    config = settings_of(sample_changes(["TaBW", "W2B"], [], None), None)
    assert config.elements == ("B", "Ta", "W")
    assert config.conditions.policy == "given"


def test_files_given_to_ingest_are_not_restricted_unless_asked() -> None:
    config, system = ingest_settings(["a.csv", "b"], None, "PBE", None, None)
    assert system is None
    assert [source.kind for source in config.data.sources] == ["files", "files"]
    assert ingest_settings(["a.csv"], ["Ta", "B"], "PBE", None, None)[1] == ("Ta", "B")
    with pytest.raises(ConfigError, match="--elements"):
        ingest_settings(["prototypes"], None, "PBE", None, None)
