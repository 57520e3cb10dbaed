"""Settings files as nobody should write them: settings, or one sentence that names the file, and no more than that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.overrides import override
from configs.schema import ConfigError, DiscoverConfig, load
from tests.fuzzing import Fuzz

CONFIGS = Path(__file__).parents[1] / "configs" / "presets"
SEEDS = [path.read_text() for path in sorted(CONFIGS.glob("*.yaml"))]
WORDS = (
    ".nan",
    ".inf",
    "1e308",
    "-1",
    "9" * 5000,
    "0x" + "f" * 9000,
    ":".join(["59"] * 3000),
    "[" * 300,
    "{a: " * 300,
    "*a",
    "&a [*a]",
    "&a {b: *a}",
    '"\\ud800"',
    '"\\0"',
    "!!python/name:os.system",
    "!!binary x",
    "!!set {a: 1}",
    "2024-99-99",
    "? [a]",
    "<<: 3",
    "null",
    "true",
    "x" * 5000,
    "[]",
    "{}",
    "\t",
    "é\u2028",
    "[Fe, Fe, Qq]",
    "%TAG ! x",
    "---",
    "'",
)


def aliases(rng: np.random.Generator) -> str:
    """Lines each of which stands for many of the one before."""
    names = "abcdefghij"[: int(rng.integers(3, 11))]
    lines = [f"{names[0]}: &{names[0]} [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip(names, names[1:], strict=False)
    ]
    return "\n".join(lines)


def hostile(rng: np.random.Generator) -> str:
    if rng.random() < 0.15:
        return aliases(rng)
    text = SEEDS[int(rng.integers(len(SEEDS)))]
    for _ in range(int(rng.integers(1, 4))):
        lines = text.split("\n")
        at = int(rng.integers(len(lines)))
        word = WORDS[int(rng.integers(len(WORDS)))]
        kind = int(rng.integers(5))
        if kind == 0:
            lines[at] = lines[at].partition(":")[0] + ": " + word
        elif kind == 1:
            lines[at] = word
        elif kind == 2:
            lines[at] = "  " * int(rng.integers(5)) + lines[at].lstrip() * int(rng.integers(1, 60))
        elif kind == 3:
            del lines[at:]
        else:
            lines[at:at] = [f"{word[:40]}: {i}" for i in range(int(rng.integers(1, 300)))]
        text = "\n".join(lines)
    return text


@pytest.mark.fuzz
def test_a_hostile_settings_file_is_settings_or_one_sentence_that_names_it(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for case, rng in enumerate(fuzz.cases(60)):
        text = hostile(rng)
        path.write_text(text)
        what = f"case {case}: {text[:200]!r}"
        try:
            settings = load(DiscoverConfig, path)
        except ConfigError as error:
            said = str(error)
            if path.name in said and len(said) < 25_000 and "\n" not in said.strip():
                fuzz.ended("refused")
            else:
                fuzz.failed(f"{what} -> {said[:300]}")
        except BaseException as error:
            fuzz.failed(f"{what} -> {type(error).__name__}: {str(error)[:200]}")
        else:
            fuzz.ended("settings" if isinstance(settings, DiscoverConfig) else "nothing")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{c}: &{c} [{', '.join([f'*{b}'] * 10)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "values, aliases counted: expected at most 100000",
        ),
        ("a: " + "[" * 50_000, "nested deeper than 30 levels"),
        ("elements: " + "[" * 40 + "]" * 40, "nested 31 levels deep: expected at most 30"),
        ("a: &a [*a]", "an alias stands for what it is part of"),
        ("name: " + "x" * 1_000_001, "expected at most 1000000"),
        ("seed: " + "9" * 5000, "a value is none that YAML has"),
    ],
)
def test_yaml_that_states_more_than_settings_do_is_refused_by_its_limit(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(DiscoverConfig, tmp_path / "mine.yaml")


def test_a_setting_of_the_command_line_has_the_same_limits() -> None:
    for text in ("[" * 50_000, "9" * 5000, "&a [*a]", '!!python/name:os.system ""'):
        with pytest.raises(ConfigError, match="the value is no YAML value") as caught:
            override({}, [f"seed={text}"])
        assert len(str(caught.value)) < 400
    assert override({}, ["sample.n_candidates=32"]) == {"sample": {"n_candidates": 32}}
