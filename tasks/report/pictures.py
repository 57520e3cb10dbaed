"""Pictures of crystals, drawn with numpy: orthographic, lit, depth-buffered spheres and sticks; PNG and rotating WebP.

Nothing here needs a display, a browser or a viewer. Pictures are the same bytes for the same crystal.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pymatgen.core.structure import Structure

from tasks.report.palette import RGB
from tasks.report.png import PNG_LIMIT_BYTES
from tasks.report.scene import FloatArray, Scene, build_scene, view_rotation

AZIMUTH_DEG, ELEVATION_DEG = 24.0, 14.0
"""The still view: far enough off the axes that no two edges of a cubic cell coincide."""

BOND_RADIUS_ANG = 0.10
EDGE_RADIUS_ANG = 0.022
EDGE_COLOUR = np.array([120.0, 126.0, 136.0])
BACKGROUND = 255.0
LIGHT = np.array([-0.42, 0.58, 0.70]) / np.linalg.norm([-0.42, 0.58, 0.70])
HALFWAY = (LIGHT + np.array([0.0, 0.0, 1.0])) / np.linalg.norm(LIGHT + np.array([0.0, 0.0, 1.0]))
FOG = 0.30
"""Share of background mixed into whatever lies farthest back."""

WEBP_LIMIT_BYTES = 100_000


class _Canvas:
    """A depth-buffered picture. x right, y up, z toward the viewer, angstrom from the picture's middle."""

    def __init__(self, width: int, height: int, pixels_per_ang: float, depth_ang: float) -> None:
        self.rgb = np.full((height, width, 3), BACKGROUND)
        self.depth = np.full((height, width), -np.inf)
        self.scale = pixels_per_ang
        self.depth_ang = max(depth_ang, 1e-6)

    def _window(self, low: FloatArray, high: FloatArray) -> tuple[slice, slice, FloatArray, FloatArray] | None:
        """Rows, columns and pixel centres (x, y in angstrom) of the box from low to high; None if it lies outside."""
        height, width = self.depth.shape
        left = max(int(np.floor(width / 2 + low[0] * self.scale)), 0)
        right = min(int(np.ceil(width / 2 + high[0] * self.scale)) + 1, width)
        top = max(int(np.floor(height / 2 - high[1] * self.scale)), 0)
        bottom = min(int(np.ceil(height / 2 - low[1] * self.scale)) + 1, height)
        if left >= right or top >= bottom:
            return None
        x: FloatArray = np.asarray((np.arange(left, right) + 0.5 - width / 2) / self.scale, dtype=np.float64)
        y: FloatArray = np.asarray((height / 2 - np.arange(top, bottom) - 0.5) / self.scale, dtype=np.float64)
        return slice(top, bottom), slice(left, right), x[None, :], y[:, None]

    def _paint(self, rows: slice, columns: slice, depth: FloatArray, rgb: FloatArray) -> None:
        seen = depth > self.depth[rows, columns]
        fog = FOG * np.clip(0.5 - depth / (2 * self.depth_ang), 0.0, 1.0)[..., None]
        faded = rgb * (1 - fog) + BACKGROUND * fog
        self.rgb[rows, columns][seen] = faded[seen]
        self.depth[rows, columns][seen] = depth[seen]

    def sphere(self, centre: FloatArray, radius: float, colour: FloatArray) -> None:
        window = self._window(centre[:2] - radius, centre[:2] + radius)
        if window is None:
            return
        rows, columns, x, y = window
        nx, ny = np.broadcast_arrays((x - centre[0]) / radius, (y - centre[1]) / radius)
        inside = 1 - nx**2 - ny**2
        nz = np.sqrt(np.maximum(inside, 0.0))
        depth = np.where(inside > 0, centre[2] + radius * nz, -np.inf)
        self._paint(rows, columns, depth, _lit(np.stack([nx, ny, nz], axis=-1), colour))

    def stick(self, start: FloatArray, end: FloatArray, radius: float, colour: FloatArray, lit: bool = True) -> None:
        axis = end - start
        length = float(np.linalg.norm(axis))
        across = float(np.hypot(axis[0], axis[1]))
        if across < 1e-6 or length < 1e-6:
            return  # seen end on: a point, hidden by its atom
        axis = axis / length
        along = np.array([axis[0], axis[1], 0.0]) * length / across
        side = np.array([-along[1], along[0], 0.0])
        front = np.array([-axis[2] * side[1], axis[2] * side[0], axis[0] * side[1] - axis[1] * side[0]])
        front = front if front[2] > 0 else -front
        window = self._window(np.minimum(start, end)[:2] - radius, np.maximum(start, end)[:2] + radius)
        if window is None:
            return
        rows, columns, x, y = window
        dx, dy = x - start[0], y - start[1]
        offset = dx * side[0] + dy * side[1]
        height = np.sqrt(np.maximum(radius**2 - offset**2, 0.0))
        reach = (dx * along[0] + dy * along[1] - height * float(front @ along)) * length / across
        hit = (np.abs(offset) < radius) & (reach >= 0) & (reach <= length)
        depth = np.where(hit, start[2] + reach * axis[2] + height * front[2], -np.inf)
        normal = (offset[..., None] * side + height[..., None] * front) / radius
        rgb = _lit(normal, colour) if lit else np.broadcast_to(colour, (*depth.shape, 3))
        self._paint(rows, columns, depth, rgb)


