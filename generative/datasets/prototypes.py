"""Known crystals without any database: AFLOW prototypes decorated with the elements of a chemical system.

pymatgen ships the prototypes of the AFLOW library (Mehl et al., Comput. Mater. Sci. 136, S1 (2017)). Every prototype
with as many elements as a subset of the system is decorated in every distinct way, given a sensible volume, and then
relaxed and scored by a potential that the caller passes in. The energies are the potential's own, so its rows share a
hull with nothing but crystals of the same potential.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from itertools import combinations, permutations
from typing import Any, Protocol

from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, checked, primitive
from generative.datasets.config import PrototypesSource
from generative.datasets.origins import Origin
from generative.datasets.quarantine import rejected_of
from generative.datasets.records import Row, row_of, table_of
from generative.datasets.sources import SourceBatch, SourceError, Surroundings
from storage.progress import SourceProgress

SCORING_BATCH = 64
"""Structures handed to the scorer at once: wide enough for a batched potential, narrow enough to report progress."""

# Where pymatgen keeps the library, in newer releases and in older ones. It is read as plain JSON, because importing
# pymatgen's own module parses every bibliography in it, which takes seconds.
_LIBRARY_FILES = ("prototypes/aflow_prototypes.json.gz", "aflow_prototypes.json.gz")

_ANG3_PER_CM3_PER_MOL = 1.0 / 0.602214076
_VOLUME_RATIO_RANGE = (0.4, 2.0)


@dataclass(frozen=True)
class ScoredCrystal:
    """What a scorer made of one structure.

    Attributes:
        structure: relaxed crystal; None if the relaxation failed.
        energy_ev_per_atom: its energy; None if there is none.
        reason: one sentence if either is None, else empty.
    """

    structure: Structure | None
    energy_ev_per_atom: float | None
    reason: str = ""


class Scorer(Protocol):
    """Relaxes crystals and gives their energies: a potential, as the source 'prototypes' sees it.

    Attributes:
        name: level of theory, such as 'M3GNet-MP-2021.2.8-PES'; column `method` of the rows.
        fingerprint: of all that decides its results; the same for the same crystals where it is the same.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def __call__(self, structures: list[Structure]) -> list[ScoredCrystal]:
        """One result per structure, in order."""
        ...


@dataclass(frozen=True)
class Decoration:
    """A prototype with the system's elements on its sites.

    Attributes:
        name: prototype and assignment, such as 'AB_cF8_225_a_b[Cl=N,Na=Ti]' (rock salt as TiN).
        structure: primitive cell at the estimated volume.
    """

    name: str
    structure: Structure


@dataclass(frozen=True)
class _Prototype:
    label: str
    structure: Structure
    species: tuple[str, ...]


@lru_cache(maxsize=1)
def _library() -> tuple[tuple[dict[str, Any], ...], str]:
    """The entries of pymatgen's AFLOW library, and the SHA-256 of its file."""
    for name in _LIBRARY_FILES:
        file = files("pymatgen.analysis").joinpath(name)
        if file.is_file():
            content = file.read_bytes()
            return tuple(json.loads(gzip.decompress(content))), hashlib.sha256(content).hexdigest()
    raise SourceError(
        f"pymatgen {version('pymatgen')} holds none of {list(_LIBRARY_FILES)} under pymatgen/analysis: expected its "
        "AFLOW prototype library, so install a release that has it"
    )


@lru_cache(maxsize=1)
def _prototypes() -> tuple[_Prototype, ...]:
    """Ordered AFLOW prototypes in their primitive cells, by size, then label; a label used twice gets '#2'."""
    found: list[tuple[str, Structure]] = []
    seen: dict[str, int] = defaultdict(int)
    for entry in _library()[0]:
        structure = Structure.from_dict(entry["snl"])
        label = str(entry["tags"]["aflow"])
        seen[label] += 1
        if seen[label] > 1:
            label = f"{label}#{seen[label]}"
        try:
            found.append((label, primitive(checked(Crystal.from_structure(structure))).to_structure()))
        except ValueError:  # disordered: no way to decorate a site that holds several species
            continue
    found.sort(key=lambda item: (len(item[1]), item[0]))
    return tuple(
        _Prototype(label, structure, tuple(sorted(el.symbol for el in structure.composition.elements)))
        for label, structure in found
    )


