"""The judge's hull and the final order: what it says of the best candidates beside the first opinion.

The hull is made of the judge's own energies, in the Materials Project's scheme where the judge learned energies without
its corrections (dft.hull.dialects): as its errors were measured (dft.potentials.calibration).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, crystals_of
from storage.checksums import check
from storage.tables import read_table
from tasks.discover.candidates import JUDGED, NEAR_HULL_EV_PER_ATOM, RANKED, RELAXED, Proposer, joined, plain, table_of
from tasks.discover.judge_choice import BOUND, PHASE, judged_as
from tasks.discover.phases import hull_energy
from tasks.discover.rank import MIN_ENERGY_DIGITS
from tasks.discover.relax import relax_chunks
from tasks.discover.run import RunFolder
from tasks.files import OF_A_RUN, ROWS_PER_GROUP, FileRef, key_of, keyed
from tasks.loading import PotentialIdentity

if TYPE_CHECKING:
    from dft.hull.convex_hull import CompetingHull
    from dft.potentials.calibration import Calibration
    from tasks.report.run.model import JudgedPhase


@dataclass(frozen=True)
class JudgedCrystal:
    """What one potential says of a chosen crystal.

    Attributes:
        row: columns RELAXED but the crystal.
        crystal: as that potential left it; None if it gives none.
        energy_ev_per_atom: for the hull: corrected where needed, plus PV; None without one.
        reason: why there is none, one sentence; or empty.
    """

    row: Mapping[str, Any]
    crystal: Crystal | None
    energy_ev_per_atom: float | None
    reason: str


def judged_crystals(relaxed: pa.Table, identity: PotentialIdentity, pressure_gpa: float) -> dict[str, JudgedCrystal]:
    """What one potential says of the chosen crystals, by id; `relaxed` has the columns RELAXED."""
    from dft.hull.dialects import corrected_energy
    from dft.results import EnergyScheme

    found, scheme = {}, EnergyScheme(identity.scheme)
    for row, crystal in zip(plain(relaxed).to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True):
        energy, reason = None, row["relax_reason"]
        if crystal is not None and (before := hull_energy(row, crystal, pressure_gpa)) is not None:
            corrected = corrected_energy(crystal.to_structure(), before, scheme)
            energy, reason = corrected.energy_ev_per_atom, corrected.refusal
        found[row["id"]] = JudgedCrystal(row, crystal, energy, reason)
    return found


def judged_hull(
    chosen: Sequence[Mapping[str, Any]], judged: Mapping[str, JudgedCrystal], method: str, elements: Sequence[str]
) -> CompetingHull:
    """The hull of the competing phases by one potential's own energies.

    Args:
        chosen: rows of columns CHOSEN.
        judged: by id.
        method: the potential.
        elements: of the chemical system.
    """
    from pymatgen.core.composition import Composition

    from dft.hull.convex_hull import CompetingHull, Phase

    phases = [
        Phase(row["id"], Composition(row["formula"]), one.energy_ev_per_atom, method, one.reason)
        for row in chosen
        if row["role"] == PHASE and (one := judged.get(row["id"])) is not None
    ]
    return CompetingHull(phases, elements)


def judged_phases(config: DiscoverConfig, folder: Path, judge: PotentialIdentity) -> dict[str, JudgedPhase]:
    """Where the judge puts the competing phases that it was asked for, by id, from the files of a finished run."""
    from tasks.report.run.model import JudgedPhase

    chosen_file = folder / "judge" / "chosen.parquet"
    if not chosen_file.is_file():
        return {}
    chosen = FileRef.inspected(chosen_file, check(chosen_file, OF_A_RUN))
    chunks = relax_chunks(chosen, config.relaxed_by(config.judge.potential))
    files = [RunFolder(folder).chunk("judge/0", chunk) for chunk in chunks]
    relaxed = joined([read_table(file, OF_A_RUN) for file in files if file.is_file()], RELAXED)
    judged = judged_crystals(relaxed, judge, config.relax.pressure_gpa)
    hull = judged_hull(plain(chosen.read()).to_pylist(), judged, judge.method, config.elements)
    return {
        phase.id: JudgedPhase(
            hull.place(phase.composition, phase.energy_ev_per_atom, phase.method).formation_energy_ev_per_atom,
            max(0.0, height),
        )
        for phase in hull.phases
        if (height := hull.phases_above_hull()[phase.id]) is not None
    }


class _Bench:
    """The judge and the committee with their hulls, and what is known of the errors."""

    def __init__(
        self,
        config: DiscoverConfig,
        first: PotentialIdentity,
        judges: Sequence[PotentialIdentity],
        chosen: pa.Table,
        relaxed: Sequence[pa.Table],
    ) -> None:
        from dft.potentials.calibration import calibration_of
        from generative.screening.matching import Tolerances

        self.chosen = plain(chosen).to_pylist()
        self.crystal_of = dict(zip(chosen.column("id").to_pylist(), crystals_of(chosen), strict=True))
        self.tolerances = Tolerances.from_config(config.screen)
        self.methods = [identity.method for identity in judges]
        pressure = config.relax.pressure_gpa
        self.judged = [judged_crystals(t, i, pressure) for t, i in zip(relaxed, judges, strict=True)]
        self.hulls = [
            judged_hull(self.chosen, judged, method, config.elements)
            for judged, method in zip(self.judged, self.methods, strict=True)
        ]
        # Errors were measured at no pressure.
        calibrations = [None if pressure else calibration_of(one.fingerprint) for one in (first, judges[0])]
        self.first_errors, self.judge_errors = calibrations

    def judgement(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns JUDGED of one of the best candidates."""
        if row["e_above_hull_ev_per_atom"] is None:
            return {"judge_note": "it has no place on the first hull, so it was not judged"}
        heights = [self._placed(row, judge) for judge in range(len(self.hulls))]
        judgement = heights[0]
        height = judgement["judge_e_above_hull_ev_per_atom"]
        if height is None:
            return judgement
        change = height - row["e_above_hull_ev_per_atom"]
        all_heights = [h for one in heights if (h := one["judge_e_above_hull_ev_per_atom"]) is not None]
        return judgement | {
            "opinion_change_ev_per_atom": change,
            "opinions_agree": _agree(change, self.first_errors, self.judge_errors),
            "committee_spread_ev_per_atom": statistics.pstdev(all_heights) if len(all_heights) > 1 else None,
            **_probability(height, self.judge_errors),
        }

    def _placed(self, row: Mapping[str, Any], judge: int) -> dict[str, Any]:
        """What the judge of this number says of a candidate."""
        from pymatgen.core.composition import Composition

        one = self.judged[judge].get(judged_as(dict(row)))
        assert one is not None  # all of the best that have a place are chosen, and none of them is left out
        done = {
            "judge_method": self.methods[judge],
            "judge_energy_ev_per_atom": one.row["energy_ev_per_atom"],
            "judge_relax_status": one.row["relax_status"],
            "judge_relax_steps": one.row["relax_steps"],
            "judge_e_above_hull_ev_per_atom": None,
        }
        if one.crystal is None or one.energy_ev_per_atom is None:
            return done | {"judge_note": f"no judgement: {one.reason}"}
        is_phase = row["proposed_by"] == Proposer.PROTOTYPE
        hull = self.hulls[judge].without(row["prototype_match"]) if is_phase else self.hulls[judge]
        position = hull.place(Composition(row["formula"]), one.energy_ev_per_atom, self.methods[judge])
        is_same = self._is_same(judged_as(dict(row)), one.crystal)
        return done | {
            "judge_formation_energy_ev_per_atom": position.formation_energy_ev_per_atom,
            "judge_e_above_hull_ev_per_atom": position.e_above_hull_ev_per_atom,
            "judge_decomposition": position.decomposition or None,
            "judge_hull_note": "; ".join(filter(None, (position.note, self._left_out(row)))) or None,
            "same_crystal": is_same,
            "judge_note": None if is_same else f"it became another crystal with the judge ({self.tolerances})",
        }

    def _is_same(self, name: str, after: Crystal) -> bool:
        from generative.screening.matching import group

        before = self.crystal_of[name]
        assert before is not None
        return len(set(group([before, after], self.tolerances).first_members)) == 1

    def _left_out(self, row: Mapping[str, Any]) -> str:
        """A sentence on the competing phases of a candidate's elements that were not judged; empty if none."""
        from pymatgen.core.composition import Composition

        def elements(formula: str) -> set[str]:
            return {element.symbol for element in Composition(formula)}

        own = elements(row["formula"])
        n = sum(one["rejected_by"] == BOUND and elements(one["formula"]) <= own for one in self.chosen)
        return f"{n} competing phase(s) near the first hull were not judged ({BOUND})" if n else ""


