"""The benchmark on a GPU: ``python -m benchmarks --device cuda``."""
