"""Tests; a package so that they can share the loopback servers."""
