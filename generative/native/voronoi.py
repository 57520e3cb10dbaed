"""Bonds of one site as pymatgen's CrystalNN weighs them: Voronoi faces of the site, compiled.

A face is found by itself: the plane halfway to a neighbour, cut by the planes halfway to all others, nearest first. No
face needs another one, so vertices shared by many cells (every cubic crystal) need no care, and most faces are gone
after a few cuts. pymatgen tessellates the whole sphere by Qhull and reads off one cell.

What makes equality provable: CrystalNN rounds bond weights to 0.001 and reads nothing else of the Voronoi cell, so two
computations that agree to 1e-9 give the same bonds, unless a weight lies as close as that to the middle between two
roundings. Such sites, and those whose cell is not surely closed or reaches the search radius, get a status other than
PLACED and belong to pymatgen. Where the cell is surely open the search radius grows as pymatgen lets it grow.

Source: O'Keeffe, Acta Cryst. A 35 (1979) 772 (solid angles); Pan et al., Inorg. Chem. 60 (2021) 1590 (CrystalNN).
Conventions: angstrom, lattice vectors are rows.
"""

from __future__ import annotations

import math

import numpy as np

from storage.native_code import compiled_raising

CUTOFF_ANG = 7.0
"""CrystalNN's search radius; it doubles it where the cell is not closed, as at the face of a slab."""
_ROOM_ANG, _STEP_ANG = 0.01, 0.001
"""Beyond the longest diagonal of the cell: where pymatgen gives up, and what its last radius is then set to."""
DISTANCE_LOW_ANG, DISTANCE_HIGH_ANG = 0.5, 1.0
"""Beyond the sum of radii, a bond's weight falls from 1 to 0 between these."""

PLACED, COINCIDENT, OPEN_CELL, AT_CUTOFF, NO_RADIUS, AT_ROUNDING, AT_TIE = range(7)
STATUS_NAMES = (
    "placed",
    "atoms coincide",
    "Voronoi cell not closed within the cutoff",
    "Voronoi cell reaches the cutoff",
    "element without a radius",
    "a bond weight at the middle between two roundings",
    "two coordination numbers are equally probable",
)
"""Why a site is left to pymatgen, by status."""

_SQUARE_ANG = 1e3  # half edge of the uncut face; a vertex left out there may mean an open cell
_FAR_SQUARE_ANG = 1e7  # the same for who wants to be sure: cells of a few atoms end in needles of thousands of A
_CLOSED_ANG = 50.0  # no vertex of a cell that is surely closed lies farther out
_ON_PLANE_ANG = 1e-10  # a vertex that near to a plane is not cut off by it
_MIN_AREA_ANG2 = 1e-14  # faces of less have a weight below 1e-9
_MIN_DISTANCE_ANG = 0.05
_NEAR = 1e-9  # relative closeness to a threshold at which rounding could decide
_MAX_VERTICES = 64


