"""The GPU half: kernels over rows, over columns (one row for each thread), and over elements."""
