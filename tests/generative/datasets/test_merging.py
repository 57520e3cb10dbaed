"""Truth: pymatgen's StructureMatcher on whole structures, pair by pair, on real crystals and their disguises."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.datasets import merging
from generative.datasets.checks import checked
from generative.datasets.merging import Copies, find_copies, merged
from generative.datasets.records import Row, row_of, table_of
from generative.datasets.table import DATASET_SCHEMA
from generative.native import door as native
from generative.screening.matching import Tolerances, formula_key
from tests.servers.real import RealRecord, real_records

TOLERANCES = Tolerances.of(0.2, 0.3, 5.0)
METHODS = {"first": "PBE", "second": "PBE+U, other pseudopotentials", "third": "r2SCAN"}


def supercell(structure: Structure, rng: np.random.Generator) -> Structure:
    matrix = np.diag([1, 1, 1])
    matrix[rng.integers(3), rng.integers(3)] += 1
    return structure * matrix


def sheared(structure: Structure, rng: np.random.Generator) -> Structure:
    return structure * np.array([[1, 1, 0], [0, 1, 0], [int(rng.integers(-1, 2)), 0, 1]])


def niggli(structure: Structure, rng: np.random.Generator) -> Structure:
    return structure.get_reduced_structure("niggli")


def permuted(structure: Structure, rng: np.random.Generator) -> Structure:
    return Structure.from_sites([structure[i] for i in rng.permutation(len(structure))])


def shifted(structure: Structure, rng: np.random.Generator) -> Structure:
    return Structure(structure.lattice, structure.species, structure.frac_coords + rng.random(3))


def scaled(structure: Structure, rng: np.random.Generator) -> Structure:
    return Structure(Lattice(structure.lattice.matrix * 1.03 ** (1 / 3)), structure.species, structure.frac_coords)


def shaken(structure: Structure, rng: np.random.Generator) -> Structure:
    """Atoms moved by 0.12 A rms per direction: on either side of the tolerance."""
    cart_ang = structure.cart_coords + rng.normal(scale=0.12, size=(len(structure), 3))
    return Structure(structure.lattice, structure.species, cart_ang, coords_are_cartesian=True)


DISGUISES = (supercell, sheared, niggli, permuted, shifted, scaled, shaken)


def small_records(n: int, max_atoms: int = 8) -> list[RealRecord]:
    """Real crystals, those with a polymorph among them first."""
    small = [r for r in real_records() if len(r.structure) <= max_atoms]
    formulas = [r.structure.composition.reduced_formula for r in small]
    return sorted(small, key=lambda r: -formulas.count(r.structure.composition.reduced_formula))[:n]


def row(structure: Structure | Crystal, source: str, number: int, **values: Any) -> Row:
    crystal = structure if isinstance(structure, Crystal) else Crystal.from_structure(structure)
    stated = {"energy_ev_per_atom": -3.0 - number / 7, "spacegroup": 1}
    made = row_of(checked(crystal), source, str(number), METHODS.get(source, "PBE"), stated)
    return made | {"run_type": f"run-{source}"} | values


def three_sources(n: int, seed: int = 0) -> list[Row]:
    """The first source as it is, the second and third in disguise, each with crystals the others lack."""
    rng = np.random.default_rng(seed)
    records = small_records(n)
    rows = [row(r.structure, "first", i) for i, r in enumerate(records[: 2 * n // 3])]
    for source in ("second", "third"):
        chosen = rng.permutation(n)[: 2 * n // 3]
        for number, i in enumerate(chosen):
            disguise = DISGUISES[int(rng.integers(len(DISGUISES)))]
            rows.append(row(disguise(records[i].structure, rng), source, number))
    return rows


def written(folder: Path, rows: Sequence[Row], row_group_size: int = 16) -> Path:
    path = folder / "dataset.parquet"
    pq.write_table(table_of(rows), path, row_group_size=row_group_size)
    return path


def brute_force(rows: Sequence[Row]) -> list[int]:
    """For each row the first kept row of another source that pymatgen finds equal; every cross-source pair is asked."""
    matcher = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5.0)
    structures = [r["crystal"].to_structure() for r in rows]
    original: list[int] = []
    for j, later in enumerate(rows):
        fits = [
            i for i in range(j) if rows[i]["source"] != later["source"] and matcher.fit(structures[i], structures[j])
        ]
        original.append(next((i for i in fits if original[i] == i), j))
    return original


def whole(path: Path, copies: Copies) -> pa.Table:
    return pa.concat_tables(list(merged(path, copies)))


def test_copies_among_three_sources_are_those_of_pymatgen_on_every_pair(tmp_path: Path) -> None:
    rows = three_sources(48)
    path = written(tmp_path, rows)
    copies = find_copies(path, TOLERANCES)
    expected = brute_force(rows)
    assert copies.original.tolist() == expected
    assert not copies.failures
    names = [r["source"] for r in rows]
    dropped = [name for i, name in enumerate(names) if expected[i] != i]
    assert copies.n_dropped == {name: dropped.count(name) for name in ("first", "second", "third")}
    assert copies.n_dropped["first"] == 0
    assert min(copies.n_dropped["second"], copies.n_dropped["third"]) > 5
    assert copies.n_fits <= copies.n_pairs
    assert copies.n_compared < len(rows)  # some formulas stand in one source only
    table = whole(path, copies)
    assert table.schema.equals(DATASET_SCHEMA, check_metadata=True)
    assert table.column("id").to_pylist() == [r["id"] for i, r in enumerate(rows) if expected[i] == i]
    for kept in table.select(["id", "other_ids"]).to_pylist():
        copied = [r["id"] for i, r in enumerate(rows) if expected[i] != i and rows[expected[i]]["id"] == kept["id"]]
        assert (kept["other_ids"] or []) == copied


@pytest.mark.parametrize("disguise", DISGUISES[:-1], ids=lambda d: d.__name__)
def test_another_description_of_a_crystal_is_the_same_crystal(disguise: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    records = small_records(10, 6)
    rows = [row(r.structure, "first", i) for i, r in enumerate(records)]
    # Not through `checked` and `primitive`: a source may hold any cell.
    disguised = [Crystal.from_structure(disguise(r.structure, rng)) for r in records]
    rows += [row(r.structure, "second", i) | {"crystal": c} for (i, r), c in zip(enumerate(records), disguised)]  # noqa: B905
    copies = find_copies(written(tmp_path, rows), TOLERANCES)
    assert copies.original.tolist() == brute_force(rows)
    assert copies.n_dropped == {"first": 0, "second": len(records)}


def test_the_row_that_stays_is_unchanged_and_lists_each_other_energy_with_its_method(tmp_path: Path) -> None:
    (record,) = small_records(1, 4)
    stated = {"formation_energy_ev_per_atom": -1.25, "e_above_hull_ev_per_atom": 0.0, "band_gap_ev": 1.5}
    rows = [
        row(record.structure, "first", 0, energy_ev_per_atom=-5.0),
        row(record.structure, "second", 1, energy_ev_per_atom=None, run_type=None, **stated),
        row(record.structure, "third", 2, energy_ev_per_atom=-9.5),
    ]
    path = written(tmp_path, rows)
    table = whole(path, find_copies(path, TOLERANCES))
    (kept,) = table.to_pylist()
    assert kept["other_ids"] == ["second:1", "third:2"]
    assert json.loads(kept["other_energies"]) == [
        {"id": "second:1", "method": METHODS["second"], **stated},
        {"id": "third:2", "method": METHODS["third"], "run_type": "run-third", "energy_ev_per_atom": -9.5},
    ]
    lists = ["other_ids", "other_energies"]
    assert table.drop_columns(lists).equals(table_of(rows[:1]).drop_columns(lists))


def test_rows_of_one_source_are_never_merged_with_each_other(tmp_path: Path) -> None:
    record, other = small_records(200, 4)[0], small_records(200, 4)[-1]
    assert record.structure.composition.reduced_formula != other.structure.composition.reduced_formula
    rows = [row(record.structure, "first", i) for i in range(3)] + [row(other.structure, "second", i) for i in range(2)]
    path = written(tmp_path, rows)
    copies = find_copies(path, TOLERANCES)
    assert copies.original.tolist() == [0, 1, 2, 3, 4]
    assert (copies.n_compared, copies.n_pairs) == (0, 0)
    assert whole(path, copies).equals(table_of(rows))
    # Twice in the first source, twice in the second: both of the second are copies of the first row of the first.
    rows = [row(record.structure, s, i) for s in ("first", "second") for i in range(2)]
    copies = find_copies(written(tmp_path, rows), TOLERANCES)
    assert copies.original.tolist() == [0, 1, 0, 0]


def test_a_crystal_missing_in_the_first_source_is_merged_between_the_second_and_the_third(tmp_path: Path) -> None:
    a, b = small_records(60, 4)[0], small_records(60, 4)[-1]
    rows = [
        row(a.structure, "first", 0),
        row(b.structure, "second", 0),
        row(b.structure, "third", 0),
        row(a.structure, "third", 1),
    ]
    path = written(tmp_path, rows)
    table = whole(path, find_copies(path, TOLERANCES))
    assert dict(zip(table["id"].to_pylist(), table["other_ids"].to_pylist(), strict=True)) == {
        "first:0": ["third:1"],
        "second:0": ["third:0"],
    }


def test_a_merged_table_merged_again_with_another_source_keeps_and_extends_its_lists(tmp_path: Path) -> None:
    (record,) = small_records(1, 4)
    rows = [row(record.structure, source, 0) for source in METHODS]
    path = written(tmp_path, rows[:2])
    once = whole(path, find_copies(path, TOLERANCES))
    pq.write_table(pa.concat_tables([once, table_of(rows[2:])]), path)
    twice = whole(path, find_copies(path, TOLERANCES))
    all_at_once = written(tmp_path, rows)
    assert twice.equals(whole(all_at_once, find_copies(all_at_once, TOLERANCES)))
    # The merged table as the later source: what it listed comes along; an id comes once, its own row's word counts.
    fresh = row(record.structure, "fourth", 0)
    renewed = row(record.structure, "second", 0, energy_ev_per_atom=-77.0)
    pq.write_table(pa.concat_tables([table_of([fresh]), once, table_of([renewed])]), path)
    (kept,) = whole(path, find_copies(path, TOLERANCES)).to_pylist()
    assert kept["id"] == "fourth:0"
    assert kept["other_ids"] == ["first:0", "second:0"]
    assert [e.get("energy_ev_per_atom") for e in json.loads(kept["other_energies"])] == [-3.0, -77.0]


def test_merging_a_merged_table_with_nothing_new_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, three_sources(30))
    once = whole(path, find_copies(path, TOLERANCES))
    pq.write_table(once, path)
    again = find_copies(path, TOLERANCES)
    assert sum(again.n_dropped.values()) == 0
    assert whole(path, again).equals(once)


def test_the_result_does_not_depend_on_batches_row_groups_or_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = three_sources(40, seed=1)
    path = written(tmp_path, rows, row_group_size=1000)
    expected = find_copies(path, TOLERANCES)
    table = whole(path, expected)
    assert 0 < sum(expected.n_dropped.values()) < len(rows)
    for atoms, batch_rows, row_group_size in ((1, 1, 3), (30, 7, 1), (200, 64, 1000)):
        monkeypatch.setattr(merging, "CRYSTAL_ATOMS_AT_ONCE", atoms)
        monkeypatch.setattr(merging, "BATCH_ROWS", batch_rows)
        path = written(tmp_path, rows, row_group_size)
        seen: list[tuple[int, int]] = []
        found = find_copies(path, TOLERANCES, lambda *counts, seen=seen: seen.append(counts))
        assert found.original.tolist() == expected.original.tolist()
        assert (found.n_pairs, found.n_fits, found.n_compared) == (
            expected.n_pairs,
            expected.n_fits,
            expected.n_compared,
        )
        assert seen[-1] == (expected.n_compared, expected.n_compared)
        assert whole(path, found).equals(table)


def test_no_more_crystals_are_held_at_once_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = three_sources(40)
    monkeypatch.setattr(merging, "CRYSTAL_ATOMS_AT_ONCE", 50)
    held: list[tuple[int, int]] = []
    taken = merging._taken

    def counting(file: Any, wanted: np.ndarray, columns: Sequence[str]) -> pa.Table:
        chosen = [rows[i] for i in wanted]
        held.append((sum(r["n_atoms"] for r in chosen), len({r["formula"] for r in chosen})))
        return taken(file, wanted, columns)

    monkeypatch.setattr(merging, "_taken", counting)
    find_copies(written(tmp_path, rows), TOLERANCES)
    assert len(held) > 5
    assert all(n_atoms <= 50 or n_formulas == 1 for n_atoms, n_formulas in held)


def test_tables_without_copies_or_without_rows_come_back_as_they_are(tmp_path: Path) -> None:
    path = written(tmp_path, [])
    copies = find_copies(path, TOLERANCES)
    assert (len(copies.original), dict(copies.n_dropped)) == (0, {})
    assert list(merged(path, copies)) == []
    records = small_records(3, 4)
    rows = [row(records[0].structure, "first", 0), row(records[0].structure * 2, "first", 1)]
    path = written(tmp_path, rows)
    assert whole(path, find_copies(path, TOLERANCES)).equals(table_of(rows))


def test_copies_of_another_file_are_refused(tmp_path: Path) -> None:
    records = small_records(3, 4)
    path = written(tmp_path, [row(r.structure, "first", i) for i, r in enumerate(records)])
    copies = find_copies(path, TOLERANCES)
    written(tmp_path, [row(r.structure, "first", i) for i, r in enumerate(records[:2])])
    with pytest.raises(ValueError, match=r"2 rows.*among 3.*find the copies again"):
        list(merged(path, copies))


def test_a_crystal_the_matcher_cannot_reduce_stays_and_its_reason_is_kept(tmp_path: Path) -> None:
    (record,) = small_records(1, 4)
    good = row(record.structure, "first", 0)
    flat = good["crystal"]
    flat = Crystal(np.zeros((3, 3)), flat.frac, flat.atomic_numbers)
    rows = [good, row(record.structure, "second", 0) | {"crystal": flat}, row(record.structure, "third", 0)]
    copies = find_copies(written(tmp_path, rows), TOLERANCES)
    assert copies.original.tolist() == [0, 1, 0]
    assert set(copies.failures) == {1}
    assert "no volume" in copies.failures[1]


def test_a_matcher_that_raises_is_recorded_and_counts_as_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> bool:
        raise ValueError("singular matrix")

    (record,) = small_records(1, 4)
    path = written(tmp_path, [row(record.structure, source, 0) for source in ("first", "second")])
    monkeypatch.setattr(StructureMatcher, "fit", broken)
    monkeypatch.setattr(native, "is_available", lambda: False)
    copies = find_copies(path, TOLERANCES)
    assert copies.original.tolist() == [0, 1]
    assert "compared with row 0" in copies.failures[1]
    assert "singular matrix" in copies.failures[1]


def test_the_tables_formula_tells_crystals_apart_as_the_matcher_does() -> None:
    records = real_records()
    formulas: dict[Any, set[str]] = {}
    for record in records:
        crystal = Crystal.from_structure(record.structure)
        made = row_of(crystal, "s", "0", "PBE", {"spacegroup": 1})
        formulas.setdefault(formula_key(crystal), set()).add(made["formula"])
    assert all(len(names) == 1 for names in formulas.values())
    assert len({name for names in formulas.values() for name in names}) == len(formulas)
    for symbols in (["H"], ["O"], ["N"], ["F"], ["Cl"], ["H", "O"], ["Li", "O"], ["Na", "O"], ["Xe", "Kr"]):
        numbers = [Lattice.cubic(9.0), symbols, np.linspace(0, 0.5, 3 * len(symbols)).reshape(-1, 3)]
        crystal = Crystal.from_structure(Structure(*numbers))
        twice = Crystal.from_structure(Structure(*numbers) * 2)
        assert (
            row_of(crystal, "s", "0", "PBE", {"spacegroup": 1})["formula"]
            == (row_of(twice, "s", "0", "PBE", {"spacegroup": 1})["formula"])
        )
        assert formula_key(crystal) == formula_key(twice)


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from generative.datasets import merging
from generative.datasets.table import DATASET_SCHEMA
from generative.screening.matching import Tolerances

def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

path, n, n_atoms, step = Path(sys.argv[1]), 60_000, 20, 2000
rng = np.random.default_rng(0)
with pq.ParquetWriter(path, DATASET_SCHEMA, compression="none", use_dictionary=False) as writer:
    for start in range(0, n, step):
        i = np.arange(start, start + step)
        def lists(k, values, kind):
            offsets = pa.array(np.arange(step + 1) * k, type=pa.int32())
            return pa.ListArray.from_arrays(offsets, pa.array(values, type=kind))
        columns = {f.name: pa.nulls(step, f.type) for f in DATASET_SCHEMA} | {
            "id": pa.array(i.astype(str)), "source": pa.array(np.where(i < n // 2, "first", "second")),
            "formula": pa.array((i % (n // 2)).astype(str)), "n_atoms": pa.array(np.full(step, n_atoms, np.int16)),
            "extra": pa.array([str(k) * 400 for k in i]),
            "frac_coords": lists(3 * n_atoms, rng.random(step * 3 * n_atoms), pa.float64()),
            "lattice_ang": lists(9, rng.random(step * 9), pa.float64()),
            "atomic_numbers": lists(n_atoms, np.full(step * n_atoms, 6), pa.int16()),
        }
        writer.write_table(pa.table([columns[c] for c in DATASET_SCHEMA.names], schema=DATASET_SCHEMA))

def all_the_same(self, rows, crystals):
    assert [len(c.atomic_numbers) for c in crystals] == [n_atoms, n_atoms]
    self.original[rows[1:]] = rows[0]

merging._Search.look_through = all_the_same
merging.CRYSTAL_ATOMS_AT_ONCE = 100_000
tolerances = Tolerances.of(0.2, 0.3, 5.0)
tolerances.matcher()  # loads SciPy
before = peak_mb()
copies = merging.find_copies(path, tolerances)
assert sum(len(t) for t in merging.merged(path, copies)) == n // 2
print(path.stat().st_size / 2**20, peak_mb() - before)
"""


def test_a_table_is_merged_in_a_fraction_of_its_size(tmp_path: Path) -> None:
    """60,000 crystals of 20 atoms, each in both sources; the matcher is left out, as its memory is one formula's."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "big.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    file_mb, grown_mb = map(float, done.stdout.split())
    assert file_mb > 140
    assert grown_mb < file_mb / 2
