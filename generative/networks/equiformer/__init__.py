"""EquiformerV2: attention over the neighbours of an atom, with features that turn with the crystal."""
