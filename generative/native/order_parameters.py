"""Order parameters of a site's neighbours as pymatgen's LocalStructOrderParams defines them, compiled.

An order parameter tells how well n neighbours resemble a motif, such as the octahedron. Most put one neighbour j at the
north pole, draw the prime meridian through another, k, and compare polar angles theta and azimuths phi of the others
(m) with the motif's. What they share (theta_jk; phi_m relative to j and k) is computed once per shell and then read by
each parameter of that coordination number. Steinhardt's q_l follow from the addition theorem, without harmonics.

Where the definition itself turns on a rounding error, the status tells it: an angle at a threshold; k opposite to j,
where the prime meridian has no direction; and "bcc", which counts pairs j < k only, so that its value may depend on the
order of bonds of equal weight, and jumps where j and k enclose a right angle.

Source: Zimmermann et al., Front. Mater. 4 (2017) 34; Zimmermann and Jain, RSC Adv. 10 (2020) 6063; Peters, J. Chem.
Phys. 131 (2009) 244103; Steinhardt et al., Phys. Rev. B 28 (1983) 784 (q_l). Parameters are read from pymatgen.
"""

from __future__ import annotations

import math

import numpy as np

from generative.native.voronoi import quarter_disc
from storage.native_code import compiled_raising

CLEAR, AT_THRESHOLD, BY_ORDER = range(3)
STATUS_NAMES = (
    "clear",
    "an angle at a threshold of an order parameter",
    "an order parameter that depends on the order of equal bonds or jumps at a right angle",
)
"""Why a shell is left to pymatgen, by status."""

WEIGHT, SINGLE, BENT, PYRAMID, BIPYRAMID, POLYHEDRAL, PENTAGON, CUBOCTAHEDRON, CUBE, STEINHARDT = range(10)
"""Families of order parameters; WEIGHT is the weight of the coordination number itself."""
FAMILY, SHARPNESS, TARGET, FOLD, SOUTH, SOUTH_SHARPNESS, PHI_MAX, ABSOLUTE, EXTRA = range(9)
"""Columns of the table of parameters: family; inverse Gaussian width in units of 1/pi; target angle in units of pi;
factor of the azimuth; smallest theta at the south pole; its inverse width; largest phi; whether the target is an angle
from the equator; weight of the south pole ("cuboct", "bcc") or l ("q_l")."""
LOW, HIGH, CAP_SHARPNESS = 9, 10, 11
"""Columns used by "cuboct" only: band of theta around the equator and inverse width outside it."""
N_COLUMNS = 12

N_MAX = 12
"""The largest coordination number with an order parameter."""
_NEAR = 1e-9
_NO_DIRECTION = 1e-12  # a projection shorter than this has no azimuth, by definition
_NOISE = 4e-15  # rounding error of a unit vector from coordinates of some 10 A
_SAME_WEIGHT = 1e-9
_TOLERANCE = 1e-7  # change of one order parameter that is let pass


@compiled_raising
def _gauss(theta: float, sharpness: float, target: float) -> float:
    return math.exp(-0.5 * (sharpness * (theta / math.pi - target)) ** 2)


