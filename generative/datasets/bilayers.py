"""Janus III-VI bilayers put together here: a stand-in for J2DH-8, whose crystals and energies are not public.

A monolayer is X-M-M'-X' of four atoms, with the metals in Al, Ga, In and the chalcogens in S, Se, Te: 45 of them, of
which 9 look the same from both sides. Two of their 81 faces meet in 3,321 ways; with two orientations of the upper
layer and three registries that makes 19,926 bilayers of 8 atoms, which is the size of J2DH-8 (Sa et al. 2022).

Monolayers are relaxed first. Two of them are strained to the mean of their lattice constants and put at the distance at
which their chalcogens touch, then relaxed together by the potential that the caller passes in, which must hold the
vacuum and should have dispersion. The label is an energy of that potential, not of DFT:

    formation_energy_ev_per_cell = E(bilayer) - E(lower monolayer) - E(upper monolayer)

Results are kept a batch at a time by what was asked, so that an interrupted ingest goes on where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Literal

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, checked
from generative.datasets.config import BilayersSource, SourceConfig
from generative.datasets.origins import Origin
from generative.datasets.prototypes import SCORING_BATCH, ScoredCrystal, Scorer
from generative.datasets.quarantine import rejected_of
from generative.datasets.records import Form, RawRecord, Row, row_of, table_of
from generative.datasets.sources import SourceBatch, SourceError, Surroundings
from storage.atomic import write_text
from storage.digests import json_digest
from storage.vacuum import Slab, slab_of

LABEL = "formation_energy_ev_per_cell"
"""In `extra` of a row: energy of the bilayer from its two monolayers, eV per cell of 8 atoms."""

METALS, CHALCOGENS = ("Al", "Ga", "In"), ("S", "Se", "Te")

_EDITION = 1
"""Of how crystals are put together; raise it when they would come out otherwise."""

_LATTICE_ANG = {
    ("Al", "S"): 3.584, ("Al", "Se"): 3.778, ("Al", "Te"): 4.115,
    ("Ga", "S"): 3.645, ("Ga", "Se"): 3.824, ("Ga", "Te"): 4.130,
    ("In", "S"): 3.917, ("In", "Se"): 4.085, ("In", "Te"): 4.370,
}  # fmt: skip
"""Hexagonal lattice constants of the nine MX monolayers by PBE, from C2DB (Haastrup et al., 2D Mater. 5, 042002 (2018);
Gjerding et al., 2D Mater. 8, 044002 (2021)). Relaxations begin there; of a Janus monolayer at the mean of its four."""

_COVALENT_ANG = {"Al": 1.21, "Ga": 1.22, "In": 1.42, "S": 1.05, "Se": 1.20, "Te": 1.38}
"""Cordero et al., Dalton Trans. 2008, 2832. Bonds begin at their sums."""
_CONTACT_ANG = {"S": 1.80, "Se": 1.90, "Te": 2.06}
"""Van der Waals radii: Bondi, J. Phys. Chem. 68, 441 (1964). Layers begin in contact."""

_REGISTRIES = {"AA": (0.0, 0.0), "AB": (1 / 3, 2 / 3), "BA": (2 / 3, 1 / 3)}
"""Shift of the upper layer in fractions of the plane's vectors."""
_HEXAGONAL_TOLERANCE = 0.01
"""Relative: how far a relaxed monolayer's two lattice constants may differ."""

Symbols = tuple[str, str, str, str]
"""The atoms of a monolayer from the bottom to the top: chalcogen, metal, metal, chalcogen."""


@dataclass(frozen=True)
class Bilayer:
    """Two monolayers on each other.

    Attributes:
        lower, upper: their atoms from the bottom to the top.
        orientation_deg: of the upper layer; at 0 both have their chalcogens on the same side of their metals.
        registry: shift of the upper layer, a key of _REGISTRIES.
    """

    lower: Symbols
    upper: Symbols
    orientation_deg: Literal[0, 60]
    registry: str

    @property
    def name(self) -> str:
        """Such as 'SGaGaSe-SeInInTe-60-AB', from the bottom to the top."""
        return f"{''.join(self.lower)}-{''.join(self.upper)}-{self.orientation_deg}-{self.registry}"


def monolayers(metals: Sequence[str] = METALS, chalcogens: Sequence[str] = CHALCOGENS) -> list[Symbols]:
    """Every monolayer once, whichever side is up."""
    every = ((x, m, n, y) for x, m, n, y in product(chalcogens, metals, metals, chalcogens))
    return sorted({_turned_right(symbols) for symbols in every})


def _turned_right(symbols: Symbols) -> Symbols:
    return min(symbols, _reversed(symbols))


def _reversed(symbols: Symbols) -> Symbols:
    first, second, third, fourth = symbols
    return fourth, third, second, first


