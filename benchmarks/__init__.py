"""What fusedce is for: ``python -m benchmarks.digits``. What it costs: ``python -m benchmarks``."""
