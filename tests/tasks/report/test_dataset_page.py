"""The report of a dataset: pictures of what was counted, a page that loads nothing, text that stays text."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pymatgen.core.periodic_table import Element

from generative.config import ELEMENTS
from generative.datasets.config import FilterConfig
from generative.datasets.manifest import HarvestRecord, Manifest, SourceRecord
from tasks.report.dataset.artifacts import dataset_link, dataset_markdown
from tasks.report.dataset.page import dataset_html
from tasks.report.dataset.plots import (
    DatasetPictures,
    cells_png,
    elements_png,
    energies_png,
    energy_range_ev_per_atom,
    method_colours,
    periodic_place,
    short,
    spacegroup_name,
)
from tasks.report.dataset.statistics import DatasetStatistics, Refusals

HOSTILE = "<script>alert(1)</script>|`[x](javascript:1)` \"'"


def statistics(n_methods: int = 2, n_elements: int = 40) -> DatasetStatistics:
    rng = np.random.default_rng(0)
    methods = [f"method {i}" for i in range(n_methods)]
    return DatasetStatistics(
        n_rows=10_000,
        n_formulas=4_321,
        elements={symbol: int(10 ** rng.uniform(0, 4)) for symbol in ELEMENTS[:n_elements]},
        n_elements={1: 100, 2: 3000, 3: 6900},
        n_atoms={n: int(rng.integers(1, 500)) for n in range(1, 120)},
        spacegroups={None: 7, **{n: int(rng.integers(1, 200)) for n in range(1, 231)}},
        formation_ev_per_atom={m: rng.normal(-1 - i, 0.5, 2000).astype("f4") for i, m in enumerate(methods)},
        above_hull_ev_per_atom={m: rng.exponential(0.1, 2000).astype("f4") for m in methods},
        methods=dict.fromkeys(methods, 2000),
        refusals=(Refusals("s", f"… {HOSTILE}", 12, f"0.3 {HOSTILE}", "mp-1"),),
        n_refused=12,
    )


def manifest(text: str = "elements HAS ALL 'Ta'") -> Manifest:
    harvest = HarvestRecord(
        endpoint="https://example.org/v1/",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00",
        n_records=10_100,
        n_repeated=3,
        n_requests=71,
        n_retries=2,
        limit=10_100,
        n_added=4,
        n_changed=5,
        n_removed=6,
        warnings=(f"the database moved {text}",),
    )
    counts = {"n_read": 10_100, "n_kept": 10_000, "n_filtered": 88, "n_rejected": 12}
    asked = SourceRecord(
        source="alexandria", kind="optimade", query=text, database_version="2", method=text, harvest=harvest, **counts
    )
    file = SourceRecord(
        source="mine", kind="files", query="a.csv", method="PBE", n_read=0, n_kept=0, n_filtered=0, n_rejected=0
    )
    return Manifest(
        sources=(asked, file),
        elements=("Ta", "W"),
        filters=FilterConfig(),
        created="2026-01-01T00:00:00+00:00",
        n_rows=10_000,
        fingerprint_sha256="f" * 64,
    )


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def n_pixels_near(png: bytes, colour: str, within: int = 12) -> int:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels(png) - rgb).max(axis=2) <= within).sum())


def test_the_periodic_table_is_the_usual_one() -> None:
    places = {symbol: periodic_place(number) for number, symbol in enumerate(ELEMENTS, start=1)}
    assert len(set(places.values())) == len(ELEMENTS)
    for symbol, (column, row) in places.items():
        element = Element(symbol)
        if element.is_lanthanoid or element.is_actinoid:
            assert row > 7
        else:
            assert (column + 1, row + 1) == (element.group, element.row)


@pytest.mark.parametrize("count", [1, 1000])
def test_an_element_is_darker_the_more_crystals_hold_it(count: int) -> None:
    base = replace(statistics(), elements={"Ta": 5000, "W": 50, "B": count})
    image = pixels(elements_png(base))

    def tone(symbol: str) -> float:
        column, row = periodic_place(Element(symbol).Z)
        height, width = image.shape[:2]
        x = width * (0.01 + 0.98 * (column + 0.15 + 0.12) / 18.3)
        y = height * (0.01 + 0.98 * (row + 0.15 + 0.12) / 9.7)
        return float(image[int(y), int(x)].sum())

    order = sorted(base.elements, key=lambda symbol: base.elements[symbol])
    tones = [tone(symbol) for symbol in order]
    assert tones[0] > tones[1] + 30 > tones[2] + 60
    assert tone("Ti") > 720  # none: nearly white


@pytest.mark.parametrize("n_methods", [1, 2, 6])
def test_each_method_has_a_colour_of_its_own_and_the_picture_shows_it(n_methods: int) -> None:
    counted = statistics(n_methods)
    colours = method_colours(counted)
    assert len(set(colours.values())) == n_methods
    picture = energies_png(counted)
    assert picture is not None
    for colour in colours.values():
        assert n_pixels_near(picture, colour) > 200
    for unused in set(method_colours(statistics(6)).values()) - set(colours.values()):
        assert n_pixels_near(picture, unused) < 20


def test_methods_beyond_the_colours_are_named_and_not_drawn() -> None:
    counted = statistics(8)
    assert len(method_colours(counted)) == 6
    page = dataset_html("x", manifest(), counted, DatasetPictures.of(counted))
    assert "Not drawn, for want of colours: method 6, method 7." in page


def test_one_wild_energy_does_not_press_the_others_together() -> None:
    rng = np.random.default_rng(1)
    energies = np.append(rng.normal(-1, 0.3, 5000), [480.0, -900.0]).astype("f4")
    low, high = energy_range_ev_per_atom([energies])
    assert -2.5 < low < high < 0.5
    assert np.mean((energies >= low) & (energies <= high)) > 0.98
    same = energy_range_ev_per_atom([np.full(3, 0.02, dtype="f4")])
    assert same[1] - same[0] >= 0.1 - 1e-9


def test_pictures_are_small_and_of_one_dataset_always_the_same() -> None:
    counted = statistics(6, len(ELEMENTS))
    for picture in vars(DatasetPictures.of(counted)).values():
        assert picture is not None
        assert len(picture) < 300_000
        assert pixels(picture).shape[1] > 1100
    assert elements_png(counted) == elements_png(counted)
    assert energies_png(counted) == energies_png(counted)
    assert cells_png(counted) == cells_png(counted)


def test_an_empty_dataset_has_a_page_that_says_so() -> None:
    empty = DatasetStatistics(0, 0, {}, {}, {}, {}, {}, {}, {}, (), 0)
    pictures = DatasetPictures.of(empty)
    assert (pictures.energies, pictures.cells) == (None, None)
    page = dataset_html("none", manifest(), empty, pictures)
    assert "0 known crystals" in page
    assert 'id="energies"' not in page
    assert "# Dataset none" in dataset_markdown("none", manifest(), empty, pictures)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (950, "950"), (1200, "1.2k"), (34_400, "34k"), (1.54e6, "1.5M"), (2.5e7, "25M")]
)
def test_counts_in_a_cell_are_short(count: float, text: str) -> None:
    assert short(count) == text


def test_space_groups_have_their_short_symbols() -> None:
    assert spacegroup_name(12) == "C2/m (12)"
    assert spacegroup_name(62) == "Pnma (62)"
    assert re.sub(r"\$|\\mathregular|\\bar|[{}]", "", spacegroup_name(225)) == "Fm3m (225)"
    assert "bar" in spacegroup_name(225)


class Tags(HTMLParser):
    """Tags and their attributes; and that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_lets_no_text_out() -> None:
    name = HOSTILE + r" $\nothing{$"
    counted = replace(statistics(), methods={name: 3}, formation_ev_per_atom={name: np.ones(3, dtype="f4")})
    assert energies_png(replace(counted, above_hull_ev_per_atom={})) is not None
    text = dataset_html(HOSTILE, manifest(HOSTILE), counted, DatasetPictures.of(counted))
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in {tag for tag, _ in tags.found}
    for tag, attributes in tags.found:
        for name in ("src", "href"):
            assert str(attributes.get(name, "data:")).startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "default-src 'none'" in text


