"""A potential in a formula: springs between pairs, in float64, for noble gases."""

import torch

from dft.potentials.graph_model import EnergyNetwork, GraphModel
from dft.potentials.loading import LoadedPotential

CUTOFF_ANG = 4.0


class Pairs(EnergyNetwork):
    """Springs between all pairs within the cut-off, each of which a smooth window lets go at the cut-off.

    A positive depth binds atoms at 2.6 A; a negative one drives them apart.
    """

    def __init__(self, depth_ev: float) -> None:
        super().__init__()
        self.cutoff_ang, self.atomic_numbers = CUTOFF_ANG, (10, 18, 36)
        self.register_buffer("depth_ev", torch.tensor(depth_ev, dtype=torch.float64))

    def forward(self, species, edges, crystal, n_crystals):  # type: ignore[no-untyped-def]  # noqa: D102
        distance = edges.vector_ang.norm(dim=1)
        window = (1 + torch.cos(torch.pi * distance / self.cutoff_ang)) / 2
        pair = self.depth_ev * ((1 - torch.exp(-1.5 * (distance - 2.6))) ** 2 - 1) * window
        energy = torch.zeros(n_crystals, dtype=pair.dtype, device=pair.device)
        return energy.index_add(0, crystal[edges.source], pair / 2).double()


def pairs(depth_ev: float = 0.3) -> LoadedPotential:
    model = GraphModel(Pairs(depth_ev), torch.device("cpu"))
    return LoadedPotential("pairs", "pairs", "0" * 64, model, (), ("Ne", "Ar", "Kr"))
