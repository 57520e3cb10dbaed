"""Lattice arithmetic in native code: inverse, LLL and Niggli reduction as pymatgen's Lattice does them.

Lattice vectors are rows. Where a decision of the algorithm hangs on rounding (a coefficient of exactly one half, two
lengths equal to a tolerance), a flag is raised: pymatgen may have decided the other way.

Source: LLL after Lenstra, Lenstra, Lovasz (1982); Niggli after Grosse-Kunstleve, Sauter, Adams (2004),
doi:10.1107/S010876730302186X, with the step order and tolerances of pymatgen's Lattice.get_niggli_reduced_lattice.
"""

from __future__ import annotations

import math

import numpy as np

from storage.native_code import compiled

EDGE = 1e-8
"""Relative distance to a bound below which rounding may decide: a thousand times what the arithmetic loses."""

NIGGLI_TOL = 1e-5
"""pymatgen's tolerance, times the cube root of the volume."""


@compiled
def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Scalar product of two 3-vectors."""
    product: float = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return product


@compiled
def invert(m: np.ndarray, out: np.ndarray) -> float:
    """The inverse of a 3x3 matrix into `out`; returns its determinant."""
    c0 = m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1]
    c1 = m[1, 2] * m[2, 0] - m[1, 0] * m[2, 2]
    c2 = m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0]
    det: float = m[0, 0] * c0 + m[0, 1] * c1 + m[0, 2] * c2
    if det == 0.0:
        return 0.0
    out[0, 0] = c0 / det
    out[1, 0] = c1 / det
    out[2, 0] = c2 / det
    out[0, 1] = (m[0, 2] * m[2, 1] - m[0, 1] * m[2, 2]) / det
    out[1, 1] = (m[0, 0] * m[2, 2] - m[0, 2] * m[2, 0]) / det
    out[2, 1] = (m[0, 1] * m[2, 0] - m[0, 0] * m[2, 1]) / det
    out[0, 2] = (m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1]) / det
    out[1, 2] = (m[0, 2] * m[1, 0] - m[0, 0] * m[1, 2]) / det
    out[2, 2] = (m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]) / det
    return det


@compiled
def reciprocal_lengths(inverse: np.ndarray, out: np.ndarray) -> None:
    """Lengths of the reciprocal vectors (columns of the inverse), without 2 pi."""
    for k in range(3):
        out[k] = math.sqrt(inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2)


@compiled
def lattice_points(lattice: np.ndarray, radius: float, limit: int) -> np.ndarray:
    """Integer coordinates, (k, 3), of all lattice vectors no longer than `radius`, zero left out.

    None at all if more than `limit` would have to be looked at.
    """
    inverse = np.empty((3, 3))
    reach = np.empty(3)
    invert(lattice, inverse)
    reciprocal_lengths(inverse, reach)
    if not radius * reach.max() < limit:
        return np.empty((0, 3), np.int64)
    na, nb, nc = int(radius * reach[0] + EDGE), int(radius * reach[1] + EDGE), int(radius * reach[2] + EDGE)
    n_box = (2.0 * na + 1) * (2.0 * nb + 1) * (2.0 * nc + 1)
    if not n_box <= limit:
        return np.empty((0, 3), np.int64)
    found = np.empty((int(n_box), 3), np.int64)
    n = 0
    for i in range(-na, na + 1):
        for j in range(-nb, nb + 1):
            for k in range(-nc, nc + 1):
                squared = 0.0
                for x in range(3):
                    squared += (i * lattice[0, x] + j * lattice[1, x] + k * lattice[2, x]) ** 2
                if squared <= radius * radius and (i != 0 or j != 0 or k != 0):
                    found[n, 0], found[n, 1], found[n, 2] = i, j, k
                    n += 1
    return found[:n].copy()


@compiled
def _orthogonalise(a: np.ndarray, b: np.ndarray, u: np.ndarray, m: np.ndarray, first: int, last: int) -> None:
    """Gram-Schmidt vectors b, coefficients u and squared norms m of the rows first..last-1 of a."""
    for i in range(first, last):
        for j in range(i):
            u[i, j] = dot(a[i], b[j]) / m[j]
        for x in range(3):
            b[i, x] = a[i, x]
            for j in range(i):
                b[i, x] -= u[i, j] * b[j, x]
        m[i] = dot(b[i], b[i])


@compiled
def lll_reduce(a: np.ndarray, choice: int) -> int:
    """LLL-reduce the rows of a in place (delta 0.75); returns the number of ties met on the way.

    A tie is a coefficient of one half, or a swap condition met with equality: rounding decides it. The n-th tie is
    decided the other way if bit n of `choice` is set: choices below 2^ties give all bases that rounding could give.
    A reduction that does not end counts 99 ties.
    """
    b = np.zeros((3, 3))
    u = np.zeros((3, 3))
    m = np.zeros(3)
    _orthogonalise(a, b, u, m, 0, 3)
    ties = 0
    k = 2
    for _ in range(200):
        if k > 3:
            return ties
        for i in range(k - 1, 0, -1):
            q = np.rint(u[k - 1, i - 1])
            if abs(abs(u[k - 1, i - 1] - q) - 0.5) < EDGE:
                if (choice >> ties) & 1:
                    q += 1.0 if u[k - 1, i - 1] > q else -1.0
                ties = min(ties + 1, 60)
            if q != 0.0:
                for x in range(3):
                    a[k - 1, x] -= q * a[i - 1, x]
                for x in range(i - 1):
                    u[k - 1, x] -= q * u[i - 1, x]
                u[k - 1, i - 1] -= q
        bound = (0.75 - u[k - 1, k - 2] ** 2) * m[k - 2]
        is_reduced = m[k - 1] >= bound
        if abs(m[k - 1] - bound) < EDGE * m[k - 1]:
            is_reduced ^= (choice >> ties) & 1 == 1
            ties = min(ties + 1, 60)
        if is_reduced:
            k += 1
            continue
        for x in range(3):
            a[k - 1, x], a[k - 2, x] = a[k - 2, x], a[k - 1, x]
        _orthogonalise(a, b, u, m, k - 2, k)
        if k > 2:
            k -= 1
        else:
            u[2, 0] = dot(a[2], b[0]) / m[0]
            u[2, 1] = dot(a[2], b[1]) / m[1]
    return 99


@compiled
def _transform(g: np.ndarray, m: np.ndarray) -> None:
    """g <- m^T g m."""
    product = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for k in range(3):
                for n in range(3):
                    product[i, j] += m[k, i] * g[k, n] * m[n, j]
    g[:] = product


@compiled
def _sign(x: float, e: float) -> int:
    return 0 if abs(x) < e else (1 if x > 0 else -1)


@compiled
def _near(x: float, y: float, size: float) -> bool:
    return abs(x - y) < 1e-10 * size


@compiled
def _signs_step(g: np.ndarray, e: float) -> None:
    """Steps A3 and A4: all off-diagonal terms positive, or none."""
    signs = np.array([_sign(2 * g[1, 2], e), _sign(2 * g[0, 2], e), _sign(2 * g[0, 1], e)])
    kept = np.ones(3)
    if signs[0] * signs[1] * signs[2] == 1:
        for x in range(3):
            kept[x] = -1.0 if signs[x] == -1 else 1.0
    else:
        for x in range(3):
            kept[x] = -1.0 if signs[x] == 1 else 1.0
        if kept[0] * kept[1] * kept[2] == -1:
            for x in (2, 1, 0):
                if signs[x] == 0:
                    kept[x] = -1.0
                    break
    for i in range(3):
        for j in range(3):
            g[i, j] *= kept[i] * kept[j]


@compiled
def _wants_shift(x: float, side: float, other: float, third: float, e: float) -> bool:
    """Request of steps A5 to A7: |x| too long for `side`, or at its edge and the tie rule asks for a step."""
    at_plus = abs(x - side) < e and other - e > 2 * third
    at_minus = abs(x + side) < e and -e > other
    return abs(x) > side + e or at_plus or at_minus


@compiled
def _at_an_edge(g: np.ndarray, e: float) -> bool:
    """Whether a comparison of the Niggli steps is within rounding of its tolerance."""
    size = g[0, 0] + g[1, 1] + g[2, 2]
    terms = np.array([2 * g[1, 2], 2 * g[0, 2], 2 * g[0, 1]])
    edge = False
    for i in range(3):
        j = (i + 1) % 3
        edge |= _near(abs(g[i, i] - g[j, j]), e, size) or _near(abs(terms[i]), e, size)
        edge |= _near(abs(abs(terms[i]) - abs(terms[j])), e, size)
        edge |= _near(terms[j] - e, 2 * terms[i], size) or _near(terms[i] - e, 2 * terms[j], size)
        for k in range(2):
            edge |= _near(abs(abs(terms[i]) - g[k, k]), e, size)
    total = terms[0] + terms[1] + terms[2] + g[0, 0] + g[1, 1]
    return edge or _near(abs(total), e, size)


@compiled
def niggli_metric(g: np.ndarray, e: float) -> bool:
    """Niggli-reduce the metric tensor g in place, as pymatgen does; True if rounding may have decided a step."""
    unsure = False
    m = np.zeros((3, 3))
    for _ in range(100):
        unsure |= _at_an_edge(g, e)
        if g[1, 1] + e < g[0, 0] or (abs(g[0, 0] - g[1, 1]) < e and abs(2 * g[1, 2]) > abs(2 * g[0, 2]) + e):
            m[:] = 0.0
            m[0, 1] = m[1, 0] = m[2, 2] = -1.0
            _transform(g, m)
        if g[2, 2] + e < g[1, 1] or (abs(g[1, 1] - g[2, 2]) < e and abs(2 * g[0, 2]) > abs(2 * g[0, 1]) + e):
            m[:] = 0.0
            m[0, 0] = m[1, 2] = m[2, 1] = -1.0
            _transform(g, m)
            continue
        _signs_step(g, e)
        aa, bb = g[0, 0], g[1, 1]
        ee, nn, yy = 2 * g[1, 2], 2 * g[0, 2], 2 * g[0, 1]
        m[:] = 0.0
        m[0, 0] = m[1, 1] = m[2, 2] = 1.0
        total = ee + nn + yy + aa + bb
        if _wants_shift(ee, bb, yy, nn, e):
            m[1, 2] = -1.0 if ee > 0 else 1.0
        elif _wants_shift(nn, aa, yy, ee, e):
            m[0, 2] = -1.0 if nn > 0 else 1.0
        elif _wants_shift(yy, aa, nn, ee, e):
            m[0, 1] = -1.0 if yy > 0 else 1.0
        elif -e > total or (abs(total) < e and e < yy + (aa + nn) * 2):
            m[0, 2] = m[1, 2] = 1.0
        else:
            return unsure
        _transform(g, m)
    return True


@compiled
def parameters_of(lattice: np.ndarray, lengths: np.ndarray, angles_deg: np.ndarray) -> None:
    """Lengths and angles (degrees) of the rows."""
    for k in range(3):
        lengths[k] = math.sqrt(dot(lattice[k], lattice[k]))
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        cosine = dot(lattice[i], lattice[j]) / (lengths[i] * lengths[j])
        angles_deg[k] = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


@compiled
def niggli_parameters(reduced: np.ndarray, tol_ang: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Lengths and angles (degrees) of the Niggli cell of an LLL-reduced lattice, and whether rounding decided."""
    g = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            g[i, j] = dot(reduced[i], reduced[j])
    unsure = niggli_metric(g, tol_ang)
    lengths, angles = np.empty(3), np.empty(3)
    for k in range(3):
        lengths[k] = math.sqrt(g[k, k])
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        angles[k] = math.degrees(math.acos(min(1.0, max(-1.0, g[i, j] / (lengths[i] * lengths[j])))))
    return lengths, angles, unsure


