"""Sources of known crystals, brought into one table with a manifest."""
