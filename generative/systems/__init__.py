"""Generative systems, a folder or file each: what they can do is interface.py, their names are registry.py."""
