"""File formats that hold many crystals, read as raw records one at a time."""
