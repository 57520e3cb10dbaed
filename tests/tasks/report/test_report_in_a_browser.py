"""report.html as a browser lays it out at 1280 pixels: nothing runs out of its box, and no name covers another."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.report.run.model import ReportInputs, SecondOpinion
from tasks.report.run.page import write_report
from tests.servers.chromium import Page, browsing, chromium

pytestmark = pytest.mark.slow

SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NOTE = "53 competing phase(s) near the first hull were not judged (judge.crystals_max)"


def judged(inputs: ReportInputs) -> ReportInputs:
    """The widest table: a judge with a note on every candidate, phonons, long names of prototypes."""
    opinion = SecondOpinion(
        method="SevenNet-l3i5", first_rank=1, e_above_hull_ev_per_atom=0.123, formation_energy_ev_per_atom=-1.0,
        agree=False, probability=0.5, hull_note=NOTE, note=NOTE,
    )  # fmt: skip
    candidates = tuple(
        dataclasses.replace(
            c, opinion=opinion, lowest_phonon_thz=-1.5, dynamically_stable=False, page_path=f"candidates/{c.id}.html",
            prototype_match="prototypes:A2BC4_tI14_82_bc_a_g[Al=Al,Cd=N,S=Ti]", known_match="mp_20_train_part:mp-16220",
        )
        for c in inputs.candidates
    )  # fmt: skip
    return dataclasses.replace(inputs, candidates=candidates, judges=("SevenNet-l3i5",))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if chromium() is None:
        pytest.skip("no chromium: install Debian's package of that name to look at pages")
    with browsing(tmp_path_factory.mktemp("browser"), *SOFTWARE_GL) as first:
        first.ask("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
        yield first


def boxes(page: Page, what: str) -> list[dict[str, Any]]:
    script = (
        f"JSON.stringify([...document.querySelectorAll({json.dumps(what)})].map(e => ({{text: e.textContent, "
        "...e.getBoundingClientRect().toJSON()})))"
    )
    found: list[dict[str, Any]] = json.loads(page.value(script))
    return found


def light_blue_px(page: Page) -> int:
    """Pixels of the hull's picture in light blue: in three dimensions the surface, else the edges of lines."""
    box = boxes(page, "#hull-plot")[0]
    clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"], "scale": 1}
    taken = page.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(taken))).convert("RGB"), dtype=int)
    return int(((pixels[..., 2] - pixels[..., 0] > 8) & (pixels.min(axis=2) > 170)).sum())


def test_at_1280_pixels_nothing_is_wider_than_the_page_and_names_lie_apart(
    page: Page, make_inputs: Callable[..., ReportInputs], tmp_path: Path
) -> None:
    page.go(write_report(judged(make_inputs()), tmp_path / "report.html").as_uri())
    page.wait_for("document.querySelectorAll('#hull-plot .annotation').length > 8")
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    assert page.value(wide) == 0
    flat = light_blue_px(page)
    for figure in ("plane", "space"):  # in space names are placed for the first view, which is the one looked at
        page.value(f"document.querySelector('[data-figure={figure}]').click()")
        texts = "#hull-plot .annotation-text"
        page.wait_for(f"shownFigure === '{figure}' && document.querySelectorAll('{texts}').length > 8")
        named = [box for box in boxes(page, texts) if box["text"] and box["width"]]
        shown = {box["text"].replace("\u200b", "") for box in named}
        assert {"TiN", "AlN"} <= shown, shown
        assert any("Al" in text and "Ti" in text for text in shown), shown
        for a, b in itertools.combinations(named, 2):
            apart = (
                a["right"] <= b["left"] or b["right"] <= a["left"] or a["bottom"] <= b["top"] or b["bottom"] <= a["top"]
            )
            assert apart, (figure, a, b)
    page.wait_for("document.querySelector('#hull-plot canvas') !== null")
    assert light_blue_px(page) > max(10 * flat, 30_000)  # of some 700,000
    page.value("document.getElementById('all-columns').click()")
    assert page.value("getComputedStyle(document.querySelector('[data-column=smact]')).display") != "none"
