"""What fusedce is for (digits) and what it costs (throughput), each run as ``python -m``."""
