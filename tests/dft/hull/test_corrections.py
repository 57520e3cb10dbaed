"""The Materials Project's corrections of 2020 against its own table, applied by hand to compounds made up at random."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pymatgen.analysis.compatibility
import pytest
import yaml
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

from dft.hull.corrections import ANIONS, correct, entry_of_record
from dft.hull.oxidation import StateSource, oxidation_states
from tests.dft.made_records import body_centred, potcar_titles, record, rock_salt

CATIONS = {"Li": 1, "Na": 1, "K": 1, "Mg": 2, "Ca": 2, "Sr": 2, "Ba": 2, "Al": 3, "B": 3, "Y": 3, "La": 3, "Zr": 4}
CHARGES = {"F": -1, "Cl": -1, "Br": -1, "I": -1, "O": -2, "S": -2, "Se": -2, "Te": -2, "N": -3, "H": -1}


@cache
def published() -> dict[str, Any]:
    path = Path(pymatgen.analysis.compatibility.__file__).with_name("MP2020Compatibility.yaml")
    found = yaml.safe_load(path.read_text())["Corrections"]
    assert isinstance(found, dict)
    return found


def parameters(formula: Composition, **changes: Any) -> dict[str, Any]:
    symbols = [MPRelaxSet.CONFIG["POTCAR"][element.symbol] for element in formula]
    spec = [{"titel": f"PAW_PBE {symbol} 01Jan2000", "hash": None} for symbol in symbols]
    return {"run_type": "GGA", "hubbards": {}, "potcar_spec": spec, **changes}


def entry(formula: str, **data: Any) -> ComputedEntry:
    composition = Composition(formula)
    kinds = {"oxide_type": "oxide", "sulfide_type": "sulfide"}
    energy = -5.0 * composition.num_atoms
    return ComputedEntry(composition, energy, parameters=parameters(composition), data=kinds | data)


def structure_entry(structure: Structure, **changes: Any) -> ComputedStructureEntry:
    return ComputedStructureEntry(
        structure, -5.0 * len(structure), parameters=parameters(structure.composition, **changes)
    )


def random_salts(n: int, seed: int) -> list[Composition]:
    """Neutral formulas of one or two cations with two or three anions, which are anions in every neutral assignment.

    The assignments are all those of ICSD states to atoms, mixed valence among them.
    """
    rng, found = np.random.default_rng(seed), list[Composition]()
    while len(found) < n:
        anions = list(rng.choice(sorted(CHARGES), size=rng.integers(2, 4), replace=False))
        cations = list(rng.choice(sorted(CATIONS), size=rng.integers(1, 3), replace=False))
        amounts = {symbol: int(rng.integers(1, 5)) for symbol in [*anions, *cations]}
        negative = -sum(CHARGES[symbol] * amounts[symbol] for symbol in anions)
        rest = negative - sum(CATIONS[symbol] * amounts[symbol] for symbol in cations[1:])
        if rest <= 0 or rest % CATIONS[cations[0]]:
            continue
        amounts[cations[0]] = rest // CATIONS[cations[0]]
        formula = Composition(amounts).reduced_composition
        if formula.num_atoms <= 40 and all(mean[a] <= -1 for mean in assignments(formula) for a in anions):
            found.append(formula)
    return found


def assignments(formula: Composition) -> Iterator[dict[str, float]]:
    """Mean states of every neutral assignment of ICSD states to atoms."""
    symbols, sums = [element.symbol for element in formula], []
    for symbol in symbols:
        reached = {0}
        for _ in range(int(formula[symbol])):
            reached = {total + state for total in reached for state in Element(symbol).icsd_oxidation_states}
        sums.append(sorted(reached))
    for chosen in itertools.product(*sums):
        if sum(chosen) == 0:
            yield {symbol: total / formula[symbol] for symbol, total in zip(symbols, chosen, strict=True)}


def by_hand(formula: Composition) -> float:
    """eV/atom: every element of CHARGES in the formula is an anion, O an oxide, S a sulfide."""
    table = published()["CompositionCorrections"] | {"O": published()["CompositionCorrections"]["oxide"]}
    return float(sum(table[s] * formula[s] for s in CHARGES if s in formula) / formula.num_atoms)


@pytest.mark.parametrize("seed", range(4))
def test_every_anion_of_a_random_mixed_anion_salt_gets_its_published_correction(seed: int) -> None:
    n_lost_by_default = 0
    for formula in random_salts(60, seed):
        found = correct(entry(formula.formula))
        assert found.correction_ev_per_atom == pytest.approx(by_hand(formula), abs=1e-9), (formula, found)
        assert found.energy_ev_per_atom == pytest.approx(-5.0 + by_hand(formula))
        multiple = correct(entry((formula * 3).formula))
        assert multiple.correction_ev_per_atom == pytest.approx(found.correction_ev_per_atom, abs=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            default = MaterialsProject2020Compatibility().process_entry(entry(formula.formula))
        assert default is not None
        n_lost_by_default += abs(default.correction / formula.num_atoms - by_hand(formula)) > 1e-6
    assert n_lost_by_default > 0  # else pymatgen alone would do


@pytest.mark.parametrize(("formula", "n_cl", "n_o"), [("Li10B14Cl2O25", 2, 25), ("Mg3B7O13Cl", 1, 13)])
def test_a_chlorine_beside_oxygen_in_a_large_formula_keeps_its_correction(formula: str, n_cl: int, n_o: int) -> None:
    found = correct(entry(formula))
    n_atoms = Composition(formula).num_atoms
    assert found.correction_ev_per_atom == pytest.approx((-0.614 * n_cl - 0.687 * n_o) / n_atoms)
    assert found.terms == (
        f"anion correction (oxide) -0.687 eV x {n_o}",
        f"anion correction (Cl) -0.614 eV x {n_cl}",
    )
    assert (found.states.states["Cl"], found.states.source) == (-1.0, StateSource.GUESS)


@pytest.mark.parametrize(
    ("structure", "kind"),
    [
        (body_centred("K", 4.03, 6.70, 0.4045), "superoxide"),  # O-O 1.28 A
        (body_centred("Ba", 3.81, 6.84, 0.3911), "peroxide"),  # O-O 1.49 A
        (rock_salt("Mg", "O", 4.21), "oxide"),
    ],
)
def test_bonds_between_oxygens_decide_and_not_what_a_database_calls_the_oxide(structure: Structure, kind: str) -> None:
    expected = published()["CompositionCorrections"][kind] * structure.composition["O"] / len(structure)
    stated = structure_entry(structure)
    stated.data["oxide_type"] = "oxide"
    assert correct(stated).correction_ev_per_atom == pytest.approx(expected)


def test_own_record_and_database_entry_of_one_crystal_are_corrected_alike_to_the_last_digit() -> None:
    sites = [[0, 0.5, 0.17], [0.5, 0, 0.83], [0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.645], [0.5, 0, 0.355]]
    bismoclite = Structure(Lattice.tetragonal(3.89, 7.37), ["Bi", "Bi", "O", "O", "Cl", "Cl"], sites)
    titles = potcar_titles(bismoclite)
    own = correct(entry_of_record(record(bismoclite, -5.0, resolved={"potcars": titles, "run_type": "PBE"})))
    decorated = bismoclite.copy(site_properties={"magmom": [0.6] * len(bismoclite)})
    decorated.add_oxidation_state_by_element({"Bi": 5, "O": 0, "Cl": 1})
    theirs = structure_entry(decorated)
    theirs.data.update({"oxidation_states": {"Bi": 5, "O": -2, "Cl": 1}, "oxide_type": "peroxide"})
    theirs.correction = -99.0
    assert own == correct(theirs)
    assert own.correction_ev_per_atom == pytest.approx((-0.687 - 0.614) / 3)
    assert own.states.source is StateSource.BOND_VALENCES


def test_states_stated_by_a_database_count_where_it_gives_no_crystal() -> None:
    nitrate, amide = {"N": 5.0, "Na": 1.0, "O": -2.0}, {"N": -3.0, "Na": 1.0, "O": -2.0}
    assert correct(entry("NaNO3", oxidation_states=nitrate)).correction_ev_per_atom == pytest.approx(-0.687 * 3 / 5)
    assert correct(entry("NaNO3", oxidation_states=amide)).correction_ev_per_atom == pytest.approx(
        (-0.687 * 3 - 0.361) / 5
    )


def test_where_states_decide_and_cannot_be_found_there_is_a_refusal_and_no_energy() -> None:
    """Random formulas of Cl beside O or F that no states of the ICSD, and no common ones, make neutral."""
    rng, n_refused = np.random.default_rng(3), 0
    while n_refused < 30:
        cation, anion = str(rng.choice(["Li", "K", "Mg", "Ca", "Sr", "Ba", "Al"])), str(rng.choice(["O", "F"]))
        n_cation, n_cl, n_anion = (int(n) for n in rng.integers(1, 8, 3))
        chlorine = (-CHARGES[anion] * n_anion - CATIONS[cation] * n_cation) / n_cl
        if chlorine in (-1, 1, 3, 5, 7):
            continue
        found = correct(entry(f"{cation}{n_cation}Cl{n_cl}{anion}{n_anion}"))
        assert found.refusal == (
            f"oxidation states could not be determined: whether Cl is an anion beside {anion} decides on its correction"
        )
        assert (found.correction_ev_per_atom, found.energy_ev_per_atom) == (None, None)
        n_refused += 1


def test_a_guess_with_an_element_as_anion_and_cation_gives_way_to_one_without() -> None:
    """The ICSD's probabilities prefer SeBr4 with Se 2- and one Br 5+ among three Br 1-."""
    assert oxidation_states(Composition("SeBr4")).states == {"Se": 4.0, "Br": -1.0}


