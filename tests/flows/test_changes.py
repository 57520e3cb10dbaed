"""Settings that differ from a deployment's: merged with them, and the run is named after what came out."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.campaign import CampaignConfig
from configs.ingest import IngestConfig
from configs.modification import ModifyConfig
from configs.rediscovery import RediscoveryConfig
from configs.schema import ConfigError, DiscoverConfig, load
from flows.changes import changed
from tests.flows.conftest import prefect_client

POSCAR = """made
1.0
2.8 0 0
0 2.8 0
0 0 2.8
Al Ni
1 1
Direct
0 0 0
.5 .5 .5
"""


def test_what_is_not_changed_stays_as_the_deployment_has_it() -> None:
    ternary = load(DiscoverConfig, "ternary")
    other = changed(ternary, ("elements=[Hf, B, Nb]", "sample.n_candidates=64", "dft.run=true"))
    assert (other.elements, other.sample.n_candidates, other.dft.run) == (("Hf", "B", "Nb"), 64, True)
    assert (other.data, other.judge, other.conditions) == (ternary.data, ternary.judge, ternary.conditions)
    assert changed(ternary, ()) is ternary


def test_another_system_has_a_name_of_its_own_unless_it_is_named() -> None:
    ternary = load(DiscoverConfig, "ternary")
    assert changed(ternary, ("elements=[Hf, B]",)).name == "b-hf"
    assert changed(ternary, ("elements=[W, B, Ta]", "seed=4")).name == "ternary"
    assert changed(ternary, ("elements=[Hf, B]", "name=mine")).name == "mine"


@pytest.mark.parametrize(
    ("model", "preset"),
    [
        (DiscoverConfig, "quickstart"),
        (CampaignConfig, "campaign-small"),
        (RediscoveryConfig, "rediscovery-small"),
        (IngestConfig, "ingest-aflow"),
    ],
)
def test_settings_of_every_kind_come_back_as_they_were_but_for_the_name(model: type, preset: str) -> None:
    config = load(model, preset)
    assert changed(config, ("name=other",)) == config.model_copy(update={"name": "other"})


def test_a_wrong_change_is_told_as_by_the_command() -> None:
    with pytest.raises(ConfigError, match=r"changes: sample\.n_candidate is not a setting.*n_candidates"):
        changed(load(DiscoverConfig, "ternary"), ("sample.n_candidate=3",))
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        changed(ModifyConfig(crystals=("a.cif",)), ("limit",))


def test_a_run_is_named_after_its_changed_settings_on_the_server(
    tmp_path: Path, prefect_environment: dict[str, str]
) -> None:
    from prefect.client.orchestration import get_client

    from flows.ingest import ingest

    (tmp_path / "POSCAR").write_text(POSCAR)
    sources = [{"kind": "files", "path": str(tmp_path / "POSCAR")}]
    given = {"name": "given", "out": str(tmp_path / "out"), "data": {"sources": sources}}
    with prefect_client(prefect_environment):
        ingest(IngestConfig.model_validate(given), changes=("name=wanted",))
        with get_client(sync_client=True) as client:
            names = {run.name for run in client.read_flow_runs()}
    assert "ingest-wanted" in names
    assert "ingest-given" not in names
