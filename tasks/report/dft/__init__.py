"""DFT jobs and their hull as artifacts."""