@compiled
def _angle_gap(vectors: np.ndarray, norms: np.ndarray, i: int, j: int, wanted_deg: float) -> float:
    """How far the angle between two vectors is from the wanted one, degrees."""
    cosine = dot(vectors[i], vectors[j]) / (norms[i] * norms[j])
    return abs(math.degrees(math.acos(min(1.0, max(-1.0, cosine)))) - wanted_deg)


@compiled
def first_mapping(
    lattice: np.ndarray, points: np.ndarray, lengths: np.ndarray, angles_deg: np.ndarray, ltol: float, out: np.ndarray
) -> int:
    """The first basis of lattice points with the given parameters, right-handed relative to the lattice if possible.

    Args:
        lattice: rows.
        points: integer coordinates in the order in which they are tried, (k, 3).
        lengths: wanted.
        angles_deg: wanted, each within one degree.
        ltol: relative tolerance on lengths.
        out: receives the basis, integer coordinates as rows, (3, 3).

    Returns: 1 if found, 0 if none, 2 if a length or angle is within rounding of its tolerance.
    """
    n = len(points)
    vectors, norms = np.zeros((n, 3)), np.empty(n)
    fits = np.zeros((3, n), np.bool_)
    for p in range(n):
        for x in range(3):
            vectors[p, x] = points[p, 0] * lattice[0, x] + points[p, 1] * lattice[1, x] + points[p, 2] * lattice[2, x]
        norms[p] = math.sqrt(dot(vectors[p], vectors[p]))
        for k in range(3):
            ratio = norms[p] / lengths[k]
            if abs(ratio - 1 - ltol) < 1e-11 or abs(ratio - 1 / (1 + ltol)) < 1e-11:
                return 2
            fits[k, p] = 1 / (1 + ltol) < ratio < 1 + ltol
    found = 0
    for a in range(n):
        for b in range(n):
            if not fits[0, a] or not fits[1, b]:
                continue
            near_gamma = _angle_gap(vectors, norms, a, b, angles_deg[2])
            for c in range(n):
                if near_gamma >= 1 + EDGE or not fits[2, c]:
                    continue
                near_alpha = _angle_gap(vectors, norms, b, c, angles_deg[0])
                near_beta = _angle_gap(vectors, norms, a, c, angles_deg[1])
                worst = max(near_alpha, near_beta, near_gamma)
                if worst > 1 + EDGE:
                    continue
                pa, pb, pc = points[a], points[b], points[c]
                det = pa[0] * (pb[1] * pc[2] - pb[2] * pc[1]) - pa[1] * (pb[0] * pc[2] - pb[2] * pc[0])
                det += pa[2] * (pb[0] * pc[1] - pb[1] * pc[0])
                if det == 0:
                    continue
                if worst > 1 - EDGE:
                    return 2
                if det > 0 or found == 0:
                    out[0], out[1], out[2] = pa, pb, pc
                    found = 1
                if det > 0:
                    return 1
    return found
