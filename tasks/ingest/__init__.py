"""Known crystals from files and databases into one table."""