def _agree(change: float, first: Calibration | None, judge: Calibration | None) -> bool | None:
    """Whether two opinions differ by no more than their errors together; None where one error is not known."""
    if first is None or judge is None:
        return None
    return bool(abs(change) <= (first.mae_ev_per_atom**2 + judge.mae_ev_per_atom**2) ** 0.5)


def _probability(height_ev_per_atom: float, judge: Calibration | None) -> dict[str, Any]:
    if judge is None:
        return {}
    return {
        "near_hull_probability": judge.probability(height_ev_per_atom, NEAR_HULL_EV_PER_ATOM),
        "probability_source": f"{judge.method} against DFT, {judge.n} crystals: {judge.data}",
    }


def second_opinion_table(ranked: pa.Table, bench: _Bench, n_best: int) -> pa.Table:
    """The candidates in their final order: judged ones by the judge, the others behind them as they were.

    Args:
        ranked: columns RANKED, ranked ones first.
        bench: what the judges say.
        n_best: so many were to be judged.

    Returns: Columns RANKED and JUDGED.
    """
    names = ["rank", "id", "formula", "proposed_by", "prototype_match", "e_above_hull_ev_per_atom"]
    rows = ranked.select(names).to_pylist()
    judgements = [
        {"first_rank": row["rank"], **(bench.judgement(row) if (row["rank"] or n_best + 1) <= n_best else {})}
        for row in rows
    ]

    def order(place: int) -> tuple[bool, bool, float, int]:
        height = judgements[place].get("judge_e_above_hull_ev_per_atom")
        is_ranked = rows[place]["rank"] is not None
        return not is_ranked, height is None, 0.0 if height is None else round(height, MIN_ENERGY_DIGITS), place

    places = sorted(range(len(rows)), key=order)
    table = ranked.take(pa.array(places, type=pa.int64()))
    ranks = [None if rows[place]["rank"] is None else new for new, place in enumerate(places, start=1)]
    table = table.set_column(0, table.schema.field("rank"), pa.array(ranks, type=table.schema.field("rank").type))
    added = table_of([judgements[place] for place in places], JUDGED)
    fields = [*RANKED, *JUDGED]
    return pa.table([*table.select([f.name for f in RANKED]).columns, *added.columns], schema=pa.schema(fields))


