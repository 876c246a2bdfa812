"""The CPU half: kernels over blocks, with one C signature, run in one thread or in several."""
