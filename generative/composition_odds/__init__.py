"""Which compositions of a chemical system are likely to occur, learned from known crystals."""