@pytest.mark.parametrize(
    ("formula", "correction", "said"),
    [
        ("Ti3AlN", -0.361 / 5, "N is corrected as the most electronegative element"),
        ("MoSi2", 0.0, "Si beside Mo counts as no anion"),
        ("NaN3", 0.0, "N at -0.333 on average lies above the scheme's bound"),
        ("Li2SeBr7", -0.472 / 10, "Br at -0.143 on average lies above the scheme's bound"),
    ],
)
def test_where_the_scheme_has_a_rule_without_states_it_is_kept_and_said(
    formula: str, correction: float, said: str
) -> None:
    found = correct(entry(formula))
    assert found.correction_ev_per_atom == pytest.approx(correction)
    assert said in found.notes[0]


def test_a_perchlorate_s_chlorine_is_known_to_be_no_anion() -> None:
    """The ICSD's list has Cl at -1 alone, so that list finds no neutral KClO4."""
    found = correct(entry("KClO4"))
    assert (found.states.states["Cl"], found.states.source) == (7.0, StateSource.COMMON)
    assert found.correction_ev_per_atom == pytest.approx(-0.687 * 4 / 6)


def test_no_guess_makes_a_cation_of_the_most_electronegative_element() -> None:
    """CeSiI, a metal: Ce 3+, Si 4-, I 1+ are common states and neutral, and nonsense."""
    assert oxidation_states(Composition("CeSiI")).source is StateSource.NONE
    assert "whether Si is an anion beside I" in correct(entry("CeSiI")).refusal


