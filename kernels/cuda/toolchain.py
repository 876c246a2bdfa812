"""The one door to numba.cuda, which is here a compiler only, and to CUDA itself: no driver needed.

It must be NVIDIA's (the distribution numba-cuda), not the deprecated one inside Numba, and it must
be imported in a way that works beside NumPy 2.5.
"""

import contextlib
import importlib
import warnings
from collections.abc import Iterator

import numpy as np

INSTALL = "pip install 'fusedce[cuda13]', or 'fusedce[cuda12]' for a driver of CUDA 12"

try:
    # Where pip --target put it, NVIDIA's is not found unless this is imported first: a .pth file
    # does that, but Python reads those in site-packages only.
    import _numba_cuda_redirector  # noqa: F401
    from numba_cuda import __version__
except ImportError as error:
    raise ImportError(f"fusedce on a GPU needs numba-cuda: {INSTALL}") from error


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """NumPy 2.5 lacks row_stack, which numba-cuda 0.30 names, and warns of what it does with times.

    For the imports alone: nobody else finds the name, or misses a warning.
    """
    lacking = not hasattr(np, "row_stack")
    if lacking:
        vars(np)["row_stack"] = np.vstack
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if lacking:
            del vars(np)["row_stack"]


try:
    with _as_before():
        from cuda.bindings import driver, nvjitlink, nvvm
        from cuda.pathfinder import load_nvidia_dynamic_lib
        from numba import cuda

        if getattr(cuda, "implementation", None) == "NVIDIA":
            importlib.import_module("numba.cuda.np.arrayobj")  # else the first compilation does it
except Exception as error:  # CUDA's runtime is looked for: the errors are of several types
    raise ImportError(f"numba-cuda cannot be imported ({error}): {INSTALL}") from error
if getattr(cuda, "implementation", None) != "NVIDIA":
    raise ImportError(
        "numba.cuda is the one inside Numba, imported before fusedce could choose numba-cuda's: "
        "import _numba_cuda_redirector ahead of it"
    )
if cuda.config.ENABLE_CUDASIM:
    raise ImportError("fusedce does not run in Numba's CUDA simulator: unset NUMBA_ENABLE_CUDASIM")

from numba.cuda import cgutils, dispatcher, models, types  # noqa: E402
from numba.cuda.extending import (  # noqa: E402
    intrinsic,
    lower_builtin,
    lower_cast,
    overload,
    register_model,
)

__all__ = [
    "INSTALL",
    "__version__",
    "cgutils",
    "cuda",
    "dispatcher",
    "driver",
    "intrinsic",
    "load_nvidia_dynamic_lib",
    "lower_builtin",
    "lower_cast",
    "models",
    "nvjitlink",
    "nvvm",
    "overload",
    "register_model",
    "types",
]
