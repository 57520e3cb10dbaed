"""Rates of the packaged generator: sampling and training, crystals per second; printed, never asserted."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.requests import Request
from generative.systems.crystal_flow import FlowSampler

pytestmark = pytest.mark.benchmark

REQUESTS = [Request.for_atoms([5, 5, 73, 74, 74][: 2 + i % 4] * (1 + i % 3)) for i in range(128)]
"""Cells of 2 to 15 atoms, 7 on average."""


def devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def sync(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("n_steps", [50, 20])
def test_sampling_rate(device: str, n_steps: int) -> None:
    system = checkpoints.load("package:hullward-flow", device).system
    settings = FlowSampler(n_steps=n_steps)
    rng = torch.Generator().manual_seed(0)
    times = []
    for round_number in range(4):
        sync(device)
        start = time.perf_counter()
        system.sample(REQUESTS, rng, settings)
        sync(device)
        if round_number:  # the first warms the allocator
            times.append(time.perf_counter() - start)
    rate = len(REQUESTS) / statistics.median(times)
    print(f"\nsampling, {device}, {torch.get_num_threads()} threads, {n_steps} steps: {rate:.0f} crystals/s")


def test_sampling_rate_of_the_symmetric_generator() -> None:
    """One crystal per composition, each another one, and five of each: what a chunk of a plan costs."""
    system = checkpoints.load("package:hullward-wyckoff").generator
    pairs = [(a, b) for a in (12, 20, 22, 26, 28, 30, 40, 48, 56, 73) for b in (5, 6, 7, 8, 14, 16, 17, 32, 33, 34)]
    counts = [(1, 1), (1, 2), (2, 3), (3, 4)]
    for each in (1, 5):
        times = []
        for round_number in range(4):
            a, b = counts[round_number]
            asked = [Request.for_atoms([x] * a + [y] * b) for x, y in pairs for _ in range(each)]
            start = time.perf_counter()
            system.sample(asked, torch.Generator().manual_seed(0))
            if round_number:  # the first reads tables of space groups
                times.append(time.perf_counter() - start)
        rate = len(asked) / statistics.median(times)
        print(f"\nsymmetric sampling, {torch.get_num_threads()} threads, {each} of each: {rate:.0f} crystals/s")


@pytest.mark.parametrize("device", devices())
def test_training_rate(device: str) -> None:
    system = checkpoints.load("package:hullward-flow", device).system.train()
    rng = torch.Generator(device=device).manual_seed(0)
    drawn: list[Crystal] = checkpoints.load("package:hullward-flow", device).system.sample(
        REQUESTS, torch.Generator().manual_seed(0), FlowSampler(n_steps=2)
    )
    batch = CrystalBatch.pack(drawn).to(device)
    times: dict[bool, list[float]] = {False: [], True: []}
    for round_number in range(4):
        for bf16 in times:  # side by side, so that the machine's mood weighs on both alike
            sync(device)
            start = time.perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = system.loss(batch, rng).total
            loss.backward()
            system.zero_grad()
            sync(device)
            if round_number:
                times[bf16].append(time.perf_counter() - start)
    for bf16, measured in times.items():
        rate = len(batch) / statistics.median(measured)
        name = "bf16" if bf16 else "float32"
        print(f"\nforward and backward, {device}, {torch.get_num_threads()} threads, {name}: {rate:.0f} crystals/s")
