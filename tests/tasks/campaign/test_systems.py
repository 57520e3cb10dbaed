"""Chemical systems of a rule against a plain loop over all subsets of the elements."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from pymatgen.core.periodic_table import Element
from smact.screening import smact_validity

from configs.campaign import CampaignConfig
from tasks.campaign.systems import CampaignError, known_formulas, systems_of

KNOWN = {
    "B": ["B"], "Ti": ["Ti"], "W": ["W"], "O": ["O2"], "Na": ["Na"], "Ar": ["Ar"],
    "B-Ti": ["TiB", "TiB2", "TiB2"], "O-Ti": ["TiO2"], "Na-O": ["Na2O", "Na2O2", "NaO3"], "B-Ti-W": ["TiWB2"],
}  # fmt: skip
"""Formulas by chemical system; two crystals of TiB2."""

CHI = {"B": 2.04, "Ti": 1.54, "W": 2.36, "O": 3.44, "Na": 0.93, "Ar": math.nan}
"""Pauling's electronegativities, from a textbook."""


def dataset() -> pa.Table:
    rows = [(system, formula) for system, formulas in KNOWN.items() for formula in formulas]
    return pa.table({"chemsys": [s for s, _ in rows], "formula": [f for _, f in rows]})


def systems(**settings: Any) -> list[str]:
    config = CampaignConfig.model_validate({"conditions": {"formula_atoms_max": 6, "n_elements_min": 2}, **settings})
    return ["-".join(system) for system in systems_of(config, dataset())]


def test_known_formulas_are_counted_once_each() -> None:
    assert known_formulas(dataset())["B-Ti"] == 2
    assert known_formulas(dataset())["Na-O"] == 3


def test_systems_that_are_named_keep_their_order_and_stand_before_those_of_the_rule() -> None:
    rule = {"lists": [{"elements": ["W", "Ti"]}, {"elements": ["B"]}]}
    assert systems(systems=["W-B", "Ti-O", "B-W"], rule=rule) == ["B-W", "O-Ti", "B-Ti"]


@pytest.mark.parametrize(
    ("low", "high", "least", "most"), [(0.0, 4.0, 0, None), (1.0, 2.2, 0, 2), (0.0, 1.0, 1, None), (0.0, 4.0, 0, 0)]
)
def test_a_rule_is_a_loop_over_all_subsets_with_its_filters(
    low: float, high: float, least: int, most: int | None
) -> None:
    metals, others = ["Ti", "W", "Na", "Ar"], ["B", "O", "Na"]
    rule = {
        "lists": [{"elements": metals}, {"elements": others}],
        "electronegativity_range_min": low,
        "electronegativity_range_max": high,
        "known_formulas_min": least,
        "known_formulas_max": most,
    }
    expected = set()
    for pair in combinations(sorted(set(metals) | set(others)), 2):
        if not any(set(pair) == {m, o} for m in metals for o in others):
            continue
        n = len(set(KNOWN.get("-".join(pair), [])))
        chi = [CHI[symbol] for symbol in pair]
        spread = max(chi) - min(chi)
        is_filtered = (low, high) != (0.0, 4.0)
        if is_filtered and (any(map(math.isnan, chi)) or not low <= spread <= high):
            continue
        if n >= least and (most is None or n <= most):
            expected.add("-".join(pair))
    assert set(systems(rule=rule)) == expected
    assert systems(rule=rule) == sorted(systems(rule=rule))


def test_a_list_without_elements_is_every_element_of_which_the_dataset_has_a_crystal() -> None:
    rule = {"lists": [{"n": 2}, {"elements": ["O"]}], "known_formulas_max": 0}
    expected = {"-".join(sorted([*pair, "O"])) for pair in combinations(["Ar", "B", "Na", "Ti", "W"], 2)}
    assert set(systems(rule=rule)) == expected


def test_a_charge_balanced_system_has_a_formula_that_smact_itself_balances() -> None:
    rule = {"lists": [{"elements": ["Na", "Ti", "W"]}, {"elements": ["O", "B", "Ar"]}], "charge_balanced": True}
    expected = set()
    for one in ("Na", "Ti", "W"):
        for other in ("O", "B", "Ar"):
            formulas = [{one: i, other: j} for i in range(1, 6) for j in range(1, 6) if i + j <= 6]
            texts = ["".join(f"{s}{n}" for s, n in formula.items()) for formula in formulas]
            if any(smact_validity(text, oxidation_states_set="smact14") for text in texts):
                expected.add("-".join(sorted((one, other))))
    assert set(systems(rule=rule)) == expected
    assert "Ar-Na" not in expected
    assert "Na-O" in expected


def test_a_number_of_systems_is_drawn_with_the_seed() -> None:
    rule = {"lists": [{"n": 2}], "n_systems": 4}
    every = systems(rule={"lists": [{"n": 2}]})
    first = systems(rule=rule, seed=1)
    assert first == systems(rule=rule, seed=1)
    assert len(first) == 4
    assert set(first) < set(every)
    assert any(systems(rule=rule, seed=seed) != first for seed in range(2, 6))


def test_a_rule_that_nothing_passes_and_one_that_makes_millions_are_one_sentence() -> None:
    with pytest.raises(CampaignError, match="no chemical system passes"):
        systems(rule={"lists": [{"elements": ["Ti"]}, {"elements": ["B"]}], "known_formulas_max": 1})
    symbols = [Element.from_Z(z).symbol for z in range(1, 95)]
    with pytest.raises(CampaignError, match="shorten them"):
        systems(rule={"lists": [{"elements": symbols, "n": 5}]})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "name systems, such as"),
        ({"systems": ["Ti-Zz"]}, "'Zz' is no element"),
        ({"systems": ["Ti-Ti"]}, "distinct elements"),
        ({"rule": {"lists": [{"elements": ["Ti"], "n": 2}]}}, "asks for 2 of 1 elements"),
        ({"rule": {"lists": [{"n": 4}, {"n": 3}]}}, "at most 6"),
        ({"systems": ["Ti-B"], "conditions": {"policy": "given", "formulas": ["TiB2"]}}, "of one system"),
        ({"systems": ["Ti-B"], "notify": {"webhook_variable": "https://hooks.example/T0/secret"}}, "NAME of an env"),
    ],
)
def test_a_wrong_setting_says_what_is_expected(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CampaignConfig.model_validate(settings)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
