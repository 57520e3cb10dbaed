"""The ASE calculator of each potential's own package: the truth about its numbers, and what they cost without us."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import torch

from dft.potentials.loading import LoadedPotential
from dft.potentials.matgl import load_matgl

SEVENNET = {"SevenNet-0": "7net-0", "SevenNet-l3i5": "7net-l3i5"}
"""And what their package calls them."""


def own_calculator(name: str, potential: LoadedPotential, models: Path, device: str = "cpu") -> Any:
    """The package's own calculator, its weights corrected by a patch of its own: independent of our layers.

    Args:
        name: registered.
        potential: loaded, for a TensorNet, which we correct in the same way.
        models: folder with matgl's folders.
        device: for its network.
    """
    if name == "CHGNet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device=device)
    if name in SEVENNET:
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(SEVENNET[name], device=device)
    from matgl.ext.ase import PESCalculator

    if name.startswith("TensorNet"):
        return PESCalculator(potential.model.network.potential, stress_unit="eV/A3")
    raw = load_matgl(models / name)
    turn_m3gnet_convolutions(raw)
    return PESCalculator(raw.to(device), stress_unit="eV/A3")


def turn_m3gnet_convolutions(potential: Any) -> None:
    """matgl's own convolution with its edges reversed at the one place where it sums."""
    from matgl.layers import _graph_convolution as layers

    def node_update_(self, edge_index, edge_feat, node_feat, rbf, u_per_edge, num_nodes):  # type: ignore[no-untyped-def]
        source, target = edge_index
        inputs = torch.hstack([node_feat[source], node_feat[target], edge_feat])
        message = self.node_update_func(inputs) * self.node_weight_func(rbf)
        return layers.scatter_add(message, target, dim_size=num_nodes, dim=0)

    for module in potential.modules():
        if isinstance(module, layers.M3GNetGraphConv):
            module.node_update_ = types.MethodType(node_update_, module)