@compiled_raising
def shell_angles(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles among neighbours, vectors (n, 3).

    Returns:
        theta: angle between j and k, (n, n), radians.
        phi: azimuth of m with j at the north pole and k on the prime meridian, (n, n, n), in [0, pi].
        sine: length of the projection of unit vector k onto the equator of j, (n, n).
    """
    n = len(vectors)
    unit = np.empty((n, 3))
    for j in range(n):
        unit[j] = vectors[j] / math.sqrt(np.sum(vectors[j] ** 2))
    theta, sine, phi = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n, n))
    axes = np.zeros((n, n, 3))
    for j in range(n):
        length2 = np.sum(unit[j] * unit[j])
        for k in range(n):
            if k == j:
                continue
            cosine = np.sum(unit[j] * unit[k])
            theta[j, k] = math.acos(max(-1.0, min(1.0, cosine)))
            axes[j, k] = unit[k] - cosine / length2 * unit[j]
            sine[j, k] = math.sqrt(np.sum(axes[j, k] ** 2))
            if sine[j, k] >= _NO_DIRECTION:
                axes[j, k] /= sine[j, k]
        for k in range(n):
            for m in range(n):
                if k != j and m != j and m != k and sine[j, m] >= _NO_DIRECTION and sine[j, k] >= _NO_DIRECTION:
                    phi[j, k, m] = math.acos(max(-1.0, min(1.0, np.sum(axes[j, m] * axes[j, k]))))
    return theta, phi, sine


@compiled_raising
def _term_of_k(row: np.ndarray, theta: float) -> tuple[float, float]:
    """Value and weight that neighbour k adds."""
    family = int(row[FAMILY])
    if family == BIPYRAMID:
        if theta >= row[SOUTH]:
            return 0.0, 0.0
        if row[ABSOLUTE]:
            return math.exp(-0.5 * (row[SHARPNESS] * (abs(theta / math.pi - 0.5) - row[TARGET])) ** 2), 1.0
        return _gauss(theta, row[SHARPNESS], 0.5), 1.0
    if family == CUBOCTAHEDRON:
        if theta < row[SOUTH]:
            return 0.0, 0.0
        return row[EXTRA] * _gauss(theta, row[SOUTH_SHARPNESS], 1.0), row[EXTRA]
    if family == PENTAGON:
        return _gauss(theta, row[SHARPNESS], 0.4 if theta <= row[TARGET] * math.pi else 0.8), 1.0
    return _gauss(theta, row[SHARPNESS], row[TARGET]), 1.0


@compiled_raising
def _term_of_m(row: np.ndarray, theta_k: float, theta: float, phi: float) -> tuple[float, float]:
    """Value and weight that a further neighbour m with an azimuth adds."""
    family = int(row[FAMILY])
    if family == CUBOCTAHEDRON:
        if theta >= row[SOUTH] or not row[LOW] < theta_k < row[HIGH]:
            return 0.0, 0.0
        if row[LOW] < theta < row[HIGH]:
            return math.cos(phi) ** 2 * _gauss(theta, row[SHARPNESS], 0.5), 1.0
        side = 0.0556 * (math.cos(phi - 0.5 * math.pi) - 0.81649658)
        target = 1 / 3 if theta < row[LOW] else 2 / 3
        return math.exp(-0.5 * side * side) * _gauss(theta, row[CAP_SHARPNESS], target), 1.0
    if family == BIPYRAMID and (theta >= row[SOUTH] or theta_k >= row[SOUTH] or phi >= row[PHI_MAX]):
        return 0.0, 0.0
    return math.cos(row[FOLD] * phi) ** 2 * _term_of_k(row, theta)[0], 1.0


@compiled_raising
def _best_over_pairs(row: np.ndarray, theta: np.ndarray, phi: np.ndarray, sine: np.ndarray) -> tuple[float, bool]:
    """Maximum over (j, k) of the mean agreement; and whether rounding may decide it."""
    n = len(theta)
    best, doubtful = 0.0, -1.0
    for j in range(n):
        for k in range(n):
            if k == j:
                continue
            total, weight = _term_of_k(row, theta[j, k])
            if sine[j, k] >= _NO_DIRECTION:
                for m in range(n):
                    if m in (j, k):
                        continue
                    if row[FAMILY] == BIPYRAMID and theta[j, m] >= row[SOUTH]:
                        total += _gauss(theta[j, m], row[SOUTH_SHARPNESS], 1.0)
                        weight += 1.0
                    if sine[j, m] >= _NO_DIRECTION:
                        value, one = _term_of_m(row, theta[j, k], theta[j, m], phi[j, k, m])
                        total += value
                        weight += one
            value = total / weight if weight > 1e-12 else 0.0
            best = max(best, value)
            # How far a prime meridian through k moves by rounding, and with it the value.
            error = _NOISE / max(sine[j, k], _NOISE) if sine[j, k] > 0.1 * _NO_DIRECTION else 0.0
            if 3 * error > _TOLERANCE:
                doubtful = max(doubtful, value + 3 * error)
    return best, doubtful > best - _TOLERANCE


@compiled_raising
def _cube_terms(row: np.ndarray, theta: np.ndarray, phi: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """What each ordered pair (j, k) adds to "bcc", (n, n)."""
    n = len(theta)
    terms = np.zeros((n, n))
    for j in range(n):
        for k in range(n):
            if k == j:
                continue
            if theta[j, k] >= row[SOUTH]:
                terms[j, k] = row[EXTRA] * _gauss(theta[j, k], row[SOUTH_SHARPNESS], 1.0)
                continue
            sign = 1.0 if theta[j, k] > math.pi / 2 else -1.0
            for m in range(n):
                if m in (j, k) or sine[j, m] < _NO_DIRECTION or sine[j, k] < _NO_DIRECTION:
                    continue
                x = (theta[j, m] - math.pi / 2) / math.asin(1 / 3)
                terms[j, k] += sign * math.cos(3 * phi[j, k, m]) * math.exp(0.5) * x * math.exp(-0.5 * x * x)
    return terms


@compiled_raising
def _cube(
    row: np.ndarray, theta: np.ndarray, phi: np.ndarray, sine: np.ndarray, weights: np.ndarray
) -> tuple[float, bool]:
    """Peters' "bcc", pairs j < k in order of weight; and whether the order of equal weights matters, or the sign of a
    term of two neighbours at a right angle, where it jumps.
    """
    n = len(theta)
    terms = _cube_terms(row, theta, phi, sine)
    norm = 0.5 * n * (6 + (n - 2) * (n - 3))
    total = doubt = 0.0
    for j in range(n):
        for k in range(j + 1, n):
            total += terms[j, k]
            if weights[j] - weights[k] < _SAME_WEIGHT:
                doubt += abs(terms[j, k] - terms[k, j])
            if abs(theta[j, k] - math.pi / 2) < _NEAR:
                doubt += 2 * max(abs(terms[j, k]), abs(terms[k, j]))
    return total / norm, doubt / norm > _TOLERANCE


@compiled_raising
def steinhardt(theta: np.ndarray, order: int) -> float:
    """Steinhardt's q_l = sqrt(sum over i, j of P_l(cos theta_ij)) / n, l = 2, 4 or 6."""
    n = len(theta)
    total = 0.0
    for i in range(n):
        for j in range(n):
            x2 = math.cos(theta[i, j]) ** 2
            if order == 2:
                total += (3 * x2 - 1) / 2
            elif order == 4:
                total += ((35 * x2 - 30) * x2 + 3) / 8
            else:
                total += (((231 * x2 - 315) * x2 + 105) * x2 - 5) / 16
    return math.sqrt(max(0.0, total)) / n


@compiled_raising
def _at_threshold(row: np.ndarray, theta: np.ndarray, phi: np.ndarray, sine: np.ndarray) -> bool:
    """Whether an angle lies so near to a threshold of the definition that rounding decides its side."""
    n = len(theta)
    family = int(row[FAMILY])
    for j in range(n):
        for k in range(n):
            if k == j:
                continue
            angle = theta[j, k]
            near = family in (BIPYRAMID, CUBOCTAHEDRON, CUBE) and abs(angle - row[SOUTH]) < _NEAR
            near |= family == CUBOCTAHEDRON and min(abs(angle - row[LOW]), abs(angle - row[HIGH])) < _NEAR
            near |= family == PENTAGON and abs(angle - row[TARGET] * math.pi) < _NEAR
            near |= 0.1 * _NO_DIRECTION < sine[j, k] < 10 * _NO_DIRECTION
            if family == BIPYRAMID and row[PHI_MAX] < math.pi:
                for m in range(n):
                    near |= abs(phi[j, k, m] - row[PHI_MAX]) < 10 * _NEAR
            if near:
                return True
    return False


@compiled_raising
def order_parameter(
    row: np.ndarray, theta: np.ndarray, phi: np.ndarray, sine: np.ndarray, weights: np.ndarray
) -> tuple[float, int]:
    """One order parameter of a shell of n >= 1 neighbours, and a status.

    Args:
        row: of the table of parameters, (N_COLUMNS,).
        theta: from shell_angles, as the next two.
        phi: (n, n, n).
        sine: (n, n).
        weights: of the bonds, not rounded, descending, (n,).
    """
    family = int(row[FAMILY])
    if family == SINGLE:
        return 1.0, CLEAR
    if family == BENT:
        return _gauss(theta[0, 1], row[SHARPNESS], row[TARGET]), CLEAR
    if family == STEINHARDT:
        return steinhardt(theta, int(row[EXTRA])), CLEAR
    if _at_threshold(row, theta, phi, sine):
        return 0.0, AT_THRESHOLD
    if family == CUBE:
        value, doubtful = _cube(row, theta, phi, sine, weights)
        return value, BY_ORDER if doubtful else CLEAR
    value, doubtful = _best_over_pairs(row, theta, phi, sine)
    return value, AT_THRESHOLD if doubtful else CLEAR


@compiled_raising
def add_site(
    vectors: np.ndarray, rounded: np.ndarray, raw: np.ndarray, table: np.ndarray, first_row: np.ndarray, out: np.ndarray
) -> int:
    """Adds one site's fingerprint to `out`, (f,), and returns a status; if not CLEAR, `out` is of no use.

    Args:
        vectors: to the bonded atoms, (b, 3), angstrom; from voronoi.kernel.bonds, as the next two.
        rounded: weights of the bonds, descending, (b,).
        raw: the same, not rounded, (b,).
        table: one row of parameters per feature, (f, N_COLUMNS).
        first_row: row of the weight of coordination number i + 1, and f at the end, (c + 1,).
        out: zeros.
    """
    n = len(rounded)
    for last in range(n):
        if last + 1 < n and rounded[last + 1] == rounded[last]:
            continue
        coordination = last + 1
        if coordination >= len(first_row):
            break
        following = rounded[last + 1] if last + 1 < n else 0.0
        weight = quarter_disc(rounded[last]) - quarter_disc(following)
        begin = first_row[coordination - 1]
        out[begin] += weight
        if weight == 0 or coordination > N_MAX:
            continue
        theta, phi, sine = shell_angles(vectors[:coordination])
        for row in range(begin + 1, first_row[coordination]):
            value, status = order_parameter(table[row], theta, phi, sine, raw[:coordination])
            if status != CLEAR:
                return status
            out[row] += weight * value
    return CLEAR
