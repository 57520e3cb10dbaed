"""Truth: the published definitions written out with numpy and scipy, on fingerprints that are matminer's."""

import csv
import gzip
import math
import warnings
from functools import lru_cache
from itertools import islice

import numpy as np
import pytest
from pymatgen.core.structure import Structure
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from configs.paths import AssetError, resolve
from generative.crystal.crystals import Crystal
from generative.metrics.adaptive_cell import Activations, adaptive_cell
from generative.metrics.coverage import MP_20, Cutoffs
from generative.metrics.generation import Energies, Prints, generation, prints_of
from generative.metrics.magpie import CDVAE_CONSTANTS
from generative.metrics.metric import Evaluation
from generative.metrics.validity import too_elongated, verdicts
from tests.cifs import parse_cif
from tests.generative.metrics.crystal_sets import (
    N_REAL,
    other_real_crystals,
    real_crystals,
    samples_of_real,
    structure_of,
)
from tests.servers.real import real_records

TIGHT = Cutoffs(0.25, 6.0, "chosen for the test, so that some are covered and some are not")
N_DRAWN = 40
CONSTANTS_BEGIN = CDVAE_CONSTANTS.read_text(encoding="utf-8").splitlines().index("feature,mean,std") + 1


@lru_cache(maxsize=1)
def reference() -> tuple[Crystal, ...]:
    return other_real_crystals()


def matminer_prints(structures: list[Structure | None]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 61) and (n, 132) by matminer alone, NaN where it raises or has no data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matminer.featurizers.composition.composite import ElementProperty
        from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

        sites, magpie = CrystalNNFingerprint.from_preset("ops"), ElementProperty.from_preset("magpie", impute_nan=False)
        first, second = np.full((len(structures), 61), math.nan), np.full((len(structures), 132), math.nan)
        for row, structure in enumerate(structures):
            if structure is None:
                continue
            second[row] = magpie.featurize(structure.composition)
            try:
                first[row] = np.mean([sites.featurize(structure, i) for i in range(len(structure))], axis=0)
            except Exception:  # as published: any failure leaves the crystal without a fingerprint
                continue
    return first, second


@lru_cache(maxsize=1)
def truth() -> dict[str, np.ndarray]:
    sample, there = prints()
    composition = there.composition.values
    means, stds = np.genfromtxt(CDVAE_CONSTANTS, delimiter=",", skip_header=CONSTANTS_BEGIN, usecols=(1, 2)).T
    return {
        "sample": sample.structure.values,
        "sample composition": (sample.composition.values - means) / stds,
        "reference": there.structure.values,
        "reference composition": (composition - means) / stds,
    }


@lru_cache(maxsize=1)
def energies() -> Energies:
    rng = np.random.default_rng(8)
    return Energies(rng.normal(-3, 1, N_REAL), rng.normal(-3.2, 0.8, len(reference())), "a model")


@lru_cache(maxsize=1)
def prints() -> tuple[Prints, Prints]:
    return prints_of(samples_of_real()), prints_of(reference())


def evaluated(n_drawn: int | None = None, seed: int = 0) -> Evaluation:
    made = dict(zip(("sample_prints", "reference_prints"), prints(), strict=True))
    return generation(
        samples_of_real(),
        reference(),
        TIGHT,
        reference_name="test",
        energies=energies(),
        n_drawn=n_drawn,
        seed=seed,
        **made,
    )


def coverage_written_out(rows: np.ndarray, n_generated: int, cutoffs: Cutoffs) -> dict[str, float]:
    t = truth()
    here = rows & np.isfinite(t["sample"]).all(axis=1) & np.isfinite(t["sample composition"]).all(axis=1)
    there = np.isfinite(t["reference"]).all(axis=1) & np.isfinite(t["reference composition"]).all(axis=1)
    d_structure = cdist(t["sample"][here], t["reference"][there])
    d_composition = cdist(t["sample composition"][here], t["reference composition"][there])
    recall = (d_structure.min(0) <= cutoffs.structure) & (d_composition.min(0) <= cutoffs.composition)
    precision = (d_structure.min(1) <= cutoffs.structure) & (d_composition.min(1) <= cutoffs.composition)
    return {
        "COV-R": 100 * recall.mean(),
        "COV-P": 100 * precision.sum() / n_generated,
        "AMSD-R": d_structure.min(0).mean(),
        "AMSD-P": d_structure.min(1).mean(),
        "AMCD-R": d_composition.min(0).mean(),
        "AMCD-P": d_composition.min(1).mean(),
    }


def valid_rows() -> np.ndarray:
    found = verdicts(samples_of_real())  # proven in test_validity
    return np.array(found.structure) & np.array(found.composition) & np.isfinite(truth()["sample"]).all(axis=1)


def property_of(name: str, crystals: tuple[Crystal | None, ...]) -> np.ndarray:
    values = []
    for structure in map(structure_of, crystals):
        if structure is None:
            values.append(math.nan)
        else:
            values.append(float(structure.density) if name == "density" else len(structure.composition))
    return np.array(values)