def decorate(elements: Sequence[str], config: PrototypesSource) -> list[Decoration]:
    """Decorated prototypes of a chemical system and every system below it.

    Per reduced formula the smallest cells come first (then the prototype's label, then the assignment), equal crystals
    by StructureMatcher are dropped, and at most `per_formula_max` are kept. Of an element all are kept: they are the
    references of every formation energy, and the stable one may be large (molecular N2 has 8 atoms, fcc N only one).

    Args:
        elements: the chemical system.
        config: limits on elements, atoms and crystals per formula.

    Returns:
        Decorations, by reduced formula, then size.
    """
    by_formula: dict[str, list[tuple[str, Structure]]] = defaultdict(list)
    for prototype in _prototypes():
        n_species = len(prototype.species)
        if n_species > config.n_elements_max or len(prototype.structure) > config.n_atoms_max:
            continue
        for subset in combinations(sorted(set(elements)), n_species):
            for assignment in permutations(subset):
                mapping = dict(zip(prototype.species, assignment, strict=True))
                structure = _replaced(prototype.structure, mapping)
                pairs = ",".join(f"{old}={new}" for old, new in mapping.items())
                formula = str(structure.composition.reduced_formula)
                by_formula[formula].append((f"{prototype.label}[{pairs}]", structure))
    matcher = StructureMatcher(primitive_cell=False, attempt_supercell=False, scale=True)
    kept = []
    for formula in sorted(by_formula):
        chosen: list[Decoration] = []
        ordered = sorted(by_formula[formula], key=lambda item: (len(item[1]), item[0]))
        limit = len(ordered) if len(ordered[0][1].composition) == 1 else config.per_formula_max
        for name, structure in ordered:
            if len(chosen) == limit:
                break
            if not any(len(d.structure) == len(structure) and matcher.fit(d.structure, structure) for d in chosen):
                chosen.append(Decoration(name, rescaled(structure)))
        kept.extend(chosen)
    return kept


def _replaced(structure: Structure, mapping: dict[str, str]) -> Structure:
    return Structure(structure.lattice, [mapping[site.specie.symbol] for site in structure], structure.frac_coords)


