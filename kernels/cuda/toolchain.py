"""The only imports of numba-cuda, which is used as a compiler, and of CUDA's own libraries.

Importing needs no driver. numba.cuda must be NVIDIA's (the distribution numba-cuda), not the
deprecated one inside Numba.
"""

import contextlib
import importlib
import warnings
from collections.abc import Iterator

import numpy as np

INSTALL = "pip install 'fusedce[cuda13]', or 'fusedce[cuda12]' for a driver of CUDA 12"

try:
    # A .pth file imports this at start, but Python reads those in site-packages only: after
    # pip --target it must be imported here, or numba.cuda is the one inside Numba.
    import _numba_cuda_redirector  # noqa: F401
    from numba_cuda import __version__
except ImportError as error:
    raise ImportError(f"fusedce on a GPU needs numba-cuda: {INSTALL}") from error


@contextlib.contextmanager
def _numpy_compatible() -> Iterator[None]:
    """NumPy 2.5 has no row_stack, which numba-cuda 0.30 refers to, and warns about its time units.

    Both are worked around during the imports only.
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
    with _numpy_compatible():
        from cuda.bindings import driver, nvjitlink, nvvm
        from cuda.pathfinder import load_nvidia_dynamic_lib
        from numba import cuda

        if getattr(cuda, "implementation", None) == "NVIDIA":
            importlib.import_module("numba.cuda.np.arrayobj")  # not left to the first compilation
except Exception as error:  # searching for CUDA raises several types of errors
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
