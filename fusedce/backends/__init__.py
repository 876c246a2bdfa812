"""How a call reaches the kernels: NumPy arrays on the CPU, other libraries' arrays on a GPU."""