@compiled_raising
def neighbours(
    matrix: np.ndarray, frac: np.ndarray, site: int, cutoff_ang: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """All images of atoms within a radius of a site, nearest first.

    Returns:
        vectors from the site, (k, 3), angstrom; their lengths, (k,); index of the atom in the cell, (k,); the cell it
        stands in, relative to the site's, (k, 3); status.
    """
    cross = np.empty((3, 3))
    for axis in range(3):
        cross[axis] = np.cross(matrix[(axis + 1) % 3], matrix[(axis + 2) % 3])
    volume = abs(np.sum(matrix[0] * cross[0]))
    reach = np.empty(3, np.int64)
    for axis in range(3):
        reach[axis] = int(cutoff_ang * math.sqrt(np.sum(cross[axis] ** 2)) / volume) + 2
    home = frac[site, 0] * matrix[0] + frac[site, 1] * matrix[1] + frac[site, 2] * matrix[2]
    found = [(0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0)]
    found.pop()
    status = PLACED
    limit = (cutoff_ang + 1e-8) ** 2
    for atom in range(len(frac)):
        for i in range(-reach[0], reach[0] + 1):
            a = frac[atom, 0] + i
            for j in range(-reach[1], reach[1] + 1):
                b = frac[atom, 1] + j
                for k in range(-reach[2], reach[2] + 1):
                    c = frac[atom, 2] + k
                    x = a * matrix[0, 0] + b * matrix[1, 0] + c * matrix[2, 0] - home[0]
                    y = a * matrix[0, 1] + b * matrix[1, 1] + c * matrix[2, 1] - home[1]
                    z = a * matrix[0, 2] + b * matrix[1, 2] + c * matrix[2, 2] - home[2]
                    squared = x * x + y * y + z * z
                    if squared > limit or (atom == site and i == 0 and j == 0 and k == 0):
                        continue
                    if squared < _MIN_DISTANCE_ANG**2:
                        status = COINCIDENT
                    found.append((math.sqrt(squared), x, y, z, atom, i, j, k))
    n = len(found)
    vectors, lengths, atoms, images = np.empty((n, 3)), np.empty(n), np.empty(n, np.int64), np.empty((n, 3), np.int64)
    for row in range(n):
        lengths[row] = found[row][0]
    order = np.argsort(lengths)
    lengths = lengths[order]
    for row in range(n):
        _, x, y, z, atoms[row], i, j, k = found[order[row]]
        vectors[row], images[row] = (x, y, z), (i, j, k)
    return vectors, lengths, atoms, images, status


@compiled_raising
def _uncut(normal: np.ndarray, height: float, square_ang: float, polygon: np.ndarray) -> None:
    """Four corners of a huge square of this half edge on a plane, around the normal, written into `polygon`."""
    helper = np.zeros(3)
    helper[np.argmin(np.abs(normal))] = 1.0
    u = np.cross(normal, helper)
    u /= math.sqrt(np.sum(u * u))
    v = np.cross(normal, u)
    centre = height * normal
    polygon[0] = centre + square_ang * (u + v)
    polygon[1] = centre + square_ang * (v - u)
    polygon[2] = centre - square_ang * (u + v)
    polygon[3] = centre + square_ang * (u - v)


@compiled_raising
def _cut(polygon: np.ndarray, n: int, normal: np.ndarray, height: float, spare: np.ndarray) -> int:
    """Keeps of a polygon of n vertices the part with x . normal <= height; returns the new n, or -1 if too many."""
    kept = 0
    previous = n - 1
    above_previous = polygon[previous, 0] * normal[0] + polygon[previous, 1] * normal[1]
    above_previous += polygon[previous, 2] * normal[2] - height
    for vertex in range(n):
        above = (
            polygon[vertex, 0] * normal[0] + polygon[vertex, 1] * normal[1] + polygon[vertex, 2] * normal[2] - height
        )
        low, high = min(above, above_previous), max(above, above_previous)
        if kept + 2 > _MAX_VERTICES:
            return -1
        if low < -_ON_PLANE_ANG and high > _ON_PLANE_ANG:
            t = above_previous / (above_previous - above)
            for axis in range(3):
                spare[kept, axis] = polygon[previous, axis] + t * (polygon[vertex, axis] - polygon[previous, axis])
            kept += 1
        if above <= _ON_PLANE_ANG:
            spare[kept] = polygon[vertex]
            kept += 1
        previous, above_previous = vertex, above
    polygon[:kept] = spare[:kept]
    return kept


@compiled_raising
def _measure(polygon: np.ndarray, n: int, height: float) -> tuple[float, float, float]:
    """Solid angle seen from the origin, area and largest squared radius of a convex polygon at a height from it."""
    norms = np.empty(n)
    for i in range(n):
        norms[i] = math.sqrt(polygon[i, 0] ** 2 + polygon[i, 1] ** 2 + polygon[i, 2] ** 2)
    a, na = polygon[0], norms[0]
    solid_angle = 0.0
    volume = 0.0
    for i in range(1, n - 1):
        b, c = polygon[i], polygon[i + 1]
        nb, nc = norms[i], norms[i + 1]
        triple = abs(
            a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])
        )
        ab = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
        ac = a[0] * c[0] + a[1] * c[1] + a[2] * c[2]
        bc = b[0] * c[0] + b[1] * c[1] + b[2] * c[2]
        solid_angle += 2 * math.atan2(triple, na * nb * nc + nc * ab + nb * ac + na * bc)
        volume += triple / 6
    return solid_angle, 3 * volume / height, np.max(norms)


