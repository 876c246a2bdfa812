"""The command line: ``python -m fusedce warmup`` and ``doctor``."""
