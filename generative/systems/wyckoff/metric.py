"""How alike two compositions are, as far as their crystals are: a learned distance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from generative.crystal.species import MAX_Z, element_properties


class CompositionMetric(nn.Module):
    """A composition as one vector; the squared distance of two is how little they tell of each other.

    Each element has a vector of its own, made of its properties and what is learned of it, and a part that depends on
    the others beside it: titanium in an oxide is not titanium in an alloy. Both are weighted by the element's share of
    the atoms, so that exchanging a rare element moves the composition little.

    Shape letters: B compositions of one pattern of counts, k elements, w width.
    """

    properties: Tensor

    def __init__(self, width: int, hidden: int, dropout: float, n_element: int = 64) -> None:
        super().__init__()
        self.register_buffer("properties", element_properties(), persistent=False)
        self.element = nn.Embedding(MAX_Z + 1, n_element)
        nn.init.normal_(self.element.weight, std=0.1)
        self.of_properties = nn.Linear(self.properties.shape[1], n_element)
        self.alone = nn.Linear(n_element, width)
        self.among_others = nn.Sequential(
            nn.Linear(3 * n_element + 4, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.same = nn.Parameter(torch.tensor(1.0))
        """Added to the squared distance of equal compositions. It is learned to be above 0: a database lists a
        structure once, so another crystal of a known composition is likely to be another polymorph."""
        self.energy = nn.Parameter(torch.tensor(0.0))
        """Logarithm of what a difference of formation energies adds to it, per (eV/atom)^2, where both are known."""
        self.farness = nn.Parameter(torch.tensor(0.5))
        """A tenth of the squared distance at which a voter counts as much as the network that makes signatures."""

    def forward(self, elements: Tensor, counts: Sequence[int]) -> Tensor:
        """Vectors of compositions, (B, k w).

        Args:
            elements: atomic numbers by role, (B, k).
            counts: atoms of each role in the primitive cell, (k,).
        """
        of_element = self.element(elements) + self.of_properties(self.properties[elements])
        n = torch.tensor(counts, dtype=of_element.dtype, device=elements.device)
        share = n / n.sum()
        mean = (of_element * share[:, None]).sum(1, keepdim=True).expand_as(of_element)
        most = of_element.amax(1, keepdim=True).expand_as(of_element)
        role = torch.stack([share, n.log(), n.sum().log().expand_as(n), torch.full_like(n, len(n) / 4)], dim=1)
        among = self.among_others(torch.cat([of_element, mean, most, role.expand(len(elements), -1, -1)], dim=-1))
        weighted: Tensor = (self.alone(of_element) + among) * share.sqrt()[:, None]
        return weighted.flatten(1)

    def nearness(
        self,
        asked: Tensor,
        asked_elements: Tensor,
        stored: Tensor,
        stored_elements: Tensor,
        asked_energy: Tensor | None = None,
        stored_energy: Tensor | None = None,
    ) -> Tensor:
        """Logarithm of the weight with which each stored composition votes, (B, T).

        Args:
            asked: vectors, (B, k w).
            asked_elements: theirs, (B, k).
            stored: vectors, (T, k w).
            stored_elements: theirs, (T, k); (T, 0) where they are not known.
            asked_energy: formation energy that is asked for, eV/atom, NaN where none is, (B,).
            stored_energy: that of each voter, NaN where it is not known, (T,).
        """
        squared = asked.square().sum(1)[:, None] + stored.square().sum(1) - 2 * asked @ stored.T
        near = -squared
        if stored_elements.shape[1]:
            near = near - self.same * (asked_elements[:, None] == stored_elements).all(-1)
        if asked_energy is not None and stored_energy is not None:
            apart = (asked_energy[:, None] - stored_energy).nan_to_num(0.0)
            near = near - self.energy.exp() * apart.square()
        return near
