"""Machine-learned potentials, and what is computed with them: relaxations, phonons, ground states."""
