"""The DFT leg of a run: its campaign, its hull, and how a run waits for it."""