def bilayers(metals: Sequence[str] = METALS, chalcogens: Sequence[str] = CHALCOGENS) -> list[Bilayer]:
    """Every way in which two faces of monolayers meet, once, in two orientations and three registries."""
    faces = sorted({face for one in monolayers(metals, chalcogens) for face in (one, _reversed(one))})
    orientations: tuple[Literal[0, 60], ...] = (0, 60)
    return [
        Bilayer(lower, _reversed(other), orientation, registry)
        for lower, other in combinations_with_replacement(faces, 2)
        for orientation, registry in product(orientations, _REGISTRIES)
    ]


def drawn(config: BilayersSource, elements: tuple[str, ...] | None = None) -> list[Bilayer]:
    """The bilayers of a source: those of the elements, in an order drawn with its seed, as many as it wants.

    A larger limit with the same seed adds to a smaller one.
    """
    metals, chalcogens = (
        [symbol for symbol in listed if elements is None or symbol in elements]
        for listed in (config.metals, config.chalcogens)
    )
    every = bilayers(metals, chalcogens)
    order = np.random.default_rng(config.seed).permutation(len(every))[: config.limit]
    return [every[i] for i in order]


def start_of(symbols: Symbols, vacuum_ang: float) -> Structure:
    """A monolayer to relax: bonds at the sums of covalent radii, metals at the plane's corners."""
    bottom, lower, upper, top = symbols
    pairs = [(metal, chalcogen) for metal in (lower, upper) for chalcogen in (bottom, top)]
    a_ang = float(np.mean([_LATTICE_ANG[pair] for pair in pairs]))
    rises = [
        _height(_COVALENT_ANG[metal] + _COVALENT_ANG[chalcogen], a_ang)
        for metal, chalcogen in ((lower, bottom), (upper, top))
    ]
    between = _COVALENT_ANG[lower] + _COVALENT_ANG[upper]
    heights = np.cumsum([0.0, rises[0], between, rises[1]])
    return _structure([(symbols, heights, 0, "AA")], a_ang, vacuum_ang)


def _height(bond_ang: float, a_ang: float) -> float:
    """How high an atom above the middle of a triangle is, a bond away from its corners; 1 A at least."""
    return math.sqrt(max(bond_ang**2 - a_ang**2 / 3.0, 1.0))


def _structure(
    layers: Sequence[tuple[Symbols, np.ndarray, Literal[0, 60], str]], a_ang: float, vacuum_ang: float
) -> Structure:
    """Layers of atoms at these heights, A, in a hexagonal cell with so much vacuum."""
    top = max(float(heights.max()) for _, heights, _, _ in layers)
    lattice = Lattice.hexagonal(a_ang, top + vacuum_ang)
    species: list[str] = []
    frac: list[list[float]] = []
    for symbols, heights, orientation, registry in layers:
        chalcogen = (1 / 3, 2 / 3) if orientation == 0 else (2 / 3, 1 / 3)
        shift = _REGISTRIES[registry]
        for place, symbol, height in zip((chalcogen, (0, 0), (0, 0), chalcogen), symbols, heights, strict=True):
            species.append(symbol)
            frac.append([place[0] + shift[0], place[1] + shift[1], (height + vacuum_ang / 2) / lattice.c])
    return Structure(lattice, species, frac)


@dataclass(frozen=True)
class RelaxedLayer:
    """A monolayer at rest.

    Attributes:
        lattice_ang: its hexagonal lattice constant.
        heights_ang: of its atoms above the lowest, in the order of its symbols, (4,).
        energy_ev: of its cell.
    """

    lattice_ang: float
    heights_ang: np.ndarray
    energy_ev: float

    def turned(self) -> RelaxedLayer:
        """With the other side up."""
        return RelaxedLayer(self.lattice_ang, (self.heights_ang.max() - self.heights_ang)[::-1], self.energy_ev)


def stacked(bilayer: Bilayer, lower: RelaxedLayer, upper: RelaxedLayer, vacuum_ang: float) -> Structure:
    """The two layers at the mean of their lattice constants, their chalcogens in contact."""
    a_ang = 0.5 * (lower.lattice_ang + upper.lattice_ang)
    shift = _REGISTRIES[bilayer.registry]
    place = (1 / 3, 2 / 3) if bilayer.orientation_deg == 0 else (2 / 3, 1 / 3)
    apart = np.mod(np.add(place, shift) - (1 / 3, 2 / 3) + 0.25, 1.0) - 0.25
    lateral_ang = 0.0 if np.abs(apart).max() < 0.1 else a_ang / math.sqrt(3.0)
    contact_ang = _CONTACT_ANG[bilayer.lower[-1]] + _CONTACT_ANG[bilayer.upper[0]]
    gap_ang = math.sqrt(contact_ang**2 - lateral_ang**2)
    above = upper.heights_ang + lower.heights_ang.max() + gap_ang
    return _structure(
        [
            (bilayer.lower, lower.heights_ang, 0, "AA"),
            (bilayer.upper, above, bilayer.orientation_deg, bilayer.registry),
        ],
        a_ang,
        vacuum_ang,
    )