def test_fingerprints_are_matminers_and_missing_where_it_has_none() -> None:
    rows = slice(3, None, 23)
    for made, crystals in zip(prints(), (samples_of_real(), reference()), strict=True):
        structure, composition = matminer_prints([structure_of(crystal) for crystal in crystals[rows]])
        np.testing.assert_allclose(made.structure.values[rows], structure, atol=1e-6)
        np.testing.assert_allclose(made.composition.values[rows], composition, rtol=1e-9, atol=1e-9)


def test_coverage_is_that_of_the_definitions_written_out() -> None:
    expected = coverage_written_out(np.ones(N_REAL, dtype=bool), N_REAL, TIGHT)
    found = evaluated()
    assert {name: found.metric(name).value for name in expected} == pytest.approx(expected, abs=1e-5)
    assert 0 < expected["COV-R"] < 100
    assert 0 < expected["COV-P"] < 100
    assert (found.metric("COV-P").n, found.metric("COV-R").n) == (N_REAL, len(reference()))
    assert {"cutoff_structure": 0.25, "reference": "test"}.items() <= found.metric("COV-P").settings.items()
    assert found.metric("COV-P").settings["scaler"].startswith("CDVAE's published constants")


def test_validity_needs_structure_composition_and_fingerprint() -> None:
    found = evaluated()
    assert found.per_sample["valid"] == tuple(valid_rows().tolist())
    assert found.metric("validity").value == pytest.approx(100 * valid_rows().mean())
    assert 0 < found.metric("validity").value < found.metric("structural validity").value


@pytest.mark.parametrize("name", ["density", "number of elements"])
def test_property_distances_are_scipys_over_the_valid_samples(name: str) -> None:
    metric = evaluated().metric(f"W {name}")
    samples = property_of(name, samples_of_real())[valid_rows()]
    expected = wasserstein_distance(samples, property_of(name, reference()))
    assert metric.value == pytest.approx(expected, rel=1e-6)  # masses and constants of two tables
    assert metric.value > 0
    assert metric.n == valid_rows().sum()


def test_the_distance_of_energies_is_that_of_the_model_named() -> None:
    metric = evaluated().metric("W energy")
    expected = wasserstein_distance(energies().samples[valid_rows()], energies().reference)
    assert metric.value == pytest.approx(expected, rel=1e-12)
    assert metric.settings["model"] == "a model"


def test_a_draw_is_seeded_and_too_few_valid_samples_leave_the_distances_undefined() -> None:
    once, again, other = evaluated(N_DRAWN), evaluated(N_DRAWN), evaluated(N_DRAWN, seed=1)
    assert once.metric("W density").value == again.metric("W density").value != other.metric("W density").value
    assert once.metric("W density").n == N_DRAWN
    scarce = evaluated(1000).metric("W density")
    assert math.isnan(scarce.value)
    assert "draws 1000" in scarce.reason
    assert scarce.settings["n_valid"] == valid_rows().sum()


def test_composition_validity_and_energies_can_be_left_out() -> None:
    made = dict(zip(("sample_prints", "reference_prints"), prints(), strict=True))
    found = generation(
        samples_of_real(), reference(), TIGHT, reference_name="test", with_composition=False, n_drawn=None, **made
    )
    assert "composition validity" not in [metric.name for metric in found.metrics]
    assert math.isnan(found.metric("W energy").value)
    assert found.metric("W energy").reason == "no energies were given"


def test_samples_that_are_all_broken_give_zero_coverage_and_undefined_distances() -> None:
    found = generation([None, None], reference()[:5], MP_20, reference_name="test", n_drawn=None)
    for name in ("structural validity", "validity", "COV-R", "COV-P"):
        assert found.metric(name).value == 0
    for name in ("AMSD-P", "W density", "W number of elements"):
        assert math.isnan(found.metric(name).value)
        assert found.metric(name).reason


@pytest.mark.parametrize("n_reference", [0, 5])
def test_empty_sets_leave_every_metric_undefined_with_a_reason(n_reference: int) -> None:
    samples = [] if n_reference else list(reference()[:2])
    found = generation(samples, reference()[:n_reference], MP_20, reference_name="test", n_drawn=None)
    for name in ("COV-R", "COV-P", "W density"):
        assert math.isnan(found.metric(name).value)
        assert found.metric(name).reason


def test_an_element_without_magpie_data_leaves_a_crystal_valid_but_uncovered() -> None:
    lawrencium = Crystal(3.5 * np.eye(3), np.zeros((1, 3)), np.array([103], dtype=np.int16))
    found = generation([lawrencium, reference()[0]], reference()[:20], MP_20, reference_name="test", n_drawn=None)
    assert found.metric("structural validity").value == 100
    assert found.metric("COV-P").value == 50
    assert "1 generated crystal has no fingerprint" in found.metric("COV-P").reason


def test_a_needle_has_no_fingerprint_and_says_why_before_the_search_for_its_neighbours_runs_for_minutes() -> None:
    crystal = reference()[0]
    needle = Crystal(np.diag([0.3, 0.3, 300.0]), crystal.frac, crystal.atomic_numbers)
    structure, composition = prints_of([needle, crystal, None])
    assert "times its smallest height" in structure.reasons[0]
    assert structure.usable.tolist() == [False, True, False]
    assert composition.usable.tolist() == [True, True, False]
    assert structure.reasons[2] == composition.reasons[2] == "the sample holds no crystal"


