"""Rates of the CDVAE family, at the published and the processor's size, beside plainer ways to do the same.

Printed, never asserted. Times are medians over rounds after a warm-up, on HULLWARD_BENCH_THREADS threads (default 1).
Each is given by the clock and, on a processor, as time that the processor spent, which other work on the machine
disturbs less; ratios and shares are of the latter, within one run. Crystals are real ones, in batches of
HULLWARD_BENCH_CRYSTALS (default 32 on a processor, 256 on a GPU).

The authors' implementations need a network call for each of CDVAE's 5000 Langevin steps and DP-CDVAE's 999 reverse
steps of a batch. So do ours by default: crystals/s = batch / (calls * time per call).
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from torch import Tensor

from configs.paths import AssetError, resolve
from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.crystals import Crystal, reduced
from generative.networks.gemnet import GemNetConfig, GemNetOutput, GemNetT
from generative.networks.periodic_graph import Edges, NeighbourSearch, entries_per_atom
from generative.processes import annealed_langevin, coordinate_ddpm
from generative.processes.annealed_langevin import Point
from generative.systems.cdvae.config import SIZES
from generative.systems.cdvae.decoding import Cells
from generative.systems.cdvae.family import DPCDVAE
from generative.systems.cdvae.networks import Denoiser, Encoder
from generative.systems.cdvae.system import CDVAE
from generative.training.muon import Muon
from tests.benchmarks.plain_gemnet import listed_triplets, neighbours_by_loop
from tests.cifs import parse_cif

pytestmark = pytest.mark.benchmark

THREADS = int(os.environ.get("HULLWARD_BENCH_THREADS", "1"))
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SETS = {"perov-5": ("perov_5_val", 5, 5), "mp-20": ("mp_20_biternary_val", 8, 12)}
"""File, and fewest and most atoms of the cells taken from it."""

PUBLISHED_CALLS = {CDVAE: 5000, DPCDVAE: 999}


class Spent(NamedTuple):
    """Seconds by the clock, and of the processor over all threads; on a GPU the clock's twice."""

    clock: float
    busy: float

    def __str__(self) -> str:
        return f"{1e3 * self.clock:.0f} ms ({1e3 * self.busy:.0f} busy)"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@lru_cache
def crystals(name: str, n: int) -> tuple[Crystal, ...]:
    """The first n of a set, in reduced cells; no disorder, so that sizes are those of the file."""
    file, fewest, most = SETS[name]
    try:
        path = resolve(f"assets:data/{file}.csv.gz")
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    read = (parse_cif(text, 30) for text in pd.read_csv(path, usecols=["cif"], nrows=20 * n)["cif"])
    return tuple(itertools.islice((reduced(c) for c in read if fewest <= len(c.atomic_numbers) <= most), n))


def batch_size(device: str) -> int:
    return int(os.environ.get("HULLWARD_BENCH_CRYSTALS", "32" if device == "cpu" else "256"))


def moment(device: str) -> Spent:
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter()
    return Spent(clock, time.process_time() if device == "cpu" else clock)


def timed(call: Callable[[], object], device: str, rounds: int = 3) -> Spent:
    """Median over rounds; the first call of all only warms up."""
    call()
    spent = []
    for _ in range(rounds):
        before = moment(device)
        call()
        after = moment(device)
        spent.append((after.clock - before.clock, after.busy - before.busy))
    return Spent(*(statistics.median(column) for column in zip(*spent, strict=True)))


def says(device: str, what: str) -> None:
    print(f"\n{device}, {THREADS} threads, {what}")


def made(kind: type[CDVAE], size: str, name: str, device: str) -> tuple[CDVAE, Any]:
    """An untrained system and a batch with bonds."""
    known = crystals(name, batch_size(device))
    torch.manual_seed(0)
    system = kind(kind.config_type.model_validate({"size": size}))
    system.fit_statistics(known, [None] * len(known))
    system = system.to(device)
    return system, system.pack(known, crystal_nn_bonds(known))


