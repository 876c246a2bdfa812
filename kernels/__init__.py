"""Every loop that touches an array element; imported as ``fusedce.kernels``.

Map: ``scalar`` elementary functions, numbers in and out · ``rule`` a loss as a function of
log p · ``link`` the chain rule from log p to the logits · ``cpu`` loops over memory.
Dependencies point from right to left. No kernel knows a loss by name.
"""

if __name__ == "kernels":
    raise ImportError("this folder is a part of fusedce: import fusedce.kernels")
