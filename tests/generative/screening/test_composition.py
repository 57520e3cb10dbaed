"""Truth: smact.screening.smact_validity of the installed package, and CDVAE's loop written out."""

import itertools
import math
import time

import numpy as np
import pytest
import smact
from pymatgen.core.composition import Composition
from smact.screening import smact_validity

from generative.screening.composition import OxidationStates, check

KNOWN_ELEMENTS = smact.ordered_elements(1, 94)


ODD_ELEMENTS = ("Ir", "Zr", "Pm", "Lr", "He", "Ne", "Ar")
"""Those on which SMACT 2.2.1 and the installed release may disagree."""


def script_of_cdvae(symbols: list[str], counts: list[int]) -> bool:
    """smact_validity of CDVAE's eval_utils.py with pauling_test of SMACT 2.2.1, line by line, and where its tables
    differ from the installed ones, its tables."""
    elements = [smact.Element(symbol) for symbol in symbols]
    electronegs = [0.33 if e.symbol == "Zr" else e.pauling_eneg for e in elements]
    ox_combos = [e.oxidation_states_smact14 or [] for e in elements]
    ox_combos = [[-2 if q == -3 and s == "Ir" else q for q in ox] for s, ox in zip(symbols, ox_combos, strict=True)]
    if len(set(symbols)) == 1 or all(symbol in smact.metals for symbol in symbols):
        return True

    def pauling_test(ox_states: tuple[int, ...]) -> bool:
        pairs = itertools.combinations(list(zip(ox_states, electronegs, strict=True)), 2)
        for (ox1, eneg1), (ox2, eneg2) in pairs:
            if (ox1 > 0) and (ox2 < 0) and (eneg1 >= eneg2):
                return False
            if (ox1 < 0) and (ox2 > 0) and (eneg1 <= eneg2):
                return False
            if eneg1 is None or eneg2 is None:
                return False
        return True

    for ox_states in itertools.product(*ox_combos):
        if sum(q * n for q, n in zip(ox_states, counts, strict=True)) != 0:
            continue
        try:
            electroneg_ok = pauling_test(ox_states)
        except TypeError:  # "if no electronegativity data, assume it is okay"
            electroneg_ok = True
        if electroneg_ok:
            return True
    return False


def composition_by_number(rng: np.random.Generator, odd: bool) -> tuple[list[str], list[int]]:
    """Elements by atomic number, as the script has them, with counts without a common divisor."""
    symbols = {str(s) for s in rng.choice(KNOWN_ELEMENTS, size=rng.integers(1, 4), replace=False)}
    symbols |= {str(rng.choice(ODD_ELEMENTS))} if odd else set()
    symbols |= {str(rng.choice(["H", "N", "O", "F", "S", "Cl"]))} if rng.random() < 0.5 else set()
    ordered = sorted(symbols, key=lambda symbol: smact.Element(symbol).number)
    counts = [int(n) for n in rng.integers(1, 7, len(ordered))]
    return ordered, [n // math.gcd(*counts) for n in counts]


@pytest.mark.parametrize("seed", range(6))
def test_cdvaes_verdicts_are_those_of_its_script_with_the_smact_of_its_environment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    verdicts, n_other = [], 0
    for i in range(120):
        symbols, counts = composition_by_number(rng, odd=i % 2 == 0)
        given = dict(zip(symbols, counts, strict=True))
        expected = script_of_cdvae(symbols, counts)
        shuffled = {str(s): given[str(s)] for s in rng.permutation(symbols)}
        assert check(shuffled, OxidationStates.CDVAE).valid == expected, given
        verdicts.append(expected)
        n_other += expected != check(given, OxidationStates.SMACT14).valid
    assert 20 < sum(verdicts) < 100  # both verdicts were tried
    assert n_other  # and compositions on which the two lists disagree


def test_the_three_things_in_which_smact_2_2_1_differs_are_seen() -> None:
    published, today = OxidationStates.CDVAE, OxidationStates.SMACT14
    cases = {
        "Ir -2": ({"Ir": 3, "B": 2}, True, False),  # B +3
        "Ir -3": ({"Sb": 1, "As": 1, "Ir": 1}, False, None),
        "Pm passes": ({"Pm": 1, "Br": 3}, True, False),
        "Pm fails where it is compared with its like first": ({"Li": 1, "Pm": 1, "O": 2}, False, False),
    }
    for name, (counts, as_published, as_today) in cases.items():
        ordered = sorted(counts, key=lambda symbol: smact.Element(symbol).number)
        assert script_of_cdvae(ordered, [counts[s] for s in ordered]) == check(counts, published).valid, name
        if as_today is not None:
            assert (check(counts, published).valid, check(counts, today).valid) == (as_published, as_today), name


INSTALLED = (OxidationStates.SMACT14, OxidationStates.ICSD24)
"""Lists that the installed SMACT has."""


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


@pytest.mark.parametrize("states", INSTALLED)
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
