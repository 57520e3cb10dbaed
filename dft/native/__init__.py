"""Kernels in native code: one folder, whose digest names the place where their code is kept (storage.native_code)."""