@lru_cache(maxsize=256)
def elemental_volume_ang3(symbol: str) -> float:
    """Volume per atom of the element's condensed phase, A^3, from its molar volume.

    Elements whose molar volume pymatgen does not know get the volume of a close packing of their atomic radius, and
    20 A^3 if that is unknown too.
    """
    element = Element(symbol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        molar_volume_cm3, radius_ang = element.molar_volume, element.atomic_radius
    if molar_volume_cm3 and math.isfinite(molar_volume_cm3) and molar_volume_cm3 < 100:
        return float(molar_volume_cm3) * _ANG3_PER_CM3_PER_MOL
    return 4 * math.sqrt(2) * float(radius_ang) ** 3 if radius_ang else 20.0


def rescaled(structure: Structure) -> Structure:
    """The structure at an estimated volume, shape and fractional coordinates unchanged.

    The estimate is DLSVolumePredictor's, from bond lengths of known crystals (on 150 crystals of the Materials Project
    its ratio to the true volume had a median of 0.98 and lay between 0.84 and 1.19 for nine in ten). It starts from
    the sum of the elements' volumes, and gives way to it where it cannot predict or leaves the range 0.4 to 2 of it,
    so that no cell collapses or explodes before the potential sees it.
    """
    additive_ang3 = sum(elemental_volume_ang3(site.specie.symbol) for site in structure)
    start = structure.copy()
    start.scale_lattice(additive_ang3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            predicted_ang3 = float(DLSVolumePredictor().predict(start))  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, RuntimeError):
            return start
    low, high = _VOLUME_RATIO_RANGE
    if not low <= predicted_ang3 / additive_ang3 <= high:
        return start
    start.scale_lattice(predicted_ang3)
    return start


def open_prototypes(config: PrototypesSource, around: Surroundings) -> Prototypes:
    """See generative.datasets.sources.Opener. Raises: SourceError: if nothing scores its crystals."""
    if around.scorer is None:
        raise SourceError(
            "the source 'prototypes' needs a potential to relax and score its crystals, but none was given: name one, "
            "or use files only"
        )
    return Prototypes(config, around.scorer, progress=around.progress)


class Prototypes:
    """The source 'prototypes': decorated, relaxed and scored crystals of a chemical system, hull included."""

    kind = "prototypes"

    def __init__(
        self,
        config: PrototypesSource,
        scorer: Scorer,
        name: str = "prototypes",
        progress: SourceProgress | None = None,
    ) -> None:
        """Nothing is decorated yet; `progress` is told how many have been scored."""
        self._progress = progress
        self._config = config
        self._scorer = scorer
        self.name = name
        self.query = (
            f"AFLOW prototypes, at most {config.n_elements_max} elements and {config.n_atoms_max} atoms, "
            f"{config.per_formula_max} per formula"
        )
        self.method = scorer.name

    def database_version(self) -> str | None:
        """Size and digest of the prototype library, which comes with pymatgen."""
        entries, sha256 = _library()
        return f"AFLOW library in pymatgen {version('pymatgen')}: {len(entries)} prototypes, sha256:{sha256}"

    def batches(self, elements: tuple[str, ...] | None) -> Iterator[SourceBatch]:
        """See Source.batches. Rows come at the end, together, because their hull needs all of them.

        Raises:
            SourceError: if no chemical system is given.
        """
        if elements is None:
            raise SourceError("the source 'prototypes' needs a chemical system: name elements, such as Ta, W, B")
        self.query += f", elements {'-'.join(sorted(elements))}"
        rows: list[Row] = []
        decorations = decorate(elements, self._config)
        for start in range(0, len(decorations), SCORING_BATCH):
            part = decorations[start : start + SCORING_BATCH]
            results = self._scorer([decoration.structure for decoration in part])
            if len(results) != len(part):
                raise ValueError(f"scorer {self.method} returned {len(results)} results for {len(part)} structures")
            refusals = []
            n_before = len(rows)
            for decoration, result in zip(part, results, strict=True):
                try:
                    rows.append(self._row(decoration, result))
                except RecordError as error:
                    refusals.append((decoration.name, str(error), Crystal.from_structure(decoration.structure)))
            # The scored rows of this part are counted when they are handed over, below.
            if self._progress is not None:
                self._progress(f"{self.name} relaxed", start + len(part), len(decorations))
            yield SourceBatch(table_of([]), rejected_of(self.name, refusals), len(part) - (len(rows) - n_before), 0)
        yield SourceBatch(table_of(with_hull(rows)), rejected_of(self.name, []), len(rows), 0)

    def _row(self, decoration: Decoration, result: ScoredCrystal) -> Row:
        energy = result.energy_ev_per_atom
        if result.structure is None or energy is None:
            raise RecordError(
                result.reason or f"{self.method} gave no energy: expected a relaxed crystal and an energy"
            )
        if not math.isfinite(energy):
            raise RecordError(f"{self.method} gave the energy {energy} eV/atom: expected a finite number")
        try:
            crystal = checked(Crystal.from_structure(result.structure))
        except RecordError as error:
            raise RecordError(f"after relaxation by {self.method}, {error}") from None
        values = {"energy_ev_per_atom": energy}
        return row_of(crystal, self.name, decoration.name, self.method, values, origin=Origin.PROTOTYPE)


def with_hull(rows: Sequence[Row]) -> list[Row]:
    """The rows with formation energy and energy above hull among themselves, eV/atom.

    References are the lowest rows of each element. A row with an element that has no row of its own gets neither
    value, and takes no part in the others' hull.
    """
    systems = {row["chemsys"] for row in rows}
    complete = [i for i, row in enumerate(rows) if systems.issuperset(row["chemsys"].split("-"))]
    entries = [_entry(rows[i]) for i in complete]
    result = [dict(row) for row in rows]
    if not entries:
        return result
    diagram = PhaseDiagram(entries)
    for i, entry in zip(complete, entries, strict=True):
        result[i]["formation_energy_ev_per_atom"] = float(diagram.get_form_energy_per_atom(entry))
        e_above_hull_ev_per_atom = diagram.get_e_above_hull(entry)
        assert e_above_hull_ev_per_atom is not None  # None only where pymatgen is asked not to raise
        result[i]["e_above_hull_ev_per_atom"] = max(0.0, float(e_above_hull_ev_per_atom))
    return result


def _entry(row: Row) -> PDEntry:
    composition = row["crystal"].to_structure().composition
    return PDEntry(composition, row["energy_ev_per_atom"] * composition.num_atoms)