def test_the_page_and_the_artifact_say_where_the_records_went_and_how_they_came() -> None:
    counted = statistics()
    pictures = DatasetPictures.of(counted)
    page, text = dataset_html("x", manifest(), counted, pictures), dataset_markdown("x", manifest(), counted, pictures)
    for said in ("10,100", "10,000", "88", "12", "71", "https://example.org/v1/", "alexandria", "4,321"):
        assert said in page
        assert said in text
    assert "cut to the first 10,100 records" in page
    assert "f" * 64 in page
    assert "f" * 64 in text
    assert len(text.encode()) < 300_000
    assert text.count("data:image/png;base64,") == 3


def test_text_from_outside_does_not_break_the_tables_of_the_artifact() -> None:
    counted = statistics()
    text = dataset_markdown("x", manifest(HOSTILE), counted, DatasetPictures.of(counted))
    assert "<script>" not in re.sub(r"\\(.)", "", text)
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 3
    for block in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_the_link_leads_to_where_the_reports_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HULLWARD_REPORTS_URL", raising=False)
    assert dataset_link(Path("runs/datasets/ta w")) == ""
    monkeypatch.setenv("HULLWARD_REPORTS_URL", "http://127.0.0.1:4201/")
    assert "(http://127.0.0.1:4201/datasets/ta%20w/report.html)" in dataset_link(Path("runs/datasets/ta w"))
    assert dataset_link(tmp_path / "elsewhere" / "x") == ""
