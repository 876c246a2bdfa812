"""Every loop that reads or writes an array element; imported as ``fusedce.kernels``.

``rule``: a loss as a function of log p. ``link``: the chain rule from log p to the logits.
``scalar``, ``vector``, ``elementary``, ``intrinsics``: the functions and number types that both are
written in. ``problem``: what a backend is asked to compute. ``cpu`` and ``cuda``: the loops, which
import the other modules and are not imported by them. No kernel knows a loss by its name. README.md
in this folder describes how a kernel is put together.
"""

if __name__ == "kernels":
    raise ImportError("this folder is a part of fusedce: import fusedce.kernels")
