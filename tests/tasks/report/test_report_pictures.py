"""Scenes and pictures of crystals against counts known from crystallography."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from tasks.report.palette import LOOK_ALIKE, _distance, drawn_radius_ang, element_colours
from tasks.report.pictures import WEBP_LIMIT_BYTES, crystal_png, crystal_webp_rotating
from tasks.report.png import PNG_LIMIT_BYTES
from tasks.report.scene import build_scene, view_rotation


def test_rocksalt_is_drawn_as_its_27_atom_cube_with_54_bonds(make_crystal: Callable[[str], Structure]) -> None:
    # The cube with its faces is a 3 x 3 x 3 grid of alternating Ti and N, with 3 * 2 * 9 pairs of neighbours.
    scene = build_scene(make_crystal("TiN").get_primitive_structure())
    assert scene.conventional
    assert len(scene.positions_ang) == 27
    assert len(scene.bonds) == 54
    lengths = np.linalg.norm(scene.positions_ang[scene.bonds[:, 0]] - scene.positions_ang[scene.bonds[:, 1]], axis=1)
    np.testing.assert_allclose(lengths, 4.24 / 2, atol=1e-6)
    kinds = scene.kinds[scene.bonds]
    assert (kinds[:, 0] != kinds[:, 1]).all()  # no Ti-Ti or N-N stick


def test_perovskite_titanium_has_six_bonds_and_its_corner_atom_is_drawn_eight_times() -> None:
    structure = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )
    scene = build_scene(structure)
    kinds = [scene.symbols[k] for k in scene.kinds]
    assert (kinds.count("Sr"), kinds.count("Ti"), kinds.count("O")) == (8, 1, 6)
    titanium = kinds.index("Ti")
    assert int(np.sum(scene.bonds == titanium)) == 6


def test_an_atom_a_hair_inside_a_face_is_repeated_outside_it() -> None:
    lattice = Lattice.orthorhombic(6.0, 7.0, 8.0)
    structure = Structure(lattice, ["Ti", "Al", "N"], [[0.999, 0.3, 0.41], [0.31, 0.62, 0.27], [0.57, 0.11, 0.73]])
    scene = build_scene(structure)
    assert [scene.symbols[k] for k in scene.kinds].count("Ti") == 2


def test_the_cell_outline_has_the_edge_lengths_of_the_drawn_cell(make_crystal: Callable[[str], Structure]) -> None:
    scene = build_scene(make_crystal("AlN"))
    lengths = sorted(np.linalg.norm(scene.edges_ang[:, 1] - scene.edges_ang[:, 0], axis=1))
    np.testing.assert_allclose(lengths, [3.11] * 8 + [4.98] * 4, atol=1e-3)
    assert scene.repeats == (2, 2, 1)


def test_every_view_is_a_proper_rotation_with_the_c_axis_upright() -> None:
    for azimuth, elevation in itertools.product((0.0, 24.0, 190.0), (0.0, 14.0, 60.0)):
        rotation = view_rotation(azimuth, elevation)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        seen = rotation @ np.array([0.0, 0.0, 1.0])
        assert seen[0] == pytest.approx(0.0, abs=1e-12)  # c leans neither left nor right
        assert seen[1] > 0
        assert seen[2] >= -1e-12  # raised camera: the top face turns toward the viewer


def test_every_element_has_a_colour_and_a_size() -> None:
    for element in Element:
        (colour,) = element_colours([element.symbol]).values()
        assert all(0 <= channel <= 255 for channel in colour)
        assert 0.2 < drawn_radius_ang(element.symbol) < 1.0


@pytest.mark.parametrize("system", ["Al-Ti-N", "Ta-W-B", "Sr-Ti-O", "Fe-Co-Ni-Cu-Zn-Mn"])
def test_elements_of_one_system_never_look_alike(system: str) -> None:
    colours = element_colours(system.split("-"))
    for a, b in itertools.combinations(colours.values(), 2):
        assert _distance(a, b) >= LOOK_ALIKE
    assert colours == element_colours(system.split("-")[::-1])


def test_png_is_small_repeatable_and_shows_both_elements(make_crystal: Callable[[str], Structure]) -> None:
    raw = crystal_png(make_crystal("TiN"), 240)
    assert raw == crystal_png(make_crystal("TiN"), 240)
    assert len(raw) < PNG_LIMIT_BYTES
    picture = Image.open(io.BytesIO(raw)).convert("RGB")
    assert picture.size == (240, 240)
    pixels = np.asarray(picture).astype(float)
    blue = (pixels[..., 2] > pixels[..., 0] + 60).mean()  # nitrogen
    grey = ((np.ptp(pixels, axis=-1) < 14) & (pixels.mean(-1) < 235)).mean()  # titanium
    assert blue > 0.03
    assert grey > 0.05
    edge = np.concatenate([pixels[0], pixels[:, 0], pixels[:, -1]])
    assert (edge > 250).all()  # nothing is cut off


def test_the_rotating_picture_has_24_frames_that_differ(make_crystal: Callable[[str], Structure]) -> None:
    raw = crystal_webp_rotating(make_crystal("Ti2AlN"), 160)
    assert len(raw) < WEBP_LIMIT_BYTES
    picture = Image.open(io.BytesIO(raw))
    assert picture.n_frames == 24
    frames = []
    for index in (0, 6):
        picture.seek(index)
        frames.append(np.asarray(picture.convert("RGB")).astype(float))
    assert np.abs(frames[0] - frames[1]).mean() > 1.0


def test_a_disordered_crystal_is_refused_by_name() -> None:
    structure = Structure(Lattice.cubic(4.0), [{"Al": 0.5, "Ti": 0.5}], [[0, 0, 0]])
    with pytest.raises(ValueError, match="disordered"):
        crystal_png(structure)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_lies_flat_and_wide_with_little_of_its_vacuum(axis: int) -> None:
    """GaSe in 30 A of vacuum along any vector: one layer high, its Ga-Se and Ga-Ga bonds and no others."""
    lattice = Lattice.hexagonal(3.8, 34.8)
    heights = np.array([0.0, 1.2, 3.6, 4.8]) / 34.8 + 0.93  # through the cell's face
    frac = np.column_stack([[[1 / 3, 2 / 3], [0, 0], [0, 0], [1 / 3, 2 / 3]], heights])
    order = np.roll([0, 1, 2], axis - 2)
    scene = build_scene(Structure(Lattice(lattice.matrix[order]), ["Se", "Ga", "Ga", "Se"], frac[:, order]))
    assert scene.repeats == (2, 2, 1)
    assert scene.vacuum_ang == pytest.approx(30.0)
    height = scene.positions_ang[:, 2]
    assert np.ptp(height) == pytest.approx(4.8, abs=1e-6)
    assert np.unique(height.round(4)).size == 4
    assert np.ptp(scene.edges_ang[..., 2]) == pytest.approx(7.8, abs=1e-6)
    bonds = np.linalg.norm(np.diff(scene.positions_ang[scene.bonds], axis=1)[:, 0], axis=1)
    assert set(bonds.round(2)) == {2.4, 2.5}
