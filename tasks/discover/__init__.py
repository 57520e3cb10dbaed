"""The stages of a discovery run."""
