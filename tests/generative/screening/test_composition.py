"""Truth: smact.screening.smact_validity of the installed package, and CDVAE's loop written out."""

import itertools
import time

import numpy as np
import pytest
import smact
from pymatgen.core.composition import Composition
from smact.screening import smact_validity

from generative.screening.composition import OxidationStates, check

KNOWN_ELEMENTS = smact.ordered_elements(1, 94)


def cdvae_validity(counts: dict[str, int]) -> bool:
    """CDVAE's smact_validity, products and all, on the 2014 states."""
    if len(counts) == 1 or all(symbol in smact.metals for symbol in counts):
        return True
    elements = [smact.Element(symbol) for symbol in counts]
    if any(not e.oxidation_states_smact14 or not e.pauling_eneg for e in elements):
        return False
    for charges in itertools.product(*(e.oxidation_states_smact14 for e in elements)):
        if sum(q * n for q, n in zip(charges, counts.values(), strict=True)) == 0:
            cations = [e.pauling_eneg for e, q in zip(elements, charges, strict=True) if q > 0]
            anions = [e.pauling_eneg for e, q in zip(elements, charges, strict=True) if q < 0]
            if not cations or not anions or max(cations) < min(anions):
                return True
    return False


@pytest.mark.parametrize("states", list(OxidationStates))
def test_verdicts_are_those_of_the_installed_smact(states: OxidationStates) -> None:
    rng = np.random.default_rng(0)
    n_valid = 0
    for _ in range(400):
        symbols = rng.choice(KNOWN_ELEMENTS, size=rng.integers(1, 5), replace=False)
        counts = {str(s): int(rng.integers(1, 7)) for s in symbols}
        expected = smact_validity(Composition(counts), oxidation_states_set=states.value)
        assert check(counts, states).valid == expected, counts
        n_valid += expected
    assert 40 < n_valid < 360  # both verdicts were tried


def test_the_2014_states_give_the_rule_published_with_cdvae() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        symbols = rng.choice(["Li", "Al", "Ti", "Fe", "Ta", "B", "C", "N", "O", "S", "Cl", "Te"], size=3, replace=False)
        counts = {str(s): int(rng.integers(1, 9)) for s in symbols}
        assert check(counts).valid == cdvae_validity(counts), counts


def test_real_compounds_and_refusals_are_as_known() -> None:
    accepted = ({"Na": 1, "Cl": 1}, {"Al": 1, "N": 1}, {"Ti": 3, "Al": 1}, {"Ar": 1}, {"Sr": 1, "Ti": 1, "O": 3})
    assert all(check(counts).valid for counts in accepted)
    # Real compounds that charge balance refuses: the reason why this is a column and not a filter.
    assert not any(check(counts).valid for counts in ({"Ta": 1, "B": 2}, {"W": 2, "B": 1}, {"Fe": 3, "O": 4}))
    assert not check({"Ne": 1, "O": 1}).valid


def test_the_verdict_says_rule_and_version_and_forgets_the_multiple() -> None:
    verdict = check({"Mg": 1, "O": 1})
    assert verdict.rule == "charge balance (smact14)"
    assert verdict.smact_version
    assert check({"O": 4, "Mg": 4}) is verdict  # cached by reduced formula
    assert check({"Cu": 3, "Au": 1}).rule == "metals only"
    assert check({"Lr": 1, "O": 1}).rule.endswith("no data for an element")


def test_six_elements_with_large_counts_take_bounded_time() -> None:
    counts = {
        "Mn": 61,
        "Os": 53,
        "Ir": 47,
        "N": 43,
        "P": 41,
        "S": 37,
    }  # 400,000 products of states, none balanced early
    start = time.perf_counter()
    check(counts)
    check(counts, OxidationStates.ICSD24)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("counts", [{}, {"Al": 0, "O": 1}, {"Al": 1.5}])
def test_counts_that_are_no_composition_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive whole number"):
        check(counts)
