"""SevenNet's energy from edge vectors, with the weights inside the sevenn wheel; nothing of the package is run.

A convolution of the package multiplies, per edge and path (l1, l2 -> l3), the features of the neighbour with the
spherical harmonics of the edge. Here all paths from one l1 are one small matrix per edge, made of the harmonics at
once, and the radial weights are computed once per bond and not per direction. Features are kept as (atoms, 2l+1,
channels), so that every mixing of channels is a plain matrix product.

Letters: N atoms, E edges, B bonds (pairs of opposite edges), P paths, u channels.
Source: Park et al., J. Chem. Theory Comput. 20, 4857 (2024); sevenn 0.13, whose layers are NequIP's as e3nn has them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dft.potentials.edge_messages import LANES, Messages, Neighbours
from dft.potentials.errors import PotentialError, PotentialNotFoundError
from dft.potentials.files import unpickled
from dft.potentials.graph_model import EnergyNetwork, GraphModel
from dft.potentials.interface import Asked, Reading, fingerprint_of
from dft.potentials.neighbours import EdgeBatch
from dft.results import EnergyScheme
from dft.stored_classes import ForeignClassError

FILES = {
    "SevenNet-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "SevenNet-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
}
"""Checkpoints in sevenn's folder pretrained_potentials."""

SILU_SCALE = 1.6791767923989418
"""e3nn scales SiLU to a second moment of one; it estimates the factor from a million numbers of a fixed seed."""

RELEASES = {"SevenNet-0": "July 2024", "SevenNet-l3i5": "December 2024"}

Features = dict[int, Tensor]
"""By degree l: (N, 2l+1, channels)."""


