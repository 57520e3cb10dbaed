"""How the interactive figures look: layout, axes and notes as plotly JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.report.label_places import FloatArray, label_offsets, label_size_px

Figure = dict[str, Any]

PLOT_PX = (1126.0, 600.0)
"""Width and height of a figure on the page, for which names are placed."""

LETTER_PX = 12.0

INK = "#1c212b"
"""Colour of text on light paper; the page swaps it in the dark."""

FLAT_LEGEND = {
    "orientation": "h",
    "x": 0,
    "y": 1.02,
    "yanchor": "bottom",
    "font": {"size": 12},
    "itemclick": False,
    "itemdoubleclick": False,
}
"""Above the axes; a triangle leaves its upper left corner free instead."""


def figure_layout(**changes: Any) -> Figure:
    """What all figures share, with these entries changed."""
    chosen: Figure = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "legend": {
            "x": 0,
            "y": 1,
            "yanchor": "top",
            "font": {"size": 12},
            "bgcolor": "rgba(0,0,0,0)",
            "itemclick": False,
            "itemdoubleclick": False,
        },
        "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": "#8a93a3", "activecolor": INK},
        "dragmode": "pan",
    }
    chosen.update(changes)
    return chosen


def figure_axis(title: str, **changes: Any) -> Figure:
    """An axis with its title, unit included."""
    return {
        "title": {"text": title, "font": {"size": 12}},
        "gridcolor": "rgba(128,138,155,0.18)",
        "zerolinecolor": "rgba(128,138,155,0.5)",
        "automargin": True,
        "ticks": "outside",
        "tickcolor": "rgba(128,138,155,0.4)",
        **changes,
    }


def text_note(x: float, y: float, text: str, **changes: Any) -> Figure:
    """A text at a point of the axes."""
    return {"x": x, "y": y, "text": text, "showarrow": False, "font": {"size": 12, "color": INK}, **changes}


def names_apart(
    places: Sequence[Figure],
    texts: Sequence[str],
    formulas: Sequence[str],
    anchors_px: FloatArray,
    dots_px: FloatArray,
    taken: Sequence[FloatArray] = (),
) -> list[Figure]:
    """Annotations that name points, each where it covers no other; a thin line leads from a name to its point.

    Args:
        places: the points by the axes' names, such as {"x": 0.5, "y": -1.2}.
        texts: what stands there, HTML.
        formulas: the same plain, for its width.
        anchors_px: the points in pixels, y upward, (n, 2).
        dots_px: all points of the picture, (m, 2).
        taken: boxes that stay free; see label_offsets.
    """
    sizes = np.array([label_size_px(formula, LETTER_PX) for formula in formulas]).reshape(-1, 2)
    offsets = label_offsets(anchors_px, sizes, dots_px, LETTER_PX, taken)
    return [
        {
            **place,
            "text": text,
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 0.8,
            "arrowcolor": "#8a93a3",
            "standoff": 5,
            "ax": round(float(right), 1),
            "ay": round(-float(up), 1),
            "xanchor": "center",
            "yanchor": "middle",
            "borderpad": 0,
            "font": {"size": LETTER_PX, "color": INK},
        }
        for place, text, (right, up) in zip(places, texts, offsets, strict=True)
    ]


def corner_note(text: str, y: float = 0.0) -> list[Figure]:
    """A sentence in the lower left corner of the picture; none of an empty one."""
    if not text:
        return []
    place = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "align": "left"}
    return [text_note(0.0, y, text, **place, name="corner", font={"size": 11, "color": INK})]
