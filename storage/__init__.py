"""What the rooms above share: files written whole or not at all, with checksums; parts by name. Knows no other room."""
