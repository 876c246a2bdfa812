"""The CPU half: blocks of work behind one C signature, run serially or by Numba's threads."""