def _lit(normal: FloatArray, colour: FloatArray) -> FloatArray:
    """Colour (0-255) of a surface with these unit normals, (..., 3): soft key light, small highlight, darker rim."""
    diffuse = np.clip(normal @ LIGHT, 0.0, 1.0)[..., None]
    gleam = np.clip(normal @ HALFWAY, 0.0, 1.0)[..., None] ** 36
    rim = 0.72 + 0.28 * np.clip(normal[..., 2:3] * 1.6, 0.0, 1.0)
    shaded = colour * (0.50 + 0.58 * diffuse) * rim
    lit: FloatArray = np.clip(shaded + 175.0 * gleam, 0.0, 255.0)
    return lit


def _draw(
    scene: Scene, rotation: FloatArray, width: int, height: int, pixels_per_ang: float, shift: FloatArray
) -> Image.Image:
    canvas = _Canvas(width, height, pixels_per_ang, scene.extent_ang)
    offset = np.array([shift[0], shift[1], 0.0])
    atoms = scene.positions_ang @ rotation.T - offset
    edges = scene.edges_ang @ rotation.T - offset
    colours = np.array(scene.colours, dtype=float)
    for start, end in edges:
        canvas.stick(start, end, max(EDGE_RADIUS_ANG, 1.1 / pixels_per_ang), EDGE_COLOUR, lit=False)
    for first, second in scene.bonds:
        middle = (atoms[first] + atoms[second]) / 2
        canvas.stick(atoms[first], middle, BOND_RADIUS_ANG, colours[scene.kinds[first]])
        canvas.stick(middle, atoms[second], BOND_RADIUS_ANG, colours[scene.kinds[second]])
    for position, kind in zip(atoms, scene.kinds, strict=True):
        canvas.sphere(position, scene.radii_ang[kind], colours[kind])
    return Image.fromarray(np.round(canvas.rgb).astype(np.uint8))


