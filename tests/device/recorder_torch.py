"""The part of recorder.py for test_gpu_torch.py: CPU tensors take the place of GPU tensors."""

from __future__ import annotations

import contextlib
from unittest import mock

import torch

from fusedce.adapters import torch_operators
from fusedce.backends import array_libraries
from fusedce.backends.array_libraries import Layout
from tests.device.recorder import Array

to = torch.Tensor.to


def moved(tensor, *args, **options):
    """``Tensor.to``, but "cuda" means the CPU: the tensor stays there."""
    return to(tensor, *("cpu" if a == "cuda" else a for a in args), **options)


def array(tensor):
    """The layout of a tensor, as the array that fusedce is called with."""
    if tensor is None:
        return None
    dtype = array_libraries._from_torch(tensor.dtype)
    strides = tuple(step * dtype.itemsize for step in tensor.stride())
    return Array(Layout(tensor.data_ptr(), tuple(tensor.shape), strides, dtype, 0))


def install():
    """Replace torch's CUDA functions; a test that uses one not replaced here fails."""
    torch.cuda.is_available = lambda: True
    torch.Tensor.to, torch.Tensor.cuda = moved, lambda tensor, **_: tensor.clone()
    torch.cuda.Stream = torch.cuda.set_sync_debug_mode = mock.MagicMock()
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    torch.testing.assert_close, torch.compile = mock.MagicMock(), lambda function, **_: function
    torch_operators._array, torch_operators.hugepages = array, mock.MagicMock()
    # On a GPU no gradient is kept from the forward pass.
    torch_operators._ones = mock.MagicMock(**{"get.return_value": False})
