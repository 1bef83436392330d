"""Fuzzing of everything that reads bytes of a release; see `tests.fuzz.__main__`."""