def _bounds_ang(scene: Scene, rotation: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lower and upper corner (x, y) of everything drawn, angstrom."""
    atoms = (scene.positions_ang @ rotation.T)[:, :2]
    radii = np.array(scene.radii_ang)[scene.kinds][:, None]
    corners = (scene.edges_ang.reshape(-1, 3) @ rotation.T)[:, :2]
    low = np.minimum((atoms - radii).min(axis=0), corners.min(axis=0))
    high = np.maximum((atoms + radii).max(axis=0), corners.max(axis=0))
    return low, high


def _legend(symbols: Sequence[str], colours: Sequence[RGB], width: int, height: int) -> Image.Image:
    """A strip with one small sphere and symbol per element, centred."""
    sharpness = 3
    font_file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(str(font_file), round(height * 0.56) * sharpness)
    ball, gap, space = height * 0.30, height * 0.22, height * 0.62
    widths = [2 * ball + gap + font.getlength(s) / sharpness for s in symbols]
    total = sum(widths) + space * (len(symbols) - 1)
    canvas = _Canvas(width * sharpness, height * sharpness, float(sharpness), 1.0)
    x = -total / 2
    for colour, taken in zip(colours, widths, strict=True):
        canvas.sphere(np.array([x + ball, 0.0, 2.0]), ball, np.array(colour, dtype=float))
        x += taken + space
    strip = Image.fromarray(np.round(canvas.rgb).astype(np.uint8))
    draw = ImageDraw.Draw(strip)
    x = (width - total) / 2
    for symbol, taken in zip(symbols, widths, strict=True):
        draw.text(
            ((x + 2 * ball + gap) * sharpness, height * sharpness / 2),
            symbol,
            fill=(70, 76, 86),
            font=font,
            anchor="lm",
        )
        x += taken + space
    return strip.resize((width, height), Image.Resampling.LANCZOS)


def crystal_png(structure: Structure, size_px: int = 360, palette_elements: Sequence[str] = ()) -> bytes:
    """A still picture of the conventional cell with a legend of its elements, PNG, under 60 kB.

    Args:
        structure: ordered crystal.
        size_px: width and height, 64 to 1024 pixels.
        palette_elements: the run's chemical system, so that an element has one colour in all its pictures.
    Raises: ValueError: if the size is out of range or the crystal is disordered.
    """
    if not 64 <= size_px <= 1024:
        raise ValueError(f"size_px is {size_px}, expected 64 to 1024: choose a size a page can show")
    scene = build_scene(structure, palette_elements)
    rotation = view_rotation(AZIMUTH_DEG, ELEVATION_DEG)
    legend_px = max(16, round(size_px * 0.075))
    room = np.array([size_px, size_px - legend_px * 1.5], dtype=float)
    low, high = _bounds_ang(scene, rotation)
    pixels_per_ang = float(np.min(0.95 * room / np.maximum(high - low, 1.0)))
    sharpness = 3 if size_px <= 480 else 2
    drawn = _draw(
        scene, rotation, size_px * sharpness, round(room[1]) * sharpness, pixels_per_ang * sharpness, (low + high) / 2
    )
    picture = Image.new("RGB", (size_px, size_px), "white")
    picture.paste(drawn.resize((size_px, round(room[1])), Image.Resampling.LANCZOS), (0, 0))
    legend = _legend(scene.symbols, scene.colours, size_px, legend_px)
    picture.paste(legend, (0, size_px - round(legend_px * 1.25)))
    for n_colours in (256, 128, 64, 32):
        reduced = picture.quantize(n_colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
        raw = _encoded(reduced, "PNG", optimize=True)
        if len(raw) < PNG_LIMIT_BYTES:
            break
    return raw


def crystal_webp_rotating(
    structure: Structure, size_px: int = 240, n_frames: int = 24, palette_elements: Sequence[str] = ()
) -> bytes:
    """One slow turn about the upright axis, animated WebP that loops, under 100 kB.

    Args:
        structure: ordered crystal.
        size_px: width and height, pixels.
        n_frames: pictures per turn.
        palette_elements: the run's chemical system, so that an element has one colour in all its pictures.
    Raises: ValueError: if the crystal is disordered.
    """
    scene = build_scene(structure, palette_elements)
    sharpness = 2
    pixels_per_ang = 0.97 * size_px / (2 * scene.extent_ang)
    frames = []
    for index in range(n_frames):
        rotation = view_rotation(AZIMUTH_DEG + 360.0 * index / n_frames, ELEVATION_DEG)
        side = size_px * sharpness
        frame = _draw(scene, rotation, side, side, pixels_per_ang * sharpness, np.zeros(2))
        frames.append(frame.resize((size_px, size_px), Image.Resampling.LANCZOS))
    for quality in (80, 65, 50, 35, 20):
        raw = _encoded(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=110, loop=0, quality=quality, method=4
        )
        if len(raw) < WEBP_LIMIT_BYTES:
            break
    return raw


def _encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