def test_no_real_crystal_is_taken_for_a_needle() -> None:
    for record in real_records():
        assert too_elongated(Crystal.from_structure(record.structure)) == ""


def test_energies_must_come_one_per_crystal_and_with_a_model() -> None:
    crystal = real_crystals()[0]
    with pytest.raises(ValueError, match="one per crystal"):
        generation([crystal], [crystal], MP_20, reference_name="t", energies=Energies([], [0.0], "m"))
    with pytest.raises(ValueError, match="name what computed them"):
        generation([crystal], [crystal], MP_20, reference_name="t", energies=Energies([0.0], [0.0], ""))


@lru_cache(maxsize=1)
def activations() -> Activations:
    rng = np.random.default_rng(9)
    return Activations(rng.normal(size=(N_REAL, 8)), rng.normal(0.5, 1.2, size=(len(reference()), 8)), "a network")


def adapted(n_drawn: int | None = None, with_activations: bool = True) -> Evaluation:
    made = dict(zip(("sample_prints", "reference_prints"), prints(), strict=True))
    given = activations() if with_activations else None
    return adaptive_cell(
        samples_of_real(), reference(), reference_name="test", n_drawn=n_drawn, activations=given, **made
    )


def frechet_written_out(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (x[np.isfinite(x).all(axis=1)] for x in (first, second))
    one, two = np.cov(first.T), np.cov(second.T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fingerprints span less than 61 dimensions: the roots are of singular matrices
        root = sqrtm(one)
        mixed = sqrtm(root @ two @ root).real
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one + two - 2 * mixed))


def test_the_adaptive_cell_metrics_are_those_of_structurally_valid_samples_written_out() -> None:
    rows = np.array(verdicts(samples_of_real()).structure)
    found = adapted()
    expected = coverage_written_out(rows, int(rows.sum()), MP_20)
    assert {name: found.metric(name).value for name in expected} == pytest.approx(expected, abs=1e-5)
    crystal_nn = frechet_written_out(truth()["sample"][rows], truth()["reference"])
    assert found.metric("Frechet distance, CrystalNN").value == pytest.approx(crystal_nn, abs=1e-4)
    network = frechet_written_out(activations().samples[rows], activations().reference)
    assert found.metric("Frechet distance, CGCNN").value == pytest.approx(network, rel=1e-6)
    assert found.metric("Frechet distance, CGCNN").settings["feature"] == "a network"
    for name in ("density", "number of elements"):
        expected_w = wasserstein_distance(property_of(name, samples_of_real())[rows], property_of(name, reference()))
        assert found.metric(f"W {name}").value == pytest.approx(expected_w, rel=1e-6)
    assert found.metric("COV-P").n == rows.sum() < N_REAL


def test_adaptive_cell_draws_are_seeded_and_undefined_with_too_few_valid_samples() -> None:
    assert adapted(N_DRAWN).metrics == adapted(N_DRAWN).metrics
    assert sum(adapted(N_DRAWN).per_sample["drawn"]) == N_DRAWN
    for metric in adapted(1000).metrics:
        assert math.isnan(metric.value)
        assert "draws 1000" in metric.reason
    assert [f.name for f in adapted(1000).metrics] == [f.name for f in adapted().metrics]


def test_without_activations_the_distance_of_the_network_is_undefined() -> None:
    metric = adapted(with_activations=False).metric("Frechet distance, CGCNN")
    assert math.isnan(metric.value)
    assert "not published" in metric.reason
    with pytest.raises(ValueError, match="one row per crystal"):
        adaptive_cell([], [], reference_name="t", activations=activations())


def small_cells(file: str, n_rows: int, n: int) -> list[Crystal]:
    """The first n crystals of up to 4 atoms, whose fingerprints take milliseconds."""
    try:
        path = resolve(f"assets:data/{file}")
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    with gzip.open(path, "rt", encoding="utf-8") as text:
        parsed = [parse_cif(row["cif"], 1000).to_structure() for row in islice(csv.DictReader(text), n_rows)]
    return [Crystal.from_structure(structure) for structure in parsed if len(structure) <= 4][:n]


def test_real_crystals_as_samples_reach_the_ceiling_of_every_metric() -> None:
    samples = small_cells("mp_20_biternary_val.csv.gz", 1500, 300)
    test_set = small_cells("mp_20_biternary_test.csv.gz", 2800, 600)
    assert (len(samples), len(test_set)) == (300, 600)
    found = generation(samples, test_set, MP_20, reference_name="test", n_drawn=None)
    assert found.metric("structural validity").value == 100
    assert found.metric("composition validity").value > 85  # SMACT refuses some real compounds
    assert found.metric("COV-R").value > 90
    assert found.metric("COV-P").value > 90
    assert found.metric("W density").value < 0.05 * property_of("density", tuple(test_set)).mean()
    assert found.metric("W number of elements").value < 0.15