def of_each(test: Callable[..., None]) -> Callable[..., None]:
    for name, values in (("name", list(SETS)), ("size", ["paper", "cpu"]), ("kind", [CDVAE, DPCDVAE])):
        test = pytest.mark.parametrize(name, values, ids=lambda v: v if isinstance(v, str) else v.name)(test)
    marked: Callable[..., None] = pytest.mark.parametrize("device", DEVICES)(test)
    return marked


# --- training ---------------------------------------------------------------------------------------------------------


@of_each
def test_training_rate(device: str, kind: type[CDVAE], size: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = made(kind, size, name, device)
    optimiser = torch.optim.Adam(system.train().parameters(), lr=1e-6)
    rng = torch.Generator(device=device).manual_seed(0)

    def step(lap: Callable[[str], object] = lambda part: None) -> None:
        lap("")
        loss = system.loss(batch, rng, epoch=0).total
        lap("heads, noise, losses")
        loss.backward()
        lap("backward")
        optimiser.step()
        optimiser.zero_grad()
        lap("Adam")

    spent = timed(step, device)
    shares = laps(step, device, monkeypatch)
    whole = sum(shares.values())
    says(
        device,
        f"training step, {kind.name}, size {size}, {len(batch)} crystals of {name}, "
        f"{len(batch.frac) / len(batch):.1f} atoms: {len(batch) / spent.clock:.1f} crystals/s by the clock, "
        f"{len(batch) / spent.busy:.1f} by busy time\n  "
        + ", ".join(f"{part} {100 * seconds / whole:.0f} %" for part, seconds in shares.items()),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", ["paper", "cpu"])
def test_muon_beside_torch_s(device: str, size: str) -> None:
    """The step of our Muon against that of torch, on all matrices that CDVAE gives it."""
    system, _ = made(CDVAE, size, "perov-5", device)
    matrices = system.muon_parameters()
    for matrix in matrices:
        matrix.grad = torch.ones_like(matrix)
    ours, theirs = (timed(kind(matrices, lr=1e-6).step, device) for kind in (Muon, torch.optim.Muon))
    says(device, f"Muon, size {size}, {sum(m.numel() for m in matrices):,} weights in {len(matrices)} matrices:")
    print(f"  {ours}; torch.optim.Muon {theirs}: {theirs.busy / ours.busy:.1f} times")


def laps(step: Callable[[Callable[[str], object]], None], device: str, patch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds in the parts of a step: of a part within another, only the inner one's clock runs."""
    seconds: dict[str, float] = defaultdict(float)
    last = [moment(device).busy]

    def lap(part: str) -> None:
        now = moment(device).busy
        seconds[part] += now - last[0]
        last[0] = now

    def watched(function: Callable[..., Any], outer: str, part: str) -> Callable[..., Any]:
        def call(*args: Any, **settings: Any) -> Any:
            lap(outer)
            result = function(*args, **settings)
            lap(part)
            return result

        return call

    for owner, method, outer, part in (
        (NeighbourSearch, "__init__", "heads, noise, losses", "graph"),
        (NeighbourSearch, "__call__", "denoiser", "graph"),
        (Encoder, "forward", "heads, noise, losses", "encoder"),
        (Denoiser, "forward", "heads, noise, losses", "denoiser"),
    ):
        patch.setattr(owner, method, watched(getattr(owner, method), outer, part))
    step(lap)
    seconds.pop("")
    return dict(seconds)


# --- decoding ---------------------------------------------------------------------------------------------------------


@of_each
def test_decoding_rate(device: str, kind: type[CDVAE], size: str, name: str) -> None:
    system, batch = made(kind, size, name, device)
    system.eval()
    rng = torch.Generator(device=device).manual_seed(0)
    cells = Cells.of(batch.lattice_ang, batch.n_atoms, len(batch.frac))
    z = torch.randn(len(batch), system.latent_width, generator=rng, device=device)
    start = Point(torch.rand(batch.frac.shape, generator=rng, device=device), batch.atomic_numbers)
    n_calls = 4

    def named(frac: Tensor, types: Tensor, search: NeighbourSearch, times: Tensor | None) -> tuple[Tensor, Tensor]:
        vector, logits = system.denoiser(z, frac, types, cells.crystal, search, times)
        return vector, logits.argmax(-1) + 1

    @torch.no_grad()
    def decode() -> None:
        search = system.denoiser.neighbours(cells.lattice_ang, cells.n_atoms)
        if kind is CDVAE:
            annealed_langevin.langevin(
                lambda frac, types: named(frac, types, search, None),
                start, cells.lattice_ang, cells.crystal, system.levels_ang[:1], rng, steps_per_level=n_calls,
            )  # fmt: skip
            return
        coordinate_ddpm.denoise(
            lambda t, frac, types: named(frac, types, search, z.new_full((len(z),), t)),
            start, cells.crystal, len(z), system.schedule, rng, stride=math.ceil(999 / n_calls),
        )  # fmt: skip

    @torch.no_grad()
    def prepare() -> None:
        system.denoiser.neighbours(cells.lattice_ang, cells.n_atoms)

    whole, once = timed(decode, device), timed(prepare, device)
    per_call = Spent(*((a - b) / n_calls for a, b in zip(whole, once, strict=True)))
    calls = PUBLISHED_CALLS[kind]
    says(
        device,
        f"decoding, {kind.name}, size {size}, {len(batch)} crystals of {name}: {per_call} per network call with its "
        f"step; {calls} calls: {len(batch) / calls / per_call.clock:.3f} crystals/s by the clock, "
        f"{len(batch) / calls / per_call.busy:.3f} by busy time",
    )


# --- GemNet-T beside triplets that are listed -------------------------------------------------------------------------


class Noisy(NamedTuple):
    """Real cells with atoms anywhere, as decoding begins."""

    lattice_ang: Tensor
    n_atoms: Tensor
    frac: Tensor


def noisy(name: str, device: str) -> Noisy:
    known = crystals(name, batch_size(device))
    lattice = torch.stack([torch.as_tensor(c.lattice_ang, dtype=torch.float32) for c in known])
    n_atoms = torch.tensor([len(c.atomic_numbers) for c in known])
    frac = torch.rand(int(n_atoms.sum()), 3, generator=torch.Generator().manual_seed(0))
    return Noisy(lattice.to(device), n_atoms.to(device), frac.to(device))


def gemnet(size: str, width: int, name: str, device: str) -> tuple[GemNetT, Tensor, Edges]:
    torch.manual_seed(0)
    network = GemNetT(GemNetConfig(**SIZES[size].gemnet), width).to(device)  # type: ignore[index]
    cells = noisy(name, device)
    edges = network.config.search(cells.lattice_ang, cells.n_atoms)(cells.frac)
    return network, torch.randn(len(cells.frac), width, device=device), edges


def deviation(found: GemNetOutput, expected: GemNetOutput) -> float:
    parts = zip(found, expected, strict=True)
    return max(float((a.detach().float() - b.detach()).norm() / b.detach().norm()) for a, b in parts)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("size", "width"), [("paper", 128), ("paper", 548), ("cpu", 64)])
def test_gemnet_beside_listed_triplets(device: str, name: str, size: str, width: int) -> None:
    network, atoms, edges = gemnet(size, width, name, device)
    assert deviation(listed_triplets(network, atoms, edges), network(atoms, edges)) < 1e-3
    spent = {}
    for way, forward in (("plain", partial(listed_triplets, network)), ("ours", network)):

        def both(forward: Callable[[Tensor, Edges], GemNetOutput] = forward) -> None:
            out = forward(atoms, edges)
            (out.vector.square().sum() + out.atoms.square().sum()).backward()
            network.zero_grad()

        with torch.no_grad():
            spent[way, "forward"] = timed(lambda forward=forward: forward(atoms, edges), device)  # type: ignore[misc]
        spent[way, "forward and backward"] = timed(both, device)
    n_triplets = int((entries_per_atom(edges.target, len(atoms)).square()).sum()) - len(edges.source)
    says(device, f"GemNet-T, size {size}, atoms {width} wide, {name}: {len(edges.source)} edges, {n_triplets} triplets")
    for what in ("forward", "forward and backward"):
        plain, ours = spent["plain", what], spent["ours", what]
        print(f"  {what}: triplets listed {plain}, ours {ours}: {plain.busy / ours.busy:.1f} times as fast")


# --- neighbours beside a loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SETS)
def test_neighbours_beside_a_loop_over_crystals(device: str, name: str) -> None:
    cells, config = noisy(name, device), GemNetConfig()
    search = config.search(cells.lattice_ang, cells.n_atoms)
    anew = timed(lambda: config.search(cells.lattice_ang, cells.n_atoms)(cells.frac), device, rounds=9)
    again = timed(lambda: search(cells.frac), device, rounds=9)
    plain = timed(lambda: neighbours_by_loop(*cells, config.cutoff_ang, config.max_neighbours), device)
    says(
        device,
        f"neighbours, {len(cells.n_atoms)} crystals of {name}: {len(search(cells.frac).source)} edges "
        f"({neighbours_by_loop(*cells, config.cutoff_ang, config.max_neighbours)} by the loop); a loop over crystals "
        f"{plain}, all at once {anew}, with what cells alone decide kept {again}: {plain.busy / anew.busy:.1f} and "
        f"{plain.busy / again.busy:.1f} times as fast",
    )


# --- other arithmetic -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("size", "width"), [("paper", 128), ("cpu", 64)])
def test_mixed_precision_of_gemnet(device: str, size: str, width: int) -> None:
    network, atoms, edges = gemnet(size, width, "perov-5", device)
    spent, outputs = {}, {}
    for name in ("float32", "bf16"):

        def both(forward_only: bool, bf16: bool = name == "bf16") -> GemNetOutput:
            context = torch.no_grad() if forward_only else nullcontext()
            with context, torch.autocast(device, torch.bfloat16, enabled=bf16):
                out = network(atoms, edges)
            if not forward_only:
                (out.vector.square().sum() + out.atoms.square().sum()).backward()
                network.zero_grad()
            return out

        outputs[name] = both(True)
        spent[name] = timed(partial(both, True), device), timed(partial(both, False), device)
    ratios = [f"{a.busy / b.busy:.2f}" for a, b in zip(spent["float32"], spent["bf16"], strict=True)]
    says(
        device,
        f"GemNet-T in bf16, size {size}: {ratios[0]} times as fast forward, {ratios[1]} forward and backward; the "
        f"output deviates by {deviation(outputs['bf16'], outputs['float32']):.1e}",
    )


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_gemnet(device: str, caplog: pytest.LogCaptureFixture) -> None:
    """Compiled for any number of edges, which is another at every call."""
    caplog.set_level(logging.ERROR, "torch._dynamo")
    torch.manual_seed(0)
    network = GemNetT(GemNetConfig(**SIZES["cpu"].gemnet), 64).to(device)
    cells = noisy("perov-5", device)
    search = network.config.search(cells.lattice_ang, cells.n_atoms)
    graphs = [search(torch.rand_like(cells.frac)) for _ in range(6)]
    atoms = torch.randn(len(cells.frac), 64, device=device)

    def each(forward: Callable[[Tensor, Edges], GemNetOutput]) -> None:
        for edges in graphs:
            forward(atoms, edges)

    compiled = torch.compile(network, dynamic=True)
    with torch.no_grad():
        before = moment(device)
        try:
            each(compiled)
        except Exception as error:  # noqa: BLE001  # whatever a missing compiler makes of it
            says(device, f"torch.compile does not work here: {type(error).__name__}: {str(error).splitlines()[0]}")
            return
        compiling = moment(device).clock - before.clock
        plain, ours = timed(partial(each, network), device), timed(partial(each, compiled), device)
        off = max(deviation(compiled(atoms, edges), network(atoms, edges)) for edges in graphs)
    says(
        device,
        f"GemNet-T by torch.compile, size cpu, forward: compiled in {compiling:.0f} s, then "
        f"{plain.busy / ours.busy:.2f} times as fast; the output deviates by {off:.1e}",
    )
