"""Crystals per second of the adaptive-cell model, beside one crystal at a time with its graph in Python and triplets.

Printed, never asserted. Seconds of the wall clock, of one graph and network call, both sides with all processors. A
sample takes 1,600 calls as published (10 levels, 80 steps, two estimates), half of them with `at_once`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from generative.crystal.wyckoff import WyckoffCrystal
from generative.networks.edge_dimenet import EdgeDimeNet, EdgeDimeNetConfig
from generative.processor import prepare_processor
from generative.systems.adaptive_cell.multigraph import multigraph
from generative.systems.adaptive_cell.site_crystal import SiteCrystal
from generative.systems.adaptive_cell.training_set import packed, state_of
from tests.benchmarks.plain_multigraph import by_triplets, looped_graph
from tests.real_crystals import real_crystals

pytestmark = pytest.mark.benchmark

CALLS = 1600
SIZES = {
    "published": EdgeDimeNetConfig(),
    "train-adaptive-cell": EdgeDimeNetConfig(
        message_width=48, output_width=48, triplet_width=24, n_blocks=3, n_spherical=5
    ),
}


def spent(run: Callable[[], object], rounds: int) -> float:
    """Median of the seconds over rounds after a warm-up."""
    run()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_sites", [(1, 2), (3, 4), (5, 8)])
@torch.no_grad()
def test_steps_of_a_batch_beside_one_crystal_at_a_time(size: str, n_sites: tuple[int, int]) -> None:
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    prepare_processor()
    described = (WyckoffCrystal.of(crystal) for crystal in real_crystals("mp_20_val", 3000, 20))
    chosen = [SiteCrystal.of(one) for one in described if one.signature.spacegroup >= 16]
    chosen = [one for one in chosen if n_sites[0] <= len(one.frac) <= n_sites[1]][:128]
    given = packed(chosen)
    state = state_of(given["group"], given["n_sites"], given["site_frac"], given["cell"])
    state = state.moved(torch.randn(state.frac.shape, generator=torch.Generator().manual_seed(0)))
    numbers, lattice = given["site_numbers"], state.lattice_ang
    torch.manual_seed(0)
    net = EdgeDimeNet(SIZES[size], 2).eval()
    level = torch.full_like(numbers, 5)

    def batched() -> object:
        return net(numbers, level, multigraph(state.frac, lattice, state.sites))

    ends = state.sites.n_sites.cumsum(0)

    def plain(i: int) -> object:
        own = slice(int(ends[i] - state.sites.n_sites[i]), int(ends[i]))
        graph = looped_graph(chosen[i].spacegroup, state.frac[own].double().numpy(), lattice[i].double().numpy())
        return by_triplets(net.double(), numbers[own], level[own], graph)

    ours = spent(batched, 5) / len(chosen)
    some = np.linspace(0, len(chosen) - 1, 4).astype(int).tolist()
    theirs = sum(spent(lambda i=i: plain(i), 1) for i in some) / len(some)  # type: ignore[misc]
    net.float()
    print(
        f"\n{size}, {n_sites[0]}-{n_sites[1]} sites, {len(chosen)} crystals, {threads} threads: {1e3 * ours:.2f} ms a "
        f"call and crystal, {CALLS * ours:.1f} s a sample; one at a time {1e3 * theirs:.0f} ms, "
        f"{CALLS * theirs / 60:.1f} min a sample: {theirs / ours:.0f} times, {2 * theirs / ours:.0f} with at_once"
    )