@compiled_raising
def voronoi_faces(
    vectors: np.ndarray, lengths: np.ndarray, square_ang: float = _SQUARE_ANG
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Faces of the origin's Voronoi cell among points given nearest first.

    Args:
        vectors: (k, 3), angstrom.
        lengths: of the vectors, ascending, (k,).
        square_ang: half edge of faces before they are cut.

    Returns:
        per face the index of its point, (f,); solid angle, (f,); area, (f,), A^2; radius of the cell's farthest vertex,
        angstrom: infinite if the cell is open, NaN if it cannot be told.
    """
    n = len(vectors)
    normals = vectors / lengths.reshape(-1, 1)
    heights = lengths / 2
    points, angles, areas = np.empty(n, np.int64), np.empty(n), np.empty(n)
    n_faces = 0
    radius = 0.0
    polygon, spare = np.empty((_MAX_VERTICES, 3)), np.empty((_MAX_VERTICES, 3))
    for face in range(n):
        _uncut(normals[face], heights[face], square_ang, polygon)
        n_vertices = 4
        for other in range(n):
            if other != face:
                n_vertices = _cut(polygon, n_vertices, normals[other], heights[other], spare)
            if n_vertices == -1:
                return points[:0], angles[:0], areas[:0], np.nan
            if n_vertices < 3:
                break
        if n_vertices < 3:
            continue
        solid_angle, area, farthest = _measure(polygon, n_vertices, heights[face])
        radius = max(radius, farthest)
        if area > _MIN_AREA_ANG2:
            points[n_faces], angles[n_faces], areas[n_faces] = face, solid_angle, area
            n_faces += 1
    if n_faces < 4 or radius > 0.99 * square_ang:
        radius = np.inf
    elif radius >= _CLOSED_ANG:
        radius = np.nan
    return points[:n_faces], angles[:n_faces], areas[:n_faces], radius


@compiled_raising
def _raw_weights(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    lengths: np.ndarray,
    species: np.ndarray,
    home: int,
    electronegativity: np.ndarray,
    radius_ang: np.ndarray,
) -> np.ndarray:
    """CrystalNN's bond weights before rounding, one per face."""
    points, angles, areas = found
    weights = np.empty(len(points))
    largest = np.max(angles)
    x_home = electronegativity[home]
    for face in range(len(points)):
        x = electronegativity[species[points[face]]]
        chemical = 1.0
        if not (math.isnan(x_home) or math.isnan(x)):
            chemical = 1 + 3.0 * math.sqrt(abs(x_home - x) / 3.3)
        weights[face] = angles[face] / largest * (angles[face] / areas[face]) * chemical
    weights /= np.max(weights)
    for face in range(len(points)):
        low = radius_ang[home] + radius_ang[species[points[face]]] + DISTANCE_LOW_ANG
        high = low - DISTANCE_LOW_ANG + DISTANCE_HIGH_ANG
        length = lengths[points[face]]
        if length >= high:
            weights[face] = 0.0
        elif length > low:
            weights[face] *= (math.cos((length - low) / (high - low) * math.pi) + 1) * 0.5
    return weights


@compiled_raising
def _rounded(raw: np.ndarray) -> tuple[np.ndarray, int]:
    """Descending weights rounded to 0.001, those that become 0 left out, and a status; none if one is doubtful."""
    rounded = np.empty(len(raw))
    n_bonds = 0
    for rank in range(len(raw)):
        steps = raw[rank] * 1000
        if abs(steps - math.floor(steps) - 0.5) < 1000 * _NEAR:
            return rounded[:0], AT_ROUNDING
        rounded[rank] = np.rint(steps) / 1000
        if rounded[rank] > 0:
            n_bonds += 1
    return rounded[:n_bonds], PLACED


@compiled_raising
def _cell(
    matrix: np.ndarray, frac: np.ndarray, site: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """A site's neighbours (vectors, lengths, atoms, images), its faces (points, angles, areas), and a status."""
    cutoff_ang, last_ang = CUTOFF_ANG, _longest_diagonal(matrix) + _ROOM_ANG
    while True:
        vectors, lengths, atoms, images, status = neighbours(matrix, frac, site, cutoff_ang)
        n = len(vectors) if status == PLACED else 0
        points, angles, areas, radius = voronoi_faces(vectors[:n], lengths[:n])
        if status != PLACED or radius != np.inf or cutoff_ang >= last_ang:
            break
        if voronoi_faces(vectors, lengths, _FAR_SQUARE_ANG)[3] != np.inf:
            break
        cutoff_ang = min(2 * cutoff_ang, last_ang + _STEP_ANG)
    if status == PLACED and not radius < np.inf:
        status = OPEN_CELL
    elif status == PLACED and lengths[-1] > cutoff_ang - 1e-6 and 2 * radius > cutoff_ang - 1e-6:
        status = AT_CUTOFF
    return vectors, lengths, atoms, images, (points, angles, areas), status


@compiled_raising
def _longest_diagonal(matrix: np.ndarray) -> float:
    """Of the four diagonals of a cell, angstrom."""
    longest = 0.0
    for i, j, k in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        along = i * matrix[0] + j * matrix[1] + k * matrix[2]
        longest = max(longest, math.sqrt(np.sum(along * along)))
    return longest


@compiled_raising
def bonds(
    matrix: np.ndarray,
    frac: np.ndarray,
    atomic_numbers: np.ndarray,
    site: int,
    electronegativity: np.ndarray,
    radius_ang: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The site's bonds in the order of CrystalNN.get_nn_data(structure, site).all_nninfo, up to ties.

    Args:
        matrix: lattice rows, (3, 3), angstrom.
        frac: (n, 3).
        atomic_numbers: (n,).
        site: index of the atom.
        electronegativity: Pauling's, by atomic number, NaN where unknown.
        radius_ang: by atomic number, NaN where unknown.

    Returns:
        vectors to the bonded atoms, (b, 3), angstrom; weights rounded to 0.001, descending, (b,); the same unrounded;
        status. Without bonds the site has coordination number 0.
    """
    vectors, lengths, atoms, _, (points, angles, areas), status = _cell(matrix, frac, site)
    nothing = np.empty(0)
    if status != PLACED:
        return vectors[:0], nothing, nothing, status
    species = atomic_numbers[atoms]
    home = atomic_numbers[site]
    for face in range(len(points)):
        if math.isnan(radius_ang[home] + radius_ang[species[points[face]]]):
            return vectors[:0], nothing, nothing, NO_RADIUS
    raw = _raw_weights((points, angles, areas), lengths, species, home, electronegativity, radius_ang)
    order = np.argsort(-raw, kind="mergesort")
    raw = raw[order]
    rounded, status = _rounded(raw)
    n_bonds = len(rounded)
    return vectors[points[order[:n_bonds]]], rounded, raw[:n_bonds], status


@compiled_raising
def quarter_disc(x: float) -> float:
    """Area of the unit quarter disc left of x, as a share of the whole."""
    if x == 1:
        return 1.0
    root = math.sqrt(1 - x * x)
    return (x * root + math.atan(x / root)) / (0.5 * math.pi)


@compiled_raising
def most_probable_coordination(rounded: np.ndarray) -> tuple[int, int]:
    """CrystalNN's coordination number of bonds with these descending weights, and a status.

    A number's probability is the area of the quarter disc between the weights of its last bond and of the next one.
    """
    n = len(rounded)
    coordination, largest, second = 0, 0.0, 0.0
    for last in range(n):
        following = rounded[last + 1] if last + 1 < n else 0.0
        if following == rounded[last]:
            continue
        probability = quarter_disc(rounded[last]) - quarter_disc(following)
        if probability > largest:
            coordination, largest, second = last + 1, probability, largest
        else:
            second = max(second, probability)
    return coordination, AT_TIE if largest - second < _NEAR else PLACED


@compiled_raising
def bonds_by_solid_angle(matrix: np.ndarray, frac: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bonds as every site of a crystal finds them, of all faces' solid angles and nothing else.

    So does CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False). Two sites need not agree on a
    bond between them.

    Args:
        matrix: lattice rows, (3, 3), angstrom.
        frac: (n, 3), in [0, 1).

    Returns:
        per bond the site that finds it, (b,); the atom it leads to, (b,); the cell that atom stands in, relative to the
        site's, (b, 3); status of each site, (n,). A site whose status is not PLACED has no bonds here; where one is
        COINCIDENT, all are.
    """
    found = [(0, 0, 0, 0, 0)]
    found.pop()
    statuses = np.empty(len(frac), np.int64)
    for site in range(len(frac)):
        _, _, atoms, images, (points, angles, _), status = _cell(matrix, frac, site)
        if status == COINCIDENT:
            statuses[:] = COINCIDENT
            found.clear()
            break
        n_bonds = 0
        order = np.argsort(-angles, kind="mergesort")
        if status == PLACED:
            rounded, status = _rounded(angles[order] / np.max(angles))
            if status == PLACED:
                n_bonds, status = most_probable_coordination(rounded)
        statuses[site] = status
        if status == PLACED:
            for rank in range(n_bonds):
                point = points[order[rank]]
                found.append((site, atoms[point], images[point, 0], images[point, 1], images[point, 2]))
    sites, ends, cells = (
        np.empty(len(found), np.int64),
        np.empty(len(found), np.int64),
        np.empty((len(found), 3), np.int64),
    )
    for row in range(len(found)):
        sites[row], ends[row], i, j, k = found[row]
        cells[row] = i, j, k
    return sites, ends, cells, statuses
