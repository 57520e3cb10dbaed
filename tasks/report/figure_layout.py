"""How the interactive figures look: layout, axes and notes as plotly JSON."""

from __future__ import annotations

from typing import Any

Figure = dict[str, Any]

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
