"""`hullward evaluate` and the flow `benchmark`: what goes to standard output, exit codes, what is not made twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from configs.evaluation import BenchmarkConfig, EvaluateConfig
from configs.schema import ConfigError, load, parse
from flows.cli import evaluate as evaluate_commands
from tests.flows.conftest import known_phases
from tests.servers.real import real_records

ROOT = Path(__file__).resolve().parents[2]
runner = CliRunner()
app = typer.Typer()
evaluate_commands.register(app)


@app.callback()
def root() -> None:
    """Makes `evaluate` a command beside others, as it is in the whole application."""


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of CIFs: reference/ of eight small real crystals, samples/ of the same and a broken one."""
    folder = tmp_path_factory.mktemp("crystals")
    small = [r for r in real_records(200) if len(r.structure) <= 4][:8]
    for name in ("reference", "samples"):
        (folder / name).mkdir()
        for record in small:
            record.structure.to(str(folder / name / f"{record.material_id}.cif"))
    (folder / "samples" / "zz.cif").write_text("data_x\n_cell_length_a 3\n")
    return folder


def test_results_are_json_on_standard_output_and_files_in_the_folder(crystals: Path, tmp_path: Path) -> None:
    reference = str(crystals / "reference")
    command = ["evaluate", str(crystals / "samples"), "--reference", reference, "--protocol", "airi", "--json"]
    done = runner.invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    (accuracy,) = [f for f in document["figures"] if f["name"] == "accuracy"]
    assert accuracy["value"] == 100.0
    assert accuracy["n"] == 8
    assert accuracy["settings"]["compared_by"] == "id"
    assert document["inputs"]["samples"]["n_records"] == 9
    assert document["inputs"]["samples"]["n_crystals"] == 8
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["figures"] == document["figures"]
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {
        "evaluation.json", "evaluation.md", "evaluation.html", "per_sample.parquet", "distributions.png",
    }  # fmt: skip


