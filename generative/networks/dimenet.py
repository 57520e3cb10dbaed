"""DimeNet++ over given bonds: messages on directed edges that see the angles between them; CDVAE's encoder.

Shape letters: B crystals, A atoms of all crystals end to end, E edges, T triplets, S spherical harmonics (degrees), R
radial functions, W width of an edge's message.

The layers are torch-geometric's (torch_geometric.nn.models.dimenet), with three differences that CDVAE's version has
too: edges come from outside and may join images, the projection before the output layers has a bias, and atoms are
averaged, not summed. The spherical basis is computed here: torch-geometric derives its formulas by sympy, which takes
10 s for every network that is made, and evaluates them in single precision, where they cancel (wrong by 0.09 at 0.7 A).

Sources: DimeNet, arXiv:2003.03123; DimeNet++, arXiv:2011.14115; sizes as in CDVAE, arXiv:2110.06197.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn.inits import glorot_orthogonal
from torch_geometric.nn.models.dimenet import (
    BesselBasisLayer,
    EmbeddingBlock,
    Envelope,
    InteractionPPBlock,
    OutputPPBlock,
)

from generative.networks.atomic_numbers import refuse_unknown_elements
from generative.networks.periodic_graph import Edges, entries_per_atom, triplets_through

Z_MAX = 94
"""Elements with a vector: the published table has 95 rows, the first of them unused."""

_N_STEPS = 2048
"""Of the table of radial functions, from 0 to the cut-off."""


@dataclass(frozen=True)
class DimeNetConfig:
    """Sizes of the network; the defaults are those of CDVAE, for its encoder and its property regressor.

    Attributes:
        edge_width: of a message.
        n_blocks: interaction blocks; each, and the embedding before them, has an output block.
        triplet_width: of a message while it is weighted by angles.
        basis_width: of the bases' two-layer projections.
        atom_width: of an atom in the output blocks.
        n_spherical: degrees of the angular basis, from 0 up.
        n_radial: radial functions, per degree in the angular basis.
        cutoff_ang: where the radial functions end; longer bonds carry nothing, angstrom.
        envelope_exponent: of the polynomial that lets them end smoothly.
        n_before_skip: residual layers of a block before the skip connection.
        n_after_skip: and after it.
        n_output_layers: hidden layers of an output block.
        readout: over a crystal's atoms.
        triplets: "published" drops every triplet that leads back to the atom it came from, in whatever cell: the code
            was made for molecules, and cells of one or two atoms keep few triplets. "by_edge" drops only the way back
            along the same edge.
    """

    edge_width: int = 128
    n_blocks: int = 4
    triplet_width: int = 64
    basis_width: int = 8
    atom_width: int = 256
    n_spherical: int = 7
    n_radial: int = 6
    cutoff_ang: float = 7.0
    envelope_exponent: int = 5
    n_before_skip: int = 1
    n_after_skip: int = 2
    n_output_layers: int = 3
    readout: Literal["mean", "sum"] = "mean"
    triplets: Literal["published", "by_edge"] = "published"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("readout", self.readout, ("mean", "sum")),
            ("triplets", self.triplets, ("published", "by_edge")),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}: expected one of {', '.join(known)}")


def spherical_bessel_zeros(n_degrees: int, n_zeros: int) -> np.ndarray:
    """The first zeros of the spherical Bessel functions j_0, j_1, ..., (n_degrees, n_zeros)."""
    zeros = math.pi * np.arange(1, n_zeros + n_degrees)  # of j_0
    found = [zeros[:n_zeros]]
    for degree in range(1, n_degrees):  # zeros of neighbouring degrees interlace
        between = zip(zeros[:-1], zeros[1:], strict=True)
        zeros = np.array([brentq(partial(spherical_jn, degree), low, high, xtol=1e-14) for low, high in between])
        found.append(zeros[:n_zeros])
    return np.stack(found)


class SphericalBasis(nn.Module):
    """Standing waves in a ball of the cut-off's radius, along the two edges of a triplet. -> (T, S * R).

    a_ln(d, angle) = u(x) sqrt(2 / j_{l+1}(z_ln)^2) j_l(z_ln x) Y_l0(angle) with x = d / cut-off, u the envelope and
    z_ln the n-th zero of j_l (DimeNet, eq. 6). By degree, then by zero.

    The radial functions are read from a table by cubic Hermite interpolation, exact to 1e-10 of their size: the
    recurrence for j_l at small x needs double precision, which takes longer.
    """

    values: Tensor
    slopes: Tensor

    def __init__(self, n_spherical: int, n_radial: int, cutoff_ang: float, envelope_exponent: int) -> None:
        super().__init__()
        self.n_spherical, self.n_radial, self.cutoff_ang = n_spherical, n_radial, cutoff_ang
        self.envelope = Envelope(envelope_exponent)
        zeros = spherical_bessel_zeros(n_spherical, n_radial)  # (S, R)
        degree = np.arange(n_spherical).reshape(-1, 1)
        scales = np.sqrt(2) / np.abs(spherical_jn(degree + 1, zeros)) * np.sqrt((2 * degree + 1) / (4 * math.pi))
        x = np.linspace(0, 1, _N_STEPS + 1).reshape(-1, 1, 1)
        values = scales * spherical_jn(degree, zeros * x)
        slopes = scales * spherical_jn(degree, zeros * x, derivative=True) * zeros / _N_STEPS  # per step
        for name, table in (("values", values), ("slopes", slopes)):
            self.register_buffer(name, torch.from_numpy(table).flatten(1), persistent=False)

    def radial(self, distance_ang: Tensor) -> Tensor:
        """The basis without the angles' part, (E,) -> (E, S * R); beyond the cut-off zero."""
        reduced = distance_ang / self.cutoff_ang
        place = reduced.detach().clamp(0, 1) * _N_STEPS
        begin = place.long().clamp(max=_N_STEPS - 1)
        t = (reduced.clamp(0, 1) * _N_STEPS - begin).unsqueeze(-1)
        low, high = (self.values.index_select(0, begin + k).to(t.dtype) for k in (0, 1))
        rise, rise_end = (self.slopes.index_select(0, begin + k).to(t.dtype) for k in (0, 1))
        gap = high - low
        bend = (rise - gap) * (1 - t) + (gap - rise_end) * t
        waves = low + t * (gap + (1 - t) * bend)
        envelope: Tensor = self.envelope(reduced)
        return envelope.unsqueeze(-1) * waves

    def forward(self, distance_ang: Tensor, cosine: Tensor, first: Tensor) -> Tensor:
        """Basis functions of each triplet.

        Args:
            distance_ang: of each edge, (E,).
            cosine: of each triplet's angle, (T,).
            first: the edge k -> j of each triplet, (T,).

        Returns: (T, S * R).
        """
        legendre = [torch.ones_like(cosine), cosine]
        for degree in range(2, self.n_spherical):
            legendre.append(((2 * degree - 1) * cosine * legendre[-1] - (degree - 1) * legendre[-2]) / degree)
        angular = torch.stack(legendre[: self.n_spherical], dim=1)  # (T, S)
        radial = self.radial(distance_ang).index_select(0, first)  # (T, S * R)
        return radial * angular.repeat_interleave(self.n_radial, dim=1)


