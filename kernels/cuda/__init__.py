"""GPU kernels: over rows, over columns (class axis not last, or few classes), over elements."""
