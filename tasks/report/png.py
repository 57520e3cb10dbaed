"""Pictures as PNGs small enough to lie in an artifact, several beside its text."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

PNG_LIMIT_BYTES = 60_000
"""Three of them and the text stay below what one artifact may hold."""


def figure_png(figure: Figure) -> bytes:
    """A figure with as many colours, up to 256, as keep it below the limit."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
    for n_colours in (256, 128, 64):
        buffer = io.BytesIO()
        picture.quantize(n_colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() < PNG_LIMIT_BYTES:
            break
    return buffer.getvalue()
