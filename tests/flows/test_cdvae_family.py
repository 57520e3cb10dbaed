"""Members of the CDVAE family, and ConditionCDVAE+, where users meet generators: in `discover` and in the benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from configs.evaluation import BenchmarkConfig
from configs.schema import parse
from generative import checkpoints
from generative.crystal.crystals import Crystal, crystals_of
from generative.requests import Request
from generative.systems.cdvae.family import FAMILY, DPCDVAENa
from generative.systems.cdvae.latent_model import LatentModel
from generative.systems.condition_cdvae.system import VARIANTS
from tasks.discover.sample import draw_chunk
from tasks.evaluate.benchmark import draw_samples
from tests.flows.conftest import Campaign, Discover, known_phases

SAMPLER = {
    "n_candidates": 4,
    "chunk_size": 4,
    "sampler": {"steps_per_level": 1, "level_stride": 10, "stride": 100, "latent_steps": 20},
}
ASKING = {**SAMPLER, "sampler": {"steps_per_level": 1, "level_stride": 10, "latent_steps": 20, "screening": 5}}
CRYSTALS = [Crystal.from_structure(structure) for structure in known_phases().values()]


def untrained(kind: type[LatentModel], folder: Path) -> Path:
    """A checkpoint whose cells have the sizes of the known phases."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = kind(kind.config_type(size="tiny"))
    system.fit_statistics(CRYSTALS, [None] * len(CRYSTALS))
    checkpoints.save(folder, system.eval(), {"data_fingerprint_sha256": "", "settings": {}, "steps": 0})
    return folder


@pytest.mark.parametrize("kind", [*FAMILY, *VARIANTS], ids=lambda kind: kind.name)
def test_discover_and_the_benchmark_draw_from_every_member(kind: Any, campaign: Campaign, tmp_path: Path) -> None:
    checkpoint, sampler = untrained(kind, tmp_path / kind.name), SAMPLER if kind in FAMILY else ASKING
    config = campaign.config(tmp_path, sample={**sampler, "checkpoint": str(checkpoint)})
    drawn = draw_chunk(config, 0)
    for row, crystal in zip(drawn.to_pylist(), crystals_of(drawn), strict=True):
        assert crystal is not None
        assert sorted(crystal.atomic_numbers) == sorted(Request.from_json(row["condition"]).atomic_numbers)
    benchmark = parse(
        BenchmarkConfig,
        {
            "reference": str(campaign.folder / "known"),
            "generators": [{"name": kind.name, "checkpoint": str(checkpoint)}],
            "n": 3,
            "sample": sampler,
            "execution": {"runs_folder": str(tmp_path), "torch_threads": 1, "device": "cpu"},
        },
        "test",
    )
    samples = draw_samples(benchmark, benchmark.generators[0])
    assert len(samples.read()) == 3
    assert json.loads((benchmark.folder / kind.name / "sampling.json").read_text())["system"] == kind.name


def test_a_whole_run_with_a_member_of_the_family_accounts_for_every_candidate(
    campaign: Campaign, discover: Discover, tmp_path: Path
) -> None:
    checkpoint = untrained(DPCDVAENa, tmp_path / "generator")
    run = discover(campaign.config(tmp_path / "runs", sample={**SAMPLER, "checkpoint": str(checkpoint)}))
    rows = pq.read_table(run.folder / "candidates.parquet").to_pylist()
    assert len(rows) == SAMPLER["n_candidates"]
    assert all((row["rank"] is not None) or row["reason"] for row in rows)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["generator_sha256"] == checkpoints.digest(str(checkpoint))