class DimeNetPlusPlus(nn.Module):
    """Crystals with edges to one vector each, (B, out_width); 2,213,510 weights as published, with 256 to come out.

    The last layer of every output block starts at zero, so a new network answers zero.
    """

    def __init__(self, config: DimeNetConfig, out_width: int) -> None:
        super().__init__()
        self.config = c = config
        act = functional.silu
        self.radial = BesselBasisLayer(c.n_radial, c.cutoff_ang, c.envelope_exponent)
        self.spherical = SphericalBasis(c.n_spherical, c.n_radial, c.cutoff_ang, c.envelope_exponent)
        self.embedding = EmbeddingBlock(c.n_radial, c.edge_width, act)
        self.interactions = nn.ModuleList(
            InteractionPPBlock(
                c.edge_width,
                c.triplet_width,
                c.basis_width,
                c.n_spherical,
                c.n_radial,
                c.n_before_skip,
                c.n_after_skip,
                act,
            )
            for _ in range(c.n_blocks)
        )
        self.outputs = nn.ModuleList(self._output(out_width) for _ in range(c.n_blocks + 1))

    def _output(self, out_width: int) -> nn.Module:
        c = self.config
        block = OutputPPBlock(c.n_radial, c.edge_width, c.atom_width, out_width, c.n_output_layers, functional.silu)
        block.lin_up = nn.Linear(c.edge_width, c.atom_width)  # torch-geometric's has no bias
        glorot_orthogonal(block.lin_up.weight, scale=2.0)
        made: nn.Module = block
        return made

    def forward(self, atomic_numbers: Tensor, crystal: Tensor, n_crystals: int, edges: Edges) -> Tensor:
        """One vector per crystal, invariant to rotation, reflection, order of atoms and the choice of images.

        Args:
            atomic_numbers: 1 to 94, (A,), int64.
            crystal: index of each atom's crystal, (A,), int64.
            n_crystals: B; each has an atom.
            edges: in any order; an atom without edges hears nothing.

        Returns: (B, out_width).
        Raises: ValueError: if an atomic number is outside 1-94.
        """
        refuse_unknown_elements(atomic_numbers, Z_MAX, "DimeNet++")
        n_atoms_total = len(atomic_numbers)
        into, out = triplets_through(edges, n_atoms_total, keep_returning=self.config.triplets == "by_edge")
        # Between the steps k -> j and j -> i: straight on is 0, as torch-geometric has it.
        steps, lengths = edges.vector_ang, edges.distance_ang
        cosine = (steps[into] * steps[out]).sum(-1) / (lengths[into] * lengths[out])
        radial = self.radial(lengths)  # (E, R)
        spherical = self.spherical(lengths, cosine, into)  # (T, S * R)

        messages = self.embedding(atomic_numbers, radial, edges.target, edges.source)  # (E, W)
        atoms = self.outputs[0](messages, radial, edges.target, num_nodes=n_atoms_total)  # (A, out_width)
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            messages = interaction(messages, radial, spherical, into, out)
            atoms = atoms + output(messages, radial, edges.target, num_nodes=n_atoms_total)

        pooled: Tensor = atoms.new_zeros(n_crystals, atoms.shape[1]).index_add(0, crystal, atoms)
        if self.config.readout == "sum":
            return pooled
        return pooled / entries_per_atom(crystal, n_crystals).unsqueeze(-1)
