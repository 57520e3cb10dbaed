"""GemNet-T with directly predicted vectors ("dT"): messages on edges, which see each other's angles, and atoms.

Shape letters: A atoms, W their width, E edges, M their width, D edges of the atom that has most, T triplets, L degrees
of the spherical harmonics.

The network is that of CDVAE, equation for equation. Two things are done otherwise, with the same result:

- A message is weighted by Y_l0 of its angle with each other message to the same atom, and summed. By the addition
  theorem of spherical harmonics the sum over pairs is one sum per atom, read out along each edge; the edge's product
  with itself is taken off again. So no triplet is ever listed: the cost goes with E, not with T.
- The published output blocks also predict an energy per atom from E sums of messages, which CDVAE throws away. They are
  not here: 467,456 of the 2,345,188 weights of CDVAE's denoiser, 7,498,256 of DP-CDVAE's 15,804,044.

Sources: GemNet, arXiv:2106.08903, section 5 and appendix D (triplets only, "GemNet-dT"); sizes and scale factors as in
CDVAE, arXiv:2110.06197.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from generative.networks.periodic_graph import Edges, NeighbourSearch, entries_per_atom, places_in_group
from generative.networks.scaled_layers import INV_SQRT_2, Dense, he_orthogonal, residuals, scaled_silu
from generative.networks.spherical_harmonics import RealSphericalHarmonics

_CACHED_ROWS = 2048  # rows of the bilinear layer's (E, 1024) at a time on a processor: 8 MB, not hundreds


@dataclass(frozen=True)
class ScaleFactors:
    """Numbers that bring what is summed or gated back to the variance of what went in; fixed, not trained.

    The defaults are those that CDVAE ships, of three blocks with 20 neighbours. A network of fewer blocks uses the
    first of each.

    Attributes:
        triplet_gate: messages times their radial gate, one per block ("TripInteraction had_rbf").
        triplet_sum: sums over angles, one per block ("TripInteraction sum_cbf").
        atom_sum: sums over an atom's messages, one per block ("AtomUpdate sum").
        vector_gate: messages times the gate of the vector, one per block and one before ("OutBlock had").
    """

    triplet_gate: tuple[float, ...] = (18.8736, 16.1082, 15.0193)
    triplet_sum: tuple[float, ...] = (7.9969, 7.6146, 7.0252)
    atom_sum: tuple[float, ...] = (1.2205, 0.9691, 0.8903)
    vector_gate: tuple[float, ...] = (16.1610, 13.5468, 12.7543, 13.4850)


@dataclass(frozen=True)
class GemNetConfig:
    """Sizes of the network and limits of its graph; the defaults are CDVAE's.

    Attributes:
        n_blocks: interaction blocks.
        edge_width: of a message.
        triplet_width: of a message as other messages see it.
        bilinear_width: of what comes of a sum over angles.
        radial_width: of the embedded distances that gate messages.
        circular_width: of the embedded distances that weigh the angular functions.
        n_radial: Gaussians of the distance.
        n_spherical: angular functions, Y_l0 with l from 0.
        n_before_skip, n_after_skip, n_concat: residual layers on messages: before and after they meet the block's
            input, and after they see the atoms.
        n_atom: residual layers on atoms, and on messages before they become vectors.
        cutoff_ang: longest edge, angstrom.
        max_neighbours: nearest neighbours that become edges, before the graph is made symmetric.
        images: which periodic images are neighbours; see NeighbourSearch.
        scale_factors: see ScaleFactors.
    """

    n_blocks: int = 3
    edge_width: int = 128
    triplet_width: int = 64
    bilinear_width: int = 64
    radial_width: int = 16
    circular_width: int = 16
    n_radial: int = 128
    n_spherical: int = 7
    n_before_skip: int = 1
    n_after_skip: int = 2
    n_concat: int = 1
    n_atom: int = 3
    cutoff_ang: float = 7.0
    max_neighbours: int = 20
    images: Literal["all", "paper"] = "paper"
    scale_factors: ScaleFactors = ScaleFactors()

    def __post_init__(self) -> None:
        """Raises: ValueError: if there are more blocks than scale factors."""
        factors = self.scale_factors
        most = min(
            len(factors.triplet_gate), len(factors.triplet_sum), len(factors.atom_sum), len(factors.vector_gate) - 1
        )
        if not 1 <= self.n_blocks <= most:
            raise ValueError(
                f"n_blocks is {self.n_blocks}, and there are scale factors for {most} blocks: expected 1 to {most}, or "
                "scale_factors with one of each kind per block, and one more of vector_gate"
            )

    def search(self, lattice_ang: Tensor, n_atoms: Tensor) -> NeighbourSearch:
        """The search for this network's graph; lattices (B, 3, 3), angstrom, atoms per crystal (B,)."""
        return NeighbourSearch(lattice_ang, n_atoms, self.cutoff_ang, self.max_neighbours, self.images, symmetric=True)


