"""Neural networks that know no system: plain modules."""
