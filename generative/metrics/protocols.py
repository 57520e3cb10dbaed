"""Which evaluations a protocol's name stands for, and the samples that all of them measure.

    cdvae            reconstruction.evaluate, reconstruction_parts.of_parts, reconstruction_sets.metre,
                     generation.generation
    airi             reconstruction_sets.airi_accuracy
    adaptive-cell    adaptive_cell.adaptive_cell
    condition-cdvae  reconstruction, generation, novelty.condition_cdvae_novelty, ground_state.ground_state
    sun              novelty.uniqueness, novelty.novelty, sun.sun
    all              every one of them, once

Importing this module loads none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from generative.crystal.crystals import Crystal


@dataclass(frozen=True)
class SampleSet:
    """What is measured: one row per sample that was asked for, whether or not a crystal came out.

    Attributes:
        crystals: in order; None where a row is no crystal.
        ids: unique, one per row.
        reasons: one sentence per row (by index) that is no crystal.
        name: what they are, such as the file they were read from.
    """

    crystals: tuple[Crystal | None, ...]
    ids: tuple[str, ...]
    reasons: Mapping[int, str]
    name: str

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.crystals) or len(set(self.ids)) != len(self.ids):
            raise ValueError(
                f"{len(self.ids)} ids, {len(set(self.ids))} of them distinct, beside {len(self.crystals)} rows: "
                "expected one id per row, none given twice"
            )
        empty = {index for index, crystal in enumerate(self.crystals) if crystal is None}
        if empty != set(self.reasons):
            odd = sorted(empty ^ set(self.reasons))[:5]
            raise ValueError(f"rows {odd} have a reason and a crystal, or neither: expected one of the two in each row")

    @classmethod
    def of(
        cls,
        crystals: Sequence[Crystal | None],
        name: str,
        ids: Sequence[str] | None = None,
        reasons: Mapping[int, str] | None = None,
    ) -> SampleSet:
        """Samples with their row numbers as ids, and a general reason where none is given."""
        given = reasons or {}
        absent = {i: given.get(i, "the sample holds no crystal") for i, c in enumerate(crystals) if c is None}
        return cls(tuple(crystals), tuple(ids or map(str, range(len(crystals)))), absent, name)

    def __len__(self) -> int:
        return len(self.crystals)

    @property
    def n_crystals(self) -> int:
        """Rows that are crystals."""
        return len(self.crystals) - len(self.reasons)


EVALUATIONS = (
    "cdvae reconstruction",
    "reconstruction by part",
    "metre",
    "airi accuracy",
    "cdvae generation",
    "adaptive-cell",
    "condition-cdvae novelty",
    "uniqueness",
    "novelty",
    "sun",
    "ground state",
)
"""Every evaluation by its name, as in Evaluation.protocol, in the order in which a report shows them."""


@dataclass(frozen=True)
class Protocol:
    """A set of evaluations that one field or paper reports together.

    Attributes:
        name: as settings name it.
        about: one sentence: what it measures.
        source: of its definitions.
        evaluations: some of EVALUATIONS.
    """

    name: str
    about: str
    source: str
    evaluations: tuple[str, ...]


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "cdvae",
            "Match rate of predicted crystals one to one and against all, and validity, coverage and property "
            "distances of generated ones.",
            "CDVAE, arXiv:2110.06197; METRe and cRMSE, arXiv:2509.12178",
            ("cdvae reconstruction", "reconstruction by part", "metre", "cdvae generation"),
        ),
        Protocol(
            "airi",
            "Share of targets that the structure matcher accepts at its default tolerances and at two and five times "
            "these.",
            "Unleashing the power of novel conditional generative approaches for new materials discovery (AIRI)",
            ("airi accuracy",),
        ),
        Protocol(
            "adaptive-cell",
            "Coverage and Frechet distances of structurally valid crystals from the test set.",
            "Data-Driven Score-Based Models ... with Adaptive Crystal Cells, arXiv:2310.10695",
            ("adaptive-cell",),
        ),
        Protocol(
            "condition-cdvae",
            "Reconstruction and generation as in CDVAE, novelty by displacement, and what relaxation changes.",
            "ConditionCDVAE+, Sci. Rep. 2025, doi:10.1038/s41598-025-06432-9; DP-CDVAE, Sci. Rep. 14, 1275 (2024)",
            ("cdvae reconstruction", "cdvae generation", "condition-cdvae novelty", "ground state"),
        ),
        Protocol(
            "sun",
            "Shares of samples that are stable, unique and novel, and of every product of the three.",
            "MatterGen, arXiv:2312.03687; LeMat-GenBench",
            ("uniqueness", "novelty", "sun"),
        ),
        Protocol("all", "Every evaluation there is.", "those of its parts", EVALUATIONS),
    )
}
"""Every protocol by the name that settings use."""


def evaluations_of(protocols: Iterable[str]) -> tuple[str, ...]:
    """The evaluations these protocols stand for, each once, in the order of EVALUATIONS.

    Raises: ValueError: if a protocol is not known.
    """
    asked = tuple(protocols)
    unknown = [name for name in asked if name not in PROTOCOLS]
    if unknown:
        raise ValueError(f"there is no protocol {unknown[0]!r}: expected one of {list(PROTOCOLS)}")
    wanted = {evaluation for name in asked for evaluation in PROTOCOLS[name].evaluations}
    return tuple(name for name in EVALUATIONS if name in wanted)