def test_an_oxide_or_a_sulfide_without_a_crystal_is_refused_unless_its_kind_is_stated() -> None:
    assert "no crystal and no oxide_type" in correct(entry("Na2O2", oxide_type=None)).refusal
    assert "S beside O may or may not be an anion" in correct(entry("CaSO4", sulfide_type=None)).refusal
    assert correct(entry("CaS", sulfide_type=None)).correction_ev_per_atom == pytest.approx(-0.503 / 2)


@pytest.mark.parametrize("run_type", ["R2SCAN", "r2SCAN", "SCAN", "PBEsol", "GGA_U", None])
def test_other_functionals_are_refused_by_name(run_type: str | None) -> None:
    other = entry("NaCl")
    other.parameters["run_type"] = run_type
    assert correct(other).refusal.startswith(f"run type {run_type}: expected GGA or GGA+U")


def test_a_wrong_u_and_a_wrong_pseudopotential_are_refused_in_one_sentence() -> None:
    oxide = entry("FeO")
    assert correct(oxide).refusal == "U of Fe: 0 / 5.3 eV"
    oxide.parameters["hubbards"] = {"Fe": 5.3}
    assert correct(oxide).correction_ev_per_atom == pytest.approx((-0.687 - 2.256) / 2)
    iron = entry("Fe")
    iron.parameters["hubbards"] = {"Fe": 5.3}
    assert correct(iron).refusal == "U of Fe: 5.3 / 0 eV"
    oxide.parameters["potcar_spec"] = [{"titel": "PAW_PBE Fe 06Sep2000"}, {"titel": "PAW_PBE O 08Apr2002"}]
    assert "Incompatible POTCAR" in correct(oxide).refusal
    del oxide.parameters["potcar_spec"]
    assert "no potcar_symbols" in correct(oxide).refusal


def test_the_elements_judged_by_their_states_are_those_of_the_scheme() -> None:
    table = set(published()["CompositionCorrections"])
    assert set(ANIONS) == table - {"S", "oxide", "peroxide", "superoxide", "ozonide"}


def test_states_do_not_depend_on_how_a_formula_is_written() -> None:
    rng = np.random.default_rng(5)
    for formula in random_salts(20, seed=11):
        amounts = list(formula.get_el_amt_dict().items())
        rng.shuffle(amounts)
        shuffled = Composition({symbol: n * 2 for symbol, n in amounts})
        assert oxidation_states(shuffled) == oxidation_states(formula)
    assert oxidation_states(Composition("K4P21I")).source is StateSource.NONE  # too many sums to try
