"""Files on disk: written whole or not at all, with checksums that tell when they are damaged. Knows no other room."""
