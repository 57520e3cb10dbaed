"""Engines that compute a crystal: each takes a job folder and gives a DFTRecord, or an EngineError with its kind."""