def open_bilayers(config: SourceConfig, around: Surroundings) -> Bilayers:
    """See generative.datasets.sources.Opener. Raises: SourceError: if nothing relaxes its crystals."""
    assert isinstance(config, BilayersSource)
    if around.scorer is None:
        raise SourceError(
            "the source 'bilayers' needs a potential to relax and label its crystals, but none was given: name one"
        )
    return Bilayers(config, around.scorer, around.downloads.folder / "bilayers")


class Bilayers:
    """The source 'bilayers': crystals in cells with vacuum, labelled by energies of a potential."""

    kind = "bilayers"

    def __init__(self, config: BilayersSource, scorer: Scorer, folder: Path, name: str = "bilayers") -> None:
        """Nothing is relaxed yet; results are kept in `folder`."""
        self._config, self._scorer, self._folder = config, scorer, folder
        self.name, self.method = name, scorer.name
        wanted = "all" if config.limit is None else f"{config.limit}"
        self.query = f"{wanted} Janus bilayers of {'-'.join(config.metals)} and {'-'.join(config.chalcogens)}, " + (
            f"seed {config.seed}, {config.vacuum_ang:g} A of vacuum; {LABEL} is a stand-in: the energy by "
            f"{scorer.name} less that of both monolayers, eV per cell of 8 atoms"
        )

    def database_version(self) -> str:
        """How its crystals are put together."""
        return f"edition {_EDITION}"

    def batches(self, elements: tuple[str, ...] | None) -> Iterator[SourceBatch]:
        """See Source.batches.

        Raises: SourceError: if the elements make no bilayer, or the potential does not hold the vacuum.
        """
        wanted = drawn(self._config, elements)
        if not wanted:
            raise SourceError(
                f"elements {'-'.join(elements or ())} make no bilayer: expected at least one of "
                f"{', '.join(self._config.metals)} and one of {', '.join(self._config.chalcogens)}"
            )
        needed = sorted({_turned_right(layer) for one in wanted for layer in (one.lower, one.upper)})
        layers = self._relaxed_layers(needed)
        for start in range(0, len(wanted), SCORING_BATCH):
            part = wanted[start : start + SCORING_BATCH]
            sound = [one for one in part if not self._fault(one, layers)]
            begun = [stacked(one, *_both(one, layers), self._config.vacuum_ang) for one in sound]
            ends = dict(zip((one.name for one in sound), self._scored(begun), strict=True))
            rows: list[Row] = []
            refusals = []
            for one in part:
                try:
                    if fault := self._fault(one, layers):
                        raise RecordError(fault)
                    rows.append(self._row(one, layers, ends[one.name]))
                except RecordError as error:
                    refusals.append((one.name, str(error), one.name))
            yield SourceBatch(table_of(rows), rejected_of(self.name, refusals), len(part), 0)

    def _relaxed_layers(self, needed: Sequence[Symbols]) -> dict[Symbols, RelaxedLayer | str]:
        """Each monolayer at rest, or why it is not."""
        begun = [start_of(symbols, self._config.vacuum_ang) for symbols in needed]
        ends: dict[Symbols, RelaxedLayer | str] = {}
        for start in range(0, len(needed), SCORING_BATCH):
            part = slice(start, start + SCORING_BATCH)
            for symbols, first, result in zip(needed[part], begun[part], self._scored(begun[part]), strict=True):
                ends[symbols] = self._relaxed_layer(symbols, first, result)
        return ends

    def _relaxed_layer(self, symbols: Symbols, start: Structure, result: ScoredCrystal) -> RelaxedLayer | str:
        name = "".join(symbols)
        try:
            slab, energy = self._slab(start, result)
        except RecordError as error:
            return f"its monolayer {name}: {error}"
        a, b = np.linalg.norm(slab.plane_ang, axis=1)
        if abs(a - b) > _HEXAGONAL_TOLERANCE * a or np.any(np.diff(slab.heights_ang) <= 0):
            return f"its monolayer {name} relaxed to another structure: lattice constants {a:.3f} and {b:.3f} A"
        return RelaxedLayer(float(0.5 * (a + b)), slab.heights_ang, 4 * energy)

    def _slab(self, start: Structure, result: ScoredCrystal) -> tuple[Slab, float]:
        """What a relaxation made of a slab, with its energy, eV/atom.

        Raises:
            RecordError: if it made nothing, or no slab.
            SourceError: if the vacuum was not held.
        """
        energy = result.energy_ev_per_atom
        if result.structure is None or energy is None or not math.isfinite(energy):
            raise RecordError(result.reason or f"{self.method} gave no energy: expected a relaxed crystal with one")
        heights = [one.volume / np.linalg.norm(np.cross(*one.lattice.matrix[:2])) for one in (start, result.structure)]
        if abs(heights[1] - heights[0]) > 1e-3:
            raise SourceError(
                f"relaxation changed the height of a cell with vacuum from {heights[0]:.2f} to {heights[1]:.2f} A: the "
                "source 'bilayers' needs it held; set relax.vacuum to held"
            )
        slab = slab_of(result.structure.lattice.matrix, result.structure.frac_coords)
        if slab is None:
            raise RecordError(f"{self.method} relaxed it to no slab: expected vacuum in one direction")
        return slab, energy

    def _fault(self, one: Bilayer, layers: dict[Symbols, RelaxedLayer | str]) -> str:
        faults = [layers[_turned_right(symbols)] for symbols in (one.lower, one.upper)]
        return next((fault for fault in faults if isinstance(fault, str)), "")

    def _row(self, one: Bilayer, layers: dict[Symbols, RelaxedLayer | str], result: ScoredCrystal) -> Row:
        lower, upper = _both(one, layers)
        slab, energy = self._slab(stacked(one, lower, upper, self._config.vacuum_ang), result)
        lattice, frac = slab.with_vacuum(self._config.vacuum_ang)
        assert result.structure is not None  # or it had been no slab
        made = Crystal.from_structure(Structure(Lattice(lattice), result.structure.species, frac))
        try:
            crystal = checked(made)
        except RecordError as error:
            raise RecordError(f"after relaxation by {self.method}, {error}") from None
        label = 8 * energy - lower.energy_ev - upper.energy_ev
        mean = 0.5 * (lower.lattice_ang + upper.lattice_ang)
        extra = {
            LABEL: label,
            "gap_ang": float(slab.heights_ang[4:].min() - slab.heights_ang[:4].max()),
            "mismatch": (upper.lattice_ang - lower.lattice_ang) / mean,
            "lower": "".join(one.lower),
            "upper": "".join(one.upper),
            "orientation_deg": one.orientation_deg,
            "registry": one.registry,
            "label": f"{LABEL}: E(bilayer) - E(lower) - E(upper), each relaxed by {self.method}; not DFT",
        }
        stated = RawRecord(one.name, Form.CRYSTAL, crystal, extra=extra)
        values = {"energy_ev_per_atom": energy}
        return row_of(crystal, self.name, one.name, self.method, values, stated, Origin.HYPOTHETICAL)

    def _scored(self, structures: list[Structure]) -> list[ScoredCrystal]:
        """The scorer's results, from the file that holds them if they were asked for before."""
        asked = [Crystal.from_structure(structure).digest for structure in structures]
        key = json_digest({"edition": _EDITION, "scorer": self._scorer.fingerprint, "crystals": asked})
        path = self._folder / f"{key[:32]}.json"
        if path.is_file():
            return [_from_document(one) for one in json.loads(path.read_text(encoding="utf-8"))]
        results = self._scorer(structures)
        if len(results) != len(structures):
            raise ValueError(f"scorer {self.method} returned {len(results)} results for {len(structures)} structures")
        documents = [_document(result) for result in results]
        write_text(path, json.dumps(documents, separators=(",", ":")))
        return [_from_document(one) for one in documents]


