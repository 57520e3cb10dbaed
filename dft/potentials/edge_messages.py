"""dft.native.messages as a step of a network: which edges, whose threads, and the slopes for autograd."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dft.potentials.neighbours import EdgeBatch
from storage.native_code import is_installed

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

LANES = 32
"""Channels that the kernels take at a time."""


@dataclass(frozen=True)
class Neighbours:
    """Who tells whom.

    Attributes:
        edges: each edge's source is told by its target.
        bond: of each edge, (E,); an edge and its reverse are one.
        starts: first edge of each atom, and the number of edges, (N + 1,).
        parts: atoms from, to: whole crystals, with about as many edges in each; none where the kernels cannot be used.
    """

    edges: EdgeBatch
    bond: Tensor
    starts: np.ndarray
    parts: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, edges: EdgeBatch, bond: Tensor, crystal: Tensor) -> Neighbours:
        """From edges, the bond of each, and each atom's crystal, (N,), ascending."""
        if bond.device.type != "cpu" or not is_installed():
            return cls(edges, bond, np.zeros(1, dtype=np.int64), ())
        counts = np.bincount(edges.source.numpy(), minlength=len(crystal))
        starts = np.concatenate([[0], np.cumsum(counts)])
        ends = np.concatenate(
            [np.flatnonzero(np.diff(crystal.numpy())) + 1, [len(crystal)]]
        )  # a crystal's last atom + 1
        n_threads = torch.get_num_threads()
        wanted = starts[-1] * np.arange(1, n_threads + 1) / n_threads
        lasts = np.unique(ends[np.minimum(np.searchsorted(starts[ends], wanted), len(ends) - 1)])
        return cls(edges, bond, starts, tuple(zip([0, *lasts[:-1].tolist()], lasts.tolist(), strict=True)))

    def each_part(self, work: Callable[[int, int], None]) -> None:
        """Do something with every part, a thread each."""
        if len(self.parts) == 1:
            work(*self.parts[0])
            return
        with ThreadPoolExecutor(len(self.parts)) as threads:
            for done in [threads.submit(work, *part) for part in self.parts]:
                done.result()


class Messages(torch.autograd.Function):
    """dft.native.messages.told, with its slopes."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, features: Tensor, matrices: Tensor, weights: Tensor, paths: Tensor, graph: Neighbours
    ) -> Tensor:
        """What each atom is told, (N, numbers), from features (N, ...), matrices (E, ...) and weights (B, ...)."""
        from dft.native.messages import told

        features, matrices, weights = features.contiguous(), matrices.contiguous(), weights.contiguous()
        ctx.save_for_backward(features, matrices, weights)
        ctx.paths, ctx.graph = paths, graph
        width = int((paths[:, 4] + LANES * paths[:, 5]).max())
        out = torch.zeros(len(features), width)
        fixed = _arrays(paths, graph, features, matrices, weights)
        graph.each_part(lambda first, last: told(*fixed, first, last, out.numpy()))
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Slopes by features, matrices and weights."""
        from dft.native.messages import slopes

        features, matrices, weights = ctx.saved_tensors
        found = tuple(torch.zeros_like(one) for one in (features, matrices, weights))
        fixed, by_told = _arrays(ctx.paths, ctx.graph, features, matrices, weights), slope.contiguous().numpy()
        of_features, of_matrices, of_weights = (one.numpy() for one in found)
        ctx.graph.each_part(
            lambda first, last: slopes(*fixed, first, last, by_told, of_features, of_matrices, of_weights)
        )
        return (*found, None, None)


def _arrays(paths: Tensor, graph: Neighbours, features: Tensor, matrices: Tensor, weights: Tensor) -> Arrays:
    edges = graph.edges
    integers = (paths.numpy(), graph.starts, edges.target.numpy(), graph.bond.numpy())
    return (*integers, features.detach().numpy(), matrices.detach().numpy(), weights.detach().numpy())