def readings(asked: Asked) -> Iterator[Reading]:
    """See dft.potentials.interface.Loader."""
    package = importlib.util.find_spec("sevenn")
    if package is None or package.origin is None:
        raise PotentialNotFoundError(
            f"potential {asked.name} was not found: its weights are in the package sevenn, which is not installed"
        )
    file = Path(package.origin).parent / "pretrained_potentials" / FILES[asked.name]
    try:
        content = file.read_bytes()
        stored = unpickled(content, file.name)
        network = SevenNetEnergy(stored["config"], stored["model_state_dict"])
    except (ForeignClassError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise PotentialError(
            f"{file.name} of the package sevenn cannot be read ({type(error).__name__}: {error}): install sevenn 0.13 "
            "again"
        ) from error
    yield Reading(
        GraphModel(network, asked.device),
        method=f"{asked.name} ({RELEASES[asked.name]})",
        fingerprint=fingerprint_of(network.atomic_numbers, f"checkpoint {hashlib.sha256(content).hexdigest()}"),
        licence="MIT",
        notes=(f"{asked.name} gives total energies of PBE/PBE+U without the Materials Project's corrections",),
        scheme=EnergyScheme.RAW,
    )


def spherical_harmonics(direction: Tensor, degree_max: int) -> Tensor:
    """Real spherical harmonics of unit vectors, (E, 3) -> (E, (degree_max + 1)^2), at most degree 3.

    Sums of squares over one degree are 2l+1; order and signs are e3nn's, whose polar axis is y.
    """
    x, y, z = direction.unbind(dim=1)
    found = [torch.ones_like(x), *(math.sqrt(3) * part for part in (x, y, z))]
    if degree_max >= 2:
        xz, zz_xx = math.sqrt(15) * x * z, math.sqrt(15) / 2 * (z * z - x * x)
        yy, around = y * y, x * x + z * z
        found += [xz, math.sqrt(15) * x * y, math.sqrt(5) * (yy - around / 2), math.sqrt(15) * y * z, zz_xx]
    if degree_max >= 3:
        a, b, c = math.sqrt(7 / 6), math.sqrt(7), math.sqrt(21 / 8)
        found += [
            a * (xz * z + zz_xx * x), b * xz * y, c * (4 * yy - around) * x, b / 2 * y * (2 * yy - 3 * around),
            c * z * (4 * yy - around), b * zz_xx * y, a * (zz_xx * z - xz * x),
        ]  # fmt: skip
    return torch.stack(found, dim=1)


class RadialBasis(nn.Module):
    """Bessel functions that end smoothly at the cut-off. (B,) -> (B, 8)."""

    def __init__(self, frequencies: Tensor, cutoff_ang: float, ending: Mapping[str, Any]) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(frequencies)
        self.cutoff_ang = cutoff_ang
        kind = ending["cutoff_function_name"]
        if kind not in ("poly_cut", "XPLOR"):
            raise ValueError(f"cutoff_function {kind!r}: expected poly_cut or XPLOR")
        self.is_polynomial = kind == "poly_cut"
        self.power = int(ending["poly_cut_p_value"]) if self.is_polynomial else 0
        self.switched_ang = cutoff_ang if self.is_polynomial else float(ending["cutoff_on"])

    def forward(self, length: Tensor) -> Tensor:
        """Of each bond's length, angstrom."""
        r = length.unsqueeze(1)
        return 2 / self.cutoff_ang * torch.sin(self.frequencies * r) / r * self._ending(r)

    def _ending(self, r: Tensor) -> Tensor:
        if self.is_polynomial:  # Gasteiger et al., arXiv:2003.03123, eq. 8
            p, x = self.power, r / self.cutoff_ang
            ending: Tensor = (
                1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
            )
            return ending
        end, on, rr = self.cutoff_ang**2, self.switched_ang**2, r * r
        return torch.where(rr < on, torch.ones_like(r), (end - rr) ** 2 * (end + 2 * rr - 3 * on) / (end - on) ** 3)


def matrices(flat: Tensor, channels_in: Mapping[int, int], channels_out: Mapping[int, int]) -> dict[int, Tensor]:
    """By degree, the matrix (channels in, channels out) of an e3nn Linear, its normalisation included.

    Raises: ValueError: if there are more or fewer weights than that.
    """
    shapes = {degree: (channels_in[degree], out) for degree, out in channels_out.items() if degree in channels_in}
    sizes = [rows * columns for rows, columns in shapes.values()]
    if sum(sizes) != flat.numel():
        raise ValueError(f"{flat.numel()} weights where {sum(sizes)} are expected, {shapes} by degree")
    parts = zip(shapes.items(), torch.split(flat, sizes), strict=True)
    return {degree: part.view(shape) / math.sqrt(shape[0]) for (degree, shape), part in parts}


class Mixing(nn.Module):
    """One matrix per degree, applied to the channels; a degree without a matrix is dropped."""

    def __init__(self, of_degree: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.degrees = tuple(of_degree)
        self.matrices = nn.ParameterList([nn.Parameter(matrix.clone()) for matrix in of_degree.values()])

    def forward(self, features: Features) -> Features:
        """Features with other numbers of channels."""
        return {degree: features[degree] @ matrix for degree, matrix in zip(self.degrees, self.matrices, strict=True)}


@dataclass(frozen=True)
class Paths:
    """All paths from one degree l1.

    Attributes:
        degree: l1.
        channels: of its features; each path has a weight for each.
        outs: l3 of each path, ascending, and by l2 where equal. The rows of an edge's matrix are the components of
            these, one path after the other.
    """

    degree: int
    channels: int
    outs: tuple[int, ...]

    @property
    def n_rows(self) -> int:
        """Components of all paths."""
        return sum(2 * out + 1 for out in self.outs)


class Convolution(nn.Module):
    """What the neighbours of an atom tell it, summed: sevenn's IrrepsConvolution."""

    table: Tensor

    def __init__(self, weights: Mapping[str, Tensor], channels: Mapping[int, int], l_max: int, l_out: int) -> None:
        """From a checkpoint.

        Args:
            weights: of the layer, by their names in it.
            channels: of the features, by degree.
            l_max: of the harmonics.
            l_out: highest degree of what is told.
        """
        super().__init__()
        found: list[tuple[int, int, int, int]] = []  # l1, l3, l2, first weight
        first = 0
        for l1, n_channels in channels.items():
            for l2 in range(l_max + 1):
                for l3 in range(abs(l1 - l2), min(l1 + l2, l_out) + 1):
                    found.append((l1, l3, l2, first))
                    first += n_channels
        found.sort()
        self.groups = [Paths(l1, n, tuple(l3 for one, l3, *_ in found if one == l1)) for l1, n in channels.items()]
        tables = [torch.zeros((l_max + 1) ** 2, group.n_rows, 2 * group.degree + 1) for group in self.groups]
        row = dict.fromkeys(channels, 0)
        for l1, l3, l2, _ in found:
            rows = slice(row[l1], row[l1] + 2 * l3 + 1)
            of_l1 = tables[list(channels).index(l1)]
            of_l1[l2**2 : (l2 + 1) ** 2, rows] = _coupling(weights, l1, l2, l3).permute(1, 2, 0)
            row[l1] += 2 * l3 + 1
        self.register_buffer("table", torch.cat([table.flatten(1) for table in tables], dim=1))
        columns = torch.cat([torch.arange(at, at + channels[l1]) for l1, _, _, at in found])
        layers = [weights[f"weight_nn.layer{i}.weight"] for i in range(3)]
        scaled = [w * (SILU_SCALE if i else 1.0) / math.sqrt(len(w)) for i, w in enumerate(layers)]
        self.hidden = nn.ParameterList([nn.Parameter(w) for w in scaled[:2]])
        self.weights = nn.Parameter(scaled[2].index_select(1, columns))
        self.paths = native_paths(self.groups)

    def forward(self, features: Features, radial: Tensor, harmonics: Tensor, graph: Neighbours) -> Features:
        """Sums over neighbours; channels of degree l3 are those of its paths, by l1, then l2.

        Args:
            features: of all atoms.
            radial: basis of each bond's length, (B, 8).
            harmonics: of each edge, (E, (l_max + 1)^2).
            graph: whose sources are told.
        """
        for hidden in self.hidden:
            radial = functional.silu(radial @ hidden)
        matrices, weights = harmonics @ self.table, radial @ self.weights
        if self.paths is not None and graph.parts and weights.dtype == torch.float32:
            return self._told_natively(self.paths, features, matrices, weights, graph)
        sizes = [group.n_rows * (2 * group.degree + 1) for group in self.groups]
        numbers = [len(group.outs) * group.channels for group in self.groups]
        told: dict[int, list[Tensor]] = {}
        by_group = zip(self.groups, torch.split(matrices, sizes, 1), torch.split(weights, numbers, 1), strict=True)
        for group, matrix, weight in by_group:
            of_target = features[group.degree].index_select(0, graph.edges.target)
            product = torch.bmm(
                matrix.reshape(len(matrix), group.n_rows, 2 * group.degree + 1), of_target
            )  # (E, rows, u)
            lengths = torch.tensor([2 * l3 + 1 for l3 in group.outs], device=product.device)
            path = torch.repeat_interleave(torch.arange(len(lengths), device=product.device), lengths)
            weight = weight.reshape(len(weight), len(group.outs), group.channels).index_select(1, path)  # (B, rows, u)
            message = product * weight.index_select(0, graph.bond)
            summed = message.new_zeros(len(features[0]), *message.shape[1:]).index_add(0, graph.edges.source, message)
            at = 0
            for l3 in sorted(set(group.outs)):
                n = group.outs.count(l3)
                block = summed[:, at : at + n * (2 * l3 + 1)].reshape(len(summed), n, 2 * l3 + 1, group.channels)
                told.setdefault(l3, []).append(block.transpose(1, 2).flatten(2))
                at += n * (2 * l3 + 1)
        return {l3: torch.cat(parts, dim=2) for l3, parts in told.items()}

    def _told_natively(
        self, paths: Tensor, features: Features, matrices: Tensor, weights: Tensor, graph: Neighbours
    ) -> Features:
        """The same by dft.native.messages, whose channels come in blocks of LANES."""
        blocks = [_in_blocks(features[group.degree]) for group in self.groups]
        out: Tensor = Messages.apply(torch.cat(blocks, dim=1), matrices, weights, paths, graph)  # type: ignore[no-untyped-call]
        outs = sorted({l3 for group in self.groups for l3 in group.outs})
        n_channels = [sum(group.outs.count(l3) * group.channels for group in self.groups) for l3 in outs]
        parts = torch.split(out, [(2 * l3 + 1) * n for l3, n in zip(outs, n_channels, strict=True)], 1)
        return {
            l3: part.reshape(len(part), n // LANES, 2 * l3 + 1, LANES).transpose(1, 2).flatten(2)
            for l3, n, part in zip(outs, n_channels, parts, strict=True)
        }


def _in_blocks(features: Tensor) -> Tensor:
    """(N, 2l+1, u) as (N, u / LANES, 2l+1, LANES), one row per atom."""
    n_atoms, n_components, n_channels = features.shape
    return features.reshape(n_atoms, n_components, n_channels // LANES, LANES).transpose(1, 2).flatten(1)


def native_paths(groups: Sequence[Paths]) -> Tensor | None:
    """The paths of a layer as dft.native.messages has them, (P, 6); None if channels do not come in blocks of LANES."""
    if any(group.channels % LANES for group in groups):
        return None
    outs = sorted({l3 for group in groups for l3 in group.outs})
    first_out = dict.fromkeys(outs, 0)
    for l3 in outs[1:]:
        below = outs[outs.index(l3) - 1]
        n_channels = sum(group.outs.count(below) * group.channels for group in groups)
        first_out[l3] = first_out[below] + n_channels * (2 * below + 1)
    rows: list[tuple[int, ...]] = []
    feature = matrix = weight = 0
    for group in groups:
        d1 = 2 * group.degree + 1
        for l3 in group.outs:
            d3 = 2 * l3 + 1
            for block in range(group.channels // LANES):
                rows.append((feature + block * d1 * LANES, d1, matrix, weight, first_out[l3], d3))
                weight += LANES
                first_out[l3] += d3 * LANES
            matrix += d1 * d3
        feature += group.channels * d1
    return torch.tensor(rows)


def _coupling(weights: Mapping[str, Tensor], l1: int, l2: int, l3: int) -> Tensor:
    """e3nn's Wigner 3j symbols, scaled as in its tensor product: (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).

    Those without a degree 0 are the checkpoint's own: e3nn has changed the signs of some since.
    """
    scale = math.sqrt(2 * l3 + 1)
    if l1 and l2 and l3:
        return scale * weights[f"convolution._compiled_main_left_right._w3j_{l1}_{l2}_{l3}"]
    one = torch.eye(2 * max(l1, l2, l3) + 1) / math.sqrt(2 * max(l1, l2, l3) + 1)
    return scale * one.view(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1)


class Interaction(nn.Module):
    """One block: mix, convolve, mix, add the input mixed, gate."""

    def __init__(
        self,
        weights: Mapping[str, Mapping[str, Tensor]],
        channels: Mapping[int, int],
        after: Mapping[int, int],
        l_max: int,
    ) -> None:
        """From a checkpoint.

        Args:
            weights: of the block's layers, by layer and name.
            channels: of the features that go in, by degree.
            after: of those that come out.
            l_max: of the harmonics.
        """
        super().__init__()
        self.gated = {degree: n for degree, n in after.items() if degree}
        self.n_scalars = after[0]
        wanted = {0: self.n_scalars + sum(self.gated.values())} | self.gated
        self.before = Mixing(matrices(weights["self_interaction_1"]["linear.weight"], channels, channels))
        self.own = Mixing(matrices(weights["self_connection_intro"]["linear.weight"], channels, wanted))
        self.convolution = Convolution(weights["convolution"], channels, l_max, max(after))
        told: dict[int, int] = {}
        for group in self.convolution.groups:
            for l3 in group.outs:
                told[l3] = told.get(l3, 0) + group.channels
        mixing = matrices(weights["self_interaction_2"]["linear.weight"], dict(sorted(told.items())), wanted)
        share = 1.0 / float(weights["convolution"]["denominator"])
        self.after = Mixing({degree: share * matrix for degree, matrix in mixing.items()})

    def forward(self, features: Features, radial: Tensor, harmonics: Tensor, graph: Neighbours) -> Features:
        """The atoms' next features; arguments as Convolution.forward's."""
        own = self.own(features)
        told = self.after(self.convolution(self.before(features), radial, harmonics, graph))
        summed = {degree: block + own[degree] if degree in own else block for degree, block in told.items()}
        scalars, *gates = torch.split(
            SILU_SCALE * functional.silu(summed[0]), [self.n_scalars, *self.gated.values()], dim=2
        )
        return {0: scalars} | {degree: summed[degree] * gate for degree, gate in zip(self.gated, gates, strict=True)}


EXPECTED = {
    "_model_type": "E3_equivariant_model", "is_parity": False, "self_connection_type": "linear", "act_radial": "silu",
    "interaction_type": "nequip", "_normalize_sph": True, "readout_as_fcn": False, "use_bias_in_linear": False,
    "weight_nn_hidden_neurons": [64, 64], "use_species_wise_shift_scale": True,
}  # fmt: skip
"""Settings of a checkpoint that this network follows."""


class SevenNetEnergy(EnergyNetwork):
    """SevenNet-0 or SevenNet-l3i5 as an EnergyNetwork.

    Raises:
        ValueError: if the checkpoint's network is built otherwise than theirs.
    """

    shift_ev: Tensor
    scale_ev: Tensor

    def __init__(self, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, expected in EXPECTED.items():
            if config[name] != expected:
                raise ValueError(f"{name} is {config[name]!r}: expected {expected!r}, as in SevenNet-0 and l3i5")
        for name in ("act_gate", "act_scalar"):
            if config[name]["e"] != "silu":
                raise ValueError(f"{name} is {config[name]['e']!r}: expected 'silu', as in SevenNet-0 and l3i5")
        self.atomic_numbers = tuple(sorted(config["_type_map"], key=config["_type_map"].__getitem__))
        self.cutoff_ang = float(config["cutoff"])
        self.l_max = int(config["lmax"])
        layers: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            layer, _, rest = name.partition(".")
            layers.setdefault(layer, {})[rest] = value.detach()
        channels = [_channels(text) for text in config["irreps_manual"]]
        one = {0: 1}
        embedding = matrices(layers["onehot_to_feature_x"]["linear.weight"], {0: len(self.atomic_numbers)}, channels[0])
        self.embedding = nn.Parameter(embedding[0])
        self.basis = RadialBasis(
            layers["edge_embedding"]["basis_function.coeffs"], self.cutoff_ang, config["cutoff_function"]
        )
        self.interactions = nn.ModuleList(
            Interaction(
                {name.partition("_")[2]: layer for name, layer in layers.items() if name.startswith(f"{i}_")},
                channels[i],
                channels[i + 1],
                self.l_max,
            )
            for i in range(config["num_convolution_layer"])
        )
        hidden = {0: channels[-1][0] // 2}
        to_hidden = matrices(layers["reduce_input_to_hidden"]["linear.weight"], channels[-1], hidden)
        to_energy = matrices(layers["reduce_hidden_to_energy"]["linear.weight"], hidden, one)
        self.readout = nn.Parameter(to_hidden[0] @ to_energy[0])  # nothing stands between the two
        self.register_buffer("shift_ev", layers["rescale_atomic_energy"]["shift"].double())
        self.register_buffer("scale_ev", layers["rescale_atomic_energy"]["scale"].double())

    def forward(self, species: Tensor, edges: EdgeBatch, crystal: Tensor, n_crystals: int) -> Tensor:
        """See EnergyNetwork."""
        distance = torch.linalg.vector_norm(edges.vector_ang, dim=1)
        place = torch.arange(len(distance), device=distance.device)
        is_first = place < edges.reverse
        bond = (torch.cumsum(is_first, dim=0) - 1)[torch.minimum(place, edges.reverse)]
        graph = Neighbours.of(edges, bond, crystal)
        radial = self.basis(distance[is_first])
        harmonics = spherical_harmonics(edges.vector_ang / distance.unsqueeze(1), self.l_max)
        features = {0: self.embedding[species].unsqueeze(1)}
        for interaction in self.interactions:
            features = interaction(features, radial, harmonics, graph)
        per_atom = (features[0].squeeze(1) @ self.readout).squeeze(1).double()
        per_atom = per_atom * self.scale_ev[species] + self.shift_ev[species]
        return torch.zeros(n_crystals, dtype=per_atom.dtype, device=per_atom.device).index_add(0, crystal, per_atom)


def _channels(irreps: str) -> dict[int, int]:
    """'128x0e+64x1e' as channels by degree."""
    blocks = [block.strip().partition("x") for block in str(irreps).split("+")]
    return {int(degree.removesuffix("e")): int(n) for n, _, degree in blocks}
