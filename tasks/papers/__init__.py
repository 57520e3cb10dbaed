"""Papers made again with our systems: a room per paper; results on disk, claims and pages are common to all."""
