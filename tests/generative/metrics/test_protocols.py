import importlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from configs.evaluation import ProtocolName
from generative import metrics
from generative.metrics.protocols import EVALUATIONS, PROTOCOLS, SampleSet, evaluations_of
from tasks.evaluate.protocols import MAKERS
from tests.generative.metrics.crystal_sets import real_crystals


def test_every_name_that_settings_allow_is_a_protocol_and_the_reverse() -> None:
    assert set(get_args(ProtocolName)) == set(PROTOCOLS)


def test_every_protocol_names_evaluations_that_exist_and_says_what_it_is() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.evaluations
        assert set(protocol.evaluations) <= set(EVALUATIONS)
        assert protocol.about.endswith(".")
        assert protocol.about.count(". ") == 0  # one sentence
        assert protocol.source


def test_every_evaluation_can_be_made_and_is_named_as_its_results_are() -> None:
    assert set(MAKERS) == set(EVALUATIONS)
    named = set()
    for module in sorted(Path(metrics.__file__).parent.glob("*.py")):
        content = vars(importlib.import_module(f"generative.metrics.{module.stem}"))
        named |= {value for key, value in content.items() if key.isupper() and isinstance(value, str)}
    assert set(EVALUATIONS) <= named


def test_all_is_every_evaluation_once_in_one_order() -> None:
    assert evaluations_of(["all"]) == EVALUATIONS
    assert evaluations_of(["sun", "cdvae", "all"]) == EVALUATIONS
    assert evaluations_of(["condition-cdvae", "cdvae"]) == (
        "cdvae reconstruction",
        "reconstruction by part",
        "metre",
        "cdvae generation",
        "condition-cdvae novelty",
        "ground state",
    )


def test_an_unknown_protocol_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"'mattergen'.*condition-cdvae"):
        evaluations_of(["cdvae", "mattergen"])


def test_reading_the_protocols_loads_neither_matcher_nor_fingerprints() -> None:
    code = (
        "import sys, generative.metrics.protocols; "
        "print([m for m in ('torch', 'numba', 'matminer', 'smact', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sample_set_keeps_every_row_and_says_why_some_are_no_crystals() -> None:
    crystals = [real_crystals()[0], None, real_crystals()[1], None]
    samples = SampleSet.of(crystals, "a file", reasons={3: "the cell is flat"})
    assert (len(samples), samples.n_crystals) == (4, 2)
    assert samples.ids == ("0", "1", "2", "3")
    assert samples.reasons == {1: "the sample holds no crystal", 3: "the cell is flat"}


def test_a_sample_set_refuses_ids_given_twice_and_rows_without_a_reason() -> None:
    crystal = real_crystals()[0]
    with pytest.raises(ValueError, match="none given twice"):
        SampleSet((crystal, crystal), ("a", "a"), {}, "x")
    with pytest.raises(ValueError, match="one id per row"):
        SampleSet((crystal,), (), {}, "x")
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        SampleSet((crystal, None), ("a", "b"), {}, "x")
    with pytest.raises(ValueError, match=r"rows \[0\]"):
        SampleSet((crystal,), ("a",), {0: "bad"}, "x")
