"""Limits on what is read, in one place: the same for every source, each with the reason for its number.

A record beyond a limit is one row of the quarantine with the value, the limit and the remedy; docs/ingest.md lists all.
Real crystals, where a count is named, are the 35,000 of MP-20, MPTS-52, Perov-5, Carbon-24, C2DB and WBM.
"""

from __future__ import annotations

# Crystals.

MAX_RECORD_ATOMS = 1000
"""Most atoms a record may have. Far above any generator's cell (64) and any structure of the Materials Project
(444); a larger cell is a simulation box or a mistake, and one alone could exhaust the memory of a worker."""

MIN_DISTANCE_ANG = 0.5
"""Shortest distance between two atoms, self-images included: the validity rule of the CDVAE benchmark. The shortest
real bond, H-H, is 0.74 A."""

MIN_VOLUME_PER_ATOM_ANG3 = 0.5
"""Smallest volume per atom. Diamond has 5.6, hydrogen at 500 GPa about 1."""

MAX_VOLUME_PER_ATOM_ANG3 = 1e5
"""Largest volume per atom: one atom in a box of 46 A. The emptiest real crystal has 520; boxes around an isolated atom
have some 10,000."""

MAX_VECTOR_ANG = 1000.0
"""Longest cell vector. The longest real one is 46 A, of the known polytypes of SiC 990 A."""

MIN_PLANE_SPACING_ANG = 0.5
"""Smallest distance of opposite faces of the cell. Every crystal has a cell above it, since its shortest vector is as
long; of real cells as given the flattest has 1.24 A. In a cell of almost parallel vectors a search for neighbours goes
through millions of images."""

MAX_FRACTIONAL = 1e4
"""Largest fractional coordinate before it is wrapped into the cell. At 1e12 a double has lost all but four decimals of
the place in the cell."""

MAX_ENERGY_EV_PER_ATOM = 2e6
"""Largest total energy, either sign: above that of all electrons of lawrencium, 1.2 MeV."""

MAX_DIFFERENCE_EV_PER_ATOM = 100.0
"""Largest formation energy, energy above the hull and band gap, either sign. Real ones lie below 20."""

# Texts.

MAX_NAME_CHARACTERS = 4096
"""Longest id of a record, and longest text in the columns of methods and dates: as long as a path may be."""

MAX_EXTRA_CHARACTERS = 1 << 20
"""Longest text of a record's further fields; AFLOW's have some 10,000 characters."""

MAX_REASON_CHARACTERS = 500
"""A reason in the quarantine is cut to so many characters."""

MAX_RECORD_CHARACTERS = 4000
"""What is kept of a record in the quarantine is cut to so many characters."""

# Files.

MAX_FILE_BYTES = 1 << 26
"""Largest CIF or POSCAR, alone or in a cell of a table, 64 MB: far above what MAX_RECORD_ATOMS atoms take."""

MAX_EXPANSION = 100
"""A packed file, or a Parquet file, may unpack to so many times its size. Tables of crystals reach 10; a stream of
zeros 1,000 by gzip and any number by Parquet's run lengths."""

FREE_BYTES = 1 << 26
"""Up to so many bytes, 64 MB, MAX_EXPANSION does not matter: small files may be as repetitive as they like."""

MAX_JSON_DEPTH = 100
"""Deepest nesting of JSON. A ComputedStructureEntry has 8 levels; Python's own limit is near 1,000."""

MAX_JSON_DIGITS = 400
"""Longest whole number of JSON: beyond it none is a double."""

BYTES_PER_JSON_VALUE = 8
"""A JSON text may hold one value for so many bytes of its limit, since each takes some 60 bytes of memory however short
it is written. Crystals have one in 12 bytes, and are smaller than the limit."""

MAX_LINE_CHARACTERS = 1 << 16
"""Longest line of extended XYZ, 64 kB: a line is matched with patterns."""

MAX_BLANK_LINES = 100_000
"""Most blank lines in a row, in a file that is read line by line."""

MAX_CIF_WORDS = 8_000_000
"""Most words of a CIF, since each takes some 160 bytes of memory: a file of 64 MB as crystals are written."""

MAX_CIF_QUOTED = 1_000_000_000
"""Most steps that looking for the ends of quoted words may take: quotation marks times length, over all lines. CIF
allows lines of 2,048 characters, on which it is never reached."""

MAX_OPERATIONS = 1000
"""Most symmetry operations that a CIF may list. A conventional cell has at most 192."""

MAX_CENTRINGS = 108
"""Most pure translations among them: those of a face-centred cell, tripled along each axis."""

MAX_MAGNETIC_IMAGES = 20_000
"""Most sites times operations of a magnetic CIF, which pymatgen expands one by one. The largest magnetic group has 192
operations, and real magnetic cells have up to 100 sites listed."""

MAX_WORD_CHARACTERS = 1000
"""Longest formula or space-group symbol that is looked at."""