class GemNetOutput(NamedTuple):
    """What the network says of each atom.

    Attributes:
        vector: Cartesian, turns with the crystal, (A, 3); zero for an atom without edges.
        atoms: the atoms' states, (A, W).
    """

    vector: Tensor
    atoms: Tensor


class _Geometry(NamedTuple):
    """What all blocks need of the graph, computed once per call."""

    source: Tensor  # (E,)
    target: Tensor  # (E,)
    reverse: Tensor  # (E,)
    slot: Tensor  # (E,) place among A x D: each edge at its target
    harmonics: Tensor  # (A, L^2, D), zero where there is no edge
    by_degree: Sequence[Tensor]  # the same, L of (A, D, 2 l + 1)
    radial_triplet: Tensor  # (E, radial_width)
    radial_atom: Tensor  # (E, radial_width)
    radial_vector: Tensor  # (E, radial_width)
    circular: Tensor  # (E, circular_width, L + 1): weights of the degrees, and of the edge's own message


class _EdgeUpdate(nn.Module):
    """An active layer over [source atom, target atom, what the edge has]: (A, W), (E, n) -> (E, M).

    The atoms' parts are multiplied before they are laid out along the edges, of which there are some twenty times more.
    """

    def __init__(self, atom_width: int, n_in: int, edge_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(he_orthogonal(edge_width, 2 * atom_width + n_in))

    def forward(self, atoms: Tensor, features: Tensor, geometry: _Geometry) -> Tensor:
        width = atoms.shape[1]
        of_source, of_target, of_edge = torch.split(self.weight, [width, width, features.shape[1]], dim=1)
        y = functional.linear(features, of_edge)
        y = y.add_(functional.linear(atoms, of_source).index_select(0, geometry.source))
        y = y.add_(functional.linear(atoms, of_target).index_select(0, geometry.target))
        return scaled_silu(y)


class _AtomUpdate(nn.Module):
    """Gated messages summed at their targets, and layers: (E, M) -> (A, W)."""

    def __init__(self, config: GemNetConfig, atom_width: int, scale: float) -> None:
        super().__init__()
        self.gate = Dense(config.radial_width, config.edge_width, active=False)
        self.first = Dense(config.edge_width, atom_width)
        self.residuals = residuals(atom_width, config.n_atom)
        self.scale = scale

    def forward(self, messages: Tensor, n_atoms: int, geometry: _Geometry) -> Tensor:
        gated = messages * self.gate(geometry.radial_atom)
        gated = gated.to(torch.promote_types(gated.dtype, torch.float32))  # sums in bfloat16 would lose digits
        summed = gated.new_zeros(n_atoms, gated.shape[1]).index_add(0, geometry.target, gated)
        atoms: Tensor = self.residuals(self.first(summed * self.scale))
        return atoms


class _VectorOutput(nn.Module):
    """Component of the vector of each edge's target along the edge: (E, M) -> (E,)."""

    def __init__(self, config: GemNetConfig, scale: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Dense(config.edge_width, config.edge_width), residuals(config.edge_width, config.n_atom)
        )
        self.gate = Dense(config.radial_width, config.edge_width, active=False)
        self.out = Dense(config.edge_width, 1, active=False)
        self.scale = scale

    def forward(self, messages: Tensor, geometry: _Geometry) -> Tensor:
        # sum_d out_d x_d sum_r gate_dr radial_r, the sum over the wide axis first
        x: Tensor = self.layers(messages)
        weight = self.gate.weight * (self.out.weight.transpose(0, 1) * self.scale)  # (M, radial_width)
        return ((x @ weight) * geometry.radial_vector).sum(1)


class _TripletInteraction(nn.Module):
    """What each message learns of the others to its target, and its reverse learns of them: (E, M) -> (E, M)."""

    def __init__(self, config: GemNetConfig, gate_scale: float, sum_scale: float) -> None:
        super().__init__()
        self.dense = Dense(config.edge_width, config.edge_width)
        self.gate = Dense(config.radial_width, config.edge_width, active=False)
        self.down = Dense(config.edge_width, config.triplet_width)
        bilinear = he_orthogonal(config.triplet_width, config.circular_width, config.bilinear_width)
        self.bilinear = nn.Parameter(bilinear.transpose(0, 1).contiguous())
        self.up_forward = Dense(config.bilinear_width, config.edge_width)
        self.up_reverse = Dense(config.bilinear_width, config.edge_width)
        self.gate_scale, self.sum_scale = gate_scale, sum_scale

    def forward(self, messages: Tensor, geometry: _Geometry) -> Tensor:
        gate = functional.linear(geometry.radial_triplet, self.gate.weight * self.gate_scale)
        seen = self.down(self.dense(messages) * gate)  # (E, triplet_width)
        x = self._bilinear(self._by_angle(seen, geometry), geometry.circular)
        of_reverse = self.up_reverse(x).index_select(0, geometry.reverse)
        return torch.add(self.up_forward(x), of_reverse).mul_(INV_SQRT_2)

    def _by_angle(self, seen: Tensor, geometry: _Geometry) -> Tensor:
        """Sum over all edges of the same atom, weighted by Y_l0 of the angle, and the edge's own: (E, L + 1, width)."""
        n_atoms, _, n_slots = geometry.harmonics.shape
        slots = seen.new_zeros(n_atoms * n_slots, seen.shape[1]).index_copy(0, geometry.slot, seen)
        slots = slots.view(n_atoms, n_slots, seen.shape[1])
        moments = geometry.harmonics @ slots  # (A, L^2, width)
        sizes = [harmonics.shape[2] for harmonics in geometry.by_degree]
        parts = zip(geometry.by_degree, torch.split(moments, sizes, dim=1), strict=True)
        sums = [harmonics @ moment for harmonics, moment in parts]
        along = torch.stack([*sums, slots], dim=2)  # (A, D, L + 1, width)
        return along.flatten(0, 1).index_select(0, geometry.slot)

    def _bilinear(self, sums: Tensor, circular: Tensor) -> Tensor:
        """(E, L + 1, width), (E, circular_width, L + 1) -> (E, bilinear_width)."""
        weight = self.bilinear.flatten(0, 1) * self.sum_scale
        step = max(len(sums), 1) if sums.is_cuda else _CACHED_ROWS
        parts = zip(torch.split(circular, step), torch.split(sums, step), strict=True)
        return torch.cat([(some @ along).flatten(1) @ weight for some, along in parts])


class _Interaction(nn.Module):
    """One block: (A, W), (E, M) -> the same."""

    def __init__(self, config: GemNetConfig, atom_width: int, block: int) -> None:
        super().__init__()
        scales, width = config.scale_factors, config.edge_width
        self.dense = Dense(width, width)
        self.triplets = _TripletInteraction(config, scales.triplet_gate[block], scales.triplet_sum[block])
        self.before_skip = residuals(width, config.n_before_skip)
        self.after_skip = residuals(width, config.n_after_skip)
        self.atom_update = _AtomUpdate(config, atom_width, scales.atom_sum[block])
        self.concat = _EdgeUpdate(atom_width, width, width)
        self.after_concat = residuals(width, config.n_concat)

    def forward(self, atoms: Tensor, messages: Tensor, geometry: _Geometry) -> tuple[Tensor, Tensor]:
        x = torch.add(self.dense(messages), self.triplets(messages, geometry)).mul_(INV_SQRT_2)
        messages = torch.add(messages, self.before_skip(x)).mul_(INV_SQRT_2)
        messages = self.after_skip(messages)
        atoms = torch.add(atoms, self.atom_update(messages, len(atoms), geometry)).mul_(INV_SQRT_2)
        x = self.after_concat(self.concat(atoms, messages, geometry))
        return atoms, torch.add(messages, x).mul_(INV_SQRT_2)


class GemNetT(nn.Module):
    """Atoms' states and a graph to vectors and new states: (A, W), edges -> (A, 3), (A, W).

    Embedding the atoms' types, and reading types from the new states, is left to the system that uses it.
    """

    offsets: Tensor
    own: Tensor
    norms: Tensor

    def __init__(self, config: GemNetConfig, atom_width: int) -> None:
        super().__init__()
        self.config = config
        n_spherical, n_radial = config.n_spherical, config.n_radial
        self.harmonics = RealSphericalHarmonics(n_spherical - 1)
        degrees = torch.arange(n_spherical, dtype=torch.float64)
        # Y_l0 of the angle is sum_m of products of these norms times Y_lm; of an edge with itself, it is `own`.
        per_degree = (4 * math.pi / (2 * degrees + 1)) ** 0.25
        self.register_buffer("norms", per_degree.repeat_interleave(2 * degrees.long() + 1), persistent=False)
        self.register_buffer("own", ((2 * degrees + 1) / (4 * math.pi)).sqrt(), persistent=False)
        self.register_buffer("offsets", torch.linspace(0, 1, n_radial, dtype=torch.float64), persistent=False)
        self.radial_triplet = Dense(n_radial, config.radial_width, active=False)
        self.radial_atom = Dense(n_radial, config.radial_width, active=False)
        self.radial_vector = Dense(n_radial, config.radial_width, active=False)
        self.circular = nn.Parameter(he_orthogonal(n_spherical, n_radial, config.circular_width))
        self.edge_embedding = _EdgeUpdate(atom_width, n_radial, config.edge_width)
        self.blocks = nn.ModuleList(_Interaction(config, atom_width, block) for block in range(config.n_blocks))
        scales = config.scale_factors.vector_gate[: config.n_blocks + 1]
        self.outputs = nn.ModuleList(_VectorOutput(config, scale) for scale in scales)

    def forward(self, atoms: Tensor, edges: Edges) -> GemNetOutput:
        """Vectors and new states of atoms.

        Args:
            atoms: states, (A, W).
            edges: a symmetric graph, in any order, all within the cut-off; see GemNetConfig.search.
        Raises: ValueError: if the edges come without their reverses.
        """
        if edges.reverse is None:
            raise ValueError(
                "the edges come without their reverses: expected a symmetric graph, as of GemNetConfig.search or "
                "NeighbourSearch(..., symmetric=True)"
            )
        unit = edges.vector_ang / edges.distance_ang.clamp(min=1e-12).unsqueeze(1)
        radial = self._radial(edges.distance_ang)
        geometry = self._geometry(unit, radial, edges, edges.reverse, len(atoms))
        messages = self.edge_embedding(atoms, radial, geometry)
        along = self.outputs[0](messages, geometry)  # (E,)
        for block, output in zip(self.blocks, self.outputs[1:], strict=True):
            atoms, messages = block(atoms, messages, geometry)
            along = along + output(messages, geometry)
        vector = unit.new_zeros(len(atoms), 3).index_add(0, edges.target, along.unsqueeze(1) * unit)
        return GemNetOutput(vector, atoms)

    def _radial(self, distance_ang: Tensor) -> Tensor:
        """Gaussians of the distance under a polynomial, p = 5, that is zero at the cut-off: (E,) -> (E, n_radial)."""
        d = distance_ang / self.config.cutoff_ang
        envelope = 1 + d**5 * (-21 + d * (35 - 15 * d))
        envelope = torch.where(d < 1, envelope, torch.zeros_like(d))
        precision = -0.5 * (self.config.n_radial - 1) ** 2
        exponents = precision * (d.unsqueeze(1) - self.offsets.to(d.dtype)).square()
        # Below e^-80 lies nothing that matters, but numbers so small that processors handle them ten times slower.
        return exponents.clamp(min=-80.0).exp() * envelope.unsqueeze(1)

    def _geometry(self, unit: Tensor, radial: Tensor, edges: Edges, reverse: Tensor, n_atoms: int) -> _Geometry:
        counts = entries_per_atom(edges.target, n_atoms)
        n_slots = int(counts.max()) if n_atoms else 0
        target, order = torch.sort(edges.target, stable=True)
        slot = torch.empty_like(order).index_copy_(0, order, target * n_slots + places_in_group(counts, target))
        values = self.harmonics(unit) * self.norms.to(unit.dtype)
        n_values = values.shape[1]
        padded = values.new_zeros(n_atoms * n_slots, n_values).index_copy(0, slot, values)
        padded = padded.view(n_atoms, n_slots, n_values)
        sizes = [2 * degree + 1 for degree in range(self.config.n_spherical)]
        # The sum over an atom's edges has the edge itself in it: one more weight takes it off.
        itself = torch.einsum("l,lri->ri", self.own.to(self.circular.dtype), self.circular)
        weight = torch.cat([self.circular, -itself.unsqueeze(0)])  # (L + 1, n_radial, circular_width)
        shape = len(radial), self.config.circular_width, self.config.n_spherical + 1
        return _Geometry(
            source=edges.source,
            target=edges.target,
            reverse=reverse,
            slot=slot,
            harmonics=padded.transpose(1, 2).contiguous(),
            by_degree=[part.contiguous() for part in torch.split(padded, sizes, dim=2)],
            radial_triplet=self.radial_triplet(radial),
            radial_atom=self.radial_atom(radial),
            radial_vector=self.radial_vector(radial),
            circular=functional.linear(radial, weight.permute(2, 0, 1).flatten(0, 1)).view(shape),
        )
