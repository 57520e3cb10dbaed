"""DFT jobs that belong together: which, where, brought home, and what they say beside the potential."""