def test_a_table_is_shown_with_what_was_not_computed(crystals: Path, tmp_path: Path) -> None:
    done = runner.invoke(app, ["evaluate", str(crystals / "samples"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "9 samples, 1 of them no crystals" in done.stdout
    assert "evaluation.html" in done.stdout
    assert "cdvae generation was not computed" in done.stderr
    assert "add --reference" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--protocol", "cdvea"], 2, "'cdvae'"),
        (["--dataset", "mp20"], 2, "'mp-20'"),
        (["--targets", "name"], 2, "'index'"),
        (["--set", "relax.max_step=3"], 2, "max_steps"),
        (["--set", "cov_struct_cutoff=0.4"], 2, "needs both or neither"),
        (["--protocol", "airi"], 1, "add --reference"),
        (["--reference", "nowhere.csv"], 1, "no such file"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    arguments: list[str], code: int, said: str, crystals: Path, tmp_path: Path
) -> None:
    done = runner.invoke(app, ["evaluate", str(crystals / "samples"), "--out", str(tmp_path / "out"), *arguments])
    assert done.exit_code == code
    assert said in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_or_holds_nothing_fails_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "header.csv").write_text("material_id,cif\n")
    for path, said in (("nowhere.csv", "nowhere.csv"), (str(tmp_path / "header.csv"), "holds no record")):
        done = runner.invoke(app, ["evaluate", path, "--out", str(tmp_path / "out")])
        assert done.exit_code == 1
        assert said in done.stderr


def test_the_command_is_known_without_loading_what_it_needs() -> None:
    code = (
        "import sys, typer; from flows.cli import evaluate; evaluate.register(typer.Typer()); "
        "print([m for m in ('torch', 'prefect', 'pymatgen', 'pyarrow', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A benchmark of stored crystals drawn again, and of a generator that is not there."""
    return {
        "name": "tiny",
        "reference": str(tmp_path / "known"),
        "train": str(tmp_path / "known"),
        "protocols": ["cdvae"],
        "n_drawn": 3,
        "n": 6,
        "generators": [
            {"name": "copies", "checkpoint": str(tmp_path / "copies")},
            {"name": "absent", "checkpoint": str(tmp_path / "absent"), "missing": "skip"},
        ],
        "execution": {"runs_folder": str(tmp_path / "runs"), "torch_threads": 1, "device": "cpu"},
        **changes,
    }


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """known/, nine crystals; copies/, the checkpoint of a generator that holds them."""
    from tasks.train.baselines import make_baseline

    folder = tmp_path_factory.mktemp("copies")
    (folder / "known").mkdir()
    for name, structure in known_phases().items():
        structure.to(str(folder / "known" / f"{name}.cif"))
    make_baseline("training-copies", str(folder / "known"), folder / "copies")
    return folder


def test_a_generator_that_copies_the_test_set_matches_all_of_it_and_is_not_judged_twice(copies: Path) -> None:
    from tasks.evaluate.benchmark import compare, draw_samples, judge_samples, missing_reason, targets_of

    config = BenchmarkConfig.model_validate(settings(copies))
    entry, absent = config.generators
    assert missing_reason(entry) == ""
    reason = missing_reason(absent)
    assert "absent" in reason
    assert len(targets_of(config)) == 6
    samples = draw_samples(config, entry)
    judged = judge_samples(config, entry, samples, lambda what, done, total: None)
    assert (samples.reused, judged.reused) == (False, False)
    page = compare(config, [judged], {absent.name: reason})
    document = json.loads((page.parent / "benchmark.json").read_text())
    figures = {(f["protocol"], f["name"]): f for f in document["generators"]["copies"]["figures"]}
    assert figures["cdvae reconstruction", "match rate"]["value"] == 100.0
    assert figures["cdvae reconstruction", "match rate"]["n"] == 6
    assert figures["cdvae generation", "COV-P"]["value"] == 100.0
    assert "6 drawn with seed 0" in figures["cdvae generation", "COV-R"]["settings"]["reference"]
    sampling = document["generators"]["copies"]["sampling"]
    assert sampling["n"] == 6
    assert sampling["crystals_per_second"] > 0
    text = page.read_text()
    assert "absent was left out" in text
    assert 'href="copies/evaluation.html"' in text
    assert (page.parent / "copies" / "evaluation.html").is_file()
    assert "<script" not in text
    again = draw_samples(config, entry)
    assert again.reused
    assert judge_samples(config, entry, again, lambda what, done, total: None).reused
    other = config.model_copy(update={"seed": 1})
    assert not draw_samples(other, entry).reused


def test_several_crystals_of_a_composition_are_drawn_and_judged_by_the_best_of_the_first_k(
    copies: Path,
) -> None:
    from tasks.evaluate.benchmark import draw_samples, judge_samples

    config = BenchmarkConfig.model_validate(settings(copies, name="several", n_per_target=2, sample={"chunk_size": 3}))
    entry = config.generators[0]
    samples = draw_samples(config, entry)
    ids = samples.read().column("id").to_pylist()
    assert len(ids) == 12
    assert [name.partition("#")[0] for name in ids[::2]] == [name.partition("#")[0] for name in ids[1::2]]
    assert [name.partition("#")[2] for name in ids] == ["", "2"] * 6
    judged = judge_samples(config, entry, samples, lambda what, done, total: None)
    figures = {(f["protocol"], f["name"]): f for f in json.loads(judged.path.read_text())["figures"]}
    assert figures["cdvae reconstruction", "match rate, best of 1"]["n"] == 6
    assert figures["cdvae reconstruction", "match rate"]["value"] == 100.0
    in_train = figures["reconstruction by part", "match rate, best of 2, formula in train"]
    assert (in_train["value"], in_train["n"]) == (100.0, 6)
    assert figures["reconstruction by part", "match rate, best of 2, formula not in train"]["n"] == 0


def test_a_checkpoint_that_must_be_there_stops_the_benchmark(copies: Path) -> None:
    from generative.checkpoints import CheckpointError
    from tasks.evaluate.benchmark import missing_reason

    stated = settings(copies, generators=[{"name": "absent", "checkpoint": str(copies / "absent")}])
    with pytest.raises(CheckpointError, match="absent"):
        missing_reason(BenchmarkConfig.model_validate(stated).generators[0])


def test_wrong_settings_of_a_benchmark_are_one_sentence(tmp_path: Path) -> None:
    twice = settings(tmp_path, generators=[{"name": "a", "checkpoint": "x"}] * 2)
    for stated, said in ((twice, "name one twice"), (settings(tmp_path, reference=None), "reference is null")):
        with pytest.raises(ConfigError, match=said):
            parse(BenchmarkConfig, stated, "x.yaml")
    with pytest.raises(ConfigError, match="did you mean 'protocols'"):
        parse(EvaluateConfig, {"samples": "a", "protocol": ["cdvae"]}, "x.yaml")


def test_the_shipped_benchmark_loads_and_its_deployment_would_be_the_same() -> None:
    config = load(BenchmarkConfig, "benchmark-generators")
    assert config.name == "generators"
    assert [entry.checkpoint for entry in config.generators[:2]] == [
        "package:hullward-wyckoff",
        "package:hullward-flow",
    ]
    stated = yaml.safe_load((ROOT / "configs" / "presets" / "benchmark-generators.yaml").read_text())
    assert parse(BenchmarkConfig, stated, "x") == config


@pytest.mark.slow
def test_the_flow_publishes_one_table_per_protocol(copies: Path, prefect_environment: dict[str, str]) -> None:
    stated = settings(copies, name="flow")
    code = (
        "import json, sys\n"
        "from configs.evaluation import BenchmarkConfig\n"
        "from flows.benchmark import benchmark\n"
        "print(benchmark(BenchmarkConfig.model_validate(json.loads(sys.argv[1]))))"
    )
    environment = {**prefect_environment, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, json.dumps(stated)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (copies / "runs" / "benchmarks" / "flow" / "benchmark.html").is_file()
    keys = {"benchmark-flow", "benchmark-flow-cdvae-generation", "benchmark-flow-cdvae-reconstruction"}
    found = artifacts(prefect_environment, keys)
    assert set(found) == keys
    (row,) = json.loads(found["benchmark-flow-cdvae-reconstruction"])
    assert row["generator"] == "copies"
    assert row["match rate (%)"] == "100.00"
    assert "absent was left out" in found["benchmark-flow"]


def artifacts(environment: dict[str, str], keys: set[str]) -> dict[str, str]:
    """Key -> content of the artifacts on the server."""
    import urllib.request

    body = json.dumps({"artifacts": {"key": {"any_": sorted(keys)}}}).encode()
    asked = urllib.request.Request(
        environment["PREFECT_API_URL"] + "/artifacts/filter", body, {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=20) as reply:
        return {entry["key"]: entry["data"] for entry in json.loads(reply.read())}
