"""CIF: from text to a crystal, or to the reason why there is none."""
