"""Scripts that run under another Python, beside a DFT code: they import nothing of this program."""
