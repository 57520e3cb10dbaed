"""How fast work goes, as measured on one machine: what plans tell times by. The figures are in rates.json beside this.

They are medians of the benchmarks of docs/benchmarks.md and of the stages of whole runs; another machine is slower or
faster, all stages alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from configs.schema import ExecutionConfig
from dft.config import RelaxConfig
from dft.potentials.registry import registered, without_dispersion
from tasks.discover.sample import RunGenerator

FILE = Path(__file__).with_name("rates.json")


class Rates(BaseModel):
    """Measured rates.

    Attributes:
        machine: where they were measured.
        measured: when.
        evaluation_ms_per_atom: of energy, forces and stress in a batch, by potential.
        relaxation_overhead: time of a relaxation over that of its evaluations.
        kept_symmetry_factor: time of a relaxation in the space group, release included, over that of a free one.
        steps: mean steps to 0.05 eV/A of generated candidates ('candidate') and of known or decorated ones ('phase').
        atoms_of_a_phase: mean atoms of a competing phase.
        crystal_s: of drawing a crystal, by kind of generator; of one that integrates, per step.
        training_crystals_per_s: of a training step, by kind, or by kind and size, such as 'cdvae/cpu'.
        passes: part of the candidates that screening lets pass.
        s: seconds of what is done once ('start', 'potential', 'report', 'kernels') or per piece.
        memory_mb: of a process ('base'), and per candidate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    measured: str
    evaluation_ms_per_atom: dict[str, float]
    relaxation_overhead: float
    kept_symmetry_factor: float
    steps: dict[str, float]
    atoms_of_a_phase: float
    crystal_s: dict[str, float]
    training_crystals_per_s: dict[str, float]
    passes: float
    s: dict[str, float]
    memory_mb: dict[str, float]

    @property
    def told(self) -> str:
        """Where they are from, in a few words."""
        return f"by rates of {self.machine}, measured {self.measured}"

    def relaxation_s(self, potential: str, relax: RelaxConfig, atoms: Iterable[float], kind: str) -> float | None:
        """Of relaxing crystals, s; None where the potential has not been measured.

        Args:
            potential: its name.
            relax: how.
            atoms: of each crystal.
            kind: of `steps`.
        """
        per_atom_ms = self.evaluation_ms_per_atom.get(registered(without_dispersion(potential) or potential) or "")
        if per_atom_ms is None:
            return None
        steps = min(self.steps[kind], relax.max_steps) + 1
        factor = self.relaxation_overhead * (self.kept_symmetry_factor if relax.symmetry == "kept" else 1.0)
        return sum(atoms) * steps * factor * per_atom_ms / 1e3

    def drawing_s(self, generator: RunGenerator, n: int) -> float | None:
        """Of drawing n crystals, s; None where the kind of generator has not been measured."""
        per_crystal_s = self.crystal_s.get(generator.kind.name)
        steps = generator.sampler.model_dump().get("n_steps", 1)
        return None if per_crystal_s is None else n * per_crystal_s * steps

    def training_s(self, kind: str, size: str, n_crystals: int) -> float | None:
        """Of showing so many crystals to a system once each, s; None where it has not been measured."""
        per_s = self.training_crystals_per_s
        rate = per_s.get(f"{kind}/{size}", per_s.get(kind))
        return None if rate is None else n_crystals / rate

    def seconds_of(self, what: str, n: float = 1) -> float:
        """Of n pieces of work of `s`."""
        return n * self.s[what]


@lru_cache(maxsize=1)
def rates() -> Rates:
    """The rates that are shipped."""
    return Rates.model_validate(json.loads(FILE.read_text(encoding="utf-8")))


def added(*parts: float | None) -> float | None:
    """The sum, where every part is known."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def at_once(seconds: float | None, execution: ExecutionConfig, n_parts: int) -> float | None:
    """The time of work in parts, where several are computed at once on processors that share nothing else."""
    return None if seconds is None else seconds / max(1, min(execution.max_workers, n_parts))