def _both(one: Bilayer, layers: dict[Symbols, RelaxedLayer | str]) -> tuple[RelaxedLayer, RelaxedLayer]:
    """The two layers as they lie, each at rest."""
    found = []
    for symbols in (one.lower, one.upper):
        layer = layers[_turned_right(symbols)]
        assert isinstance(layer, RelaxedLayer)  # those that are not were turned away
        found.append(layer if symbols == _turned_right(symbols) else layer.turned())
    return found[0], found[1]


def _document(result: ScoredCrystal) -> dict[str, object]:
    crystal = None
    if result.structure is not None:
        made = Crystal.from_structure(result.structure)
        crystal = [made.lattice_ang.tolist(), made.frac.tolist(), made.atomic_numbers.tolist()]
    return {"crystal": crystal, "energy_ev_per_atom": result.energy_ev_per_atom, "reason": result.reason}


def _from_document(document: dict[str, object]) -> ScoredCrystal:
    crystal, energy, reason = document["crystal"], document["energy_ev_per_atom"], str(document["reason"])
    structure = None
    if isinstance(crystal, list):
        lattice, frac, numbers = (np.array(part) for part in crystal)
        structure = Crystal(lattice, frac, numbers.astype(np.int16)).to_structure()
    return ScoredCrystal(structure, float(energy) if isinstance(energy, (int, float)) else None, reason)