def second_opinion_file(
    config: DiscoverConfig,
    folder: Path,
    opinions: Sequence[PotentialIdentity],
    ranked: FileRef,
    chosen: FileRef,
    judged: Sequence[FileRef],
) -> FileRef:
    """The ranked candidates with the judge's opinion: second-opinion.parquet; see second_opinion_table.

    Args:
        config: of the run.
        folder: of the run.
        opinions: the potential that relaxed all, the judge, the committee.
        ranked: the candidates by the first.
        chosen: the crystals that were judged.
        judged: their chunks, all of the judge, then those of the committee.
    """
    from dft.potentials.calibration import calibration_of

    first, *judges = opinions
    n_chunks = len(judged) // len(judges)
    key = key_of(
        "second opinion",
        second_opinion_file,
        ranked=ranked.sha256,
        chosen=chosen.sha256,
        judged=[ref.sha256 for ref in judged],
        judges=[[one.fingerprint, one.scheme] for one in judges],
        calibrations=[repr(calibration_of(one.fingerprint)) for one in opinions],
        screen=config.screen.model_dump(mode="json"),
        elements=sorted(config.elements),
        pressure_gpa=config.relax.pressure_gpa,
        n_best=config.judge.n_best,
    )

    def compute() -> pa.Table:
        parts = (judged[i * n_chunks : (i + 1) * n_chunks] for i in range(len(judges)))
        relaxed = [joined([ref.read() for ref in part], RELAXED) for part in parts]
        bench = _Bench(config, first, judges, chosen.read(), relaxed)
        return second_opinion_table(ranked.read(), bench, config.judge.n_best)

    return keyed(RunFolder(folder).second_opinion, key, compute, ROWS_PER_GROUP)


@task(name="second opinion")
def second_opinion_task(
    config: DiscoverConfig,
    folder: Path,
    opinions: list[PotentialIdentity],
    ranked: FileRef,
    chosen: FileRef,
    judged: list[FileRef],
) -> FileRef:
    """Rank the candidates by what the judge says; see second_opinion_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"opinion-{config.name}", "placing the best on the judge's hull"):
        ref = second_opinion_file(config, folder, opinions, ranked, chosen, judged)
    rows = [row for row in ref.read().select([f.name for f in JUDGED]).to_pylist() if row["judge_method"]]
    placed = [row for row in rows if row["judge_e_above_hull_ev_per_atom"] is not None]
    state = "; unchanged, skipped" if ref.reused else ""
    apart = sum(row["opinions_agree"] is False for row in placed)
    get_run_logger().info("%d of %d judged, opinions differ on %d%s", len(placed), len(rows), apart, state)
    return ref
