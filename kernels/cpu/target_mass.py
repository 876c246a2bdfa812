"""The target masses of a row of classes: weight_j (factor target_j + shift).

Of distributions, and of class indices as one-hot rows.
"""

from fusedce.kernels.cpu.labels import count_ignored
from fusedce.kernels.cpu.load_store import masked_load, store
from fusedce.kernels.cpu.vector_loops import fill, loop, set_at
from fusedce.kernels.intrinsics import call7
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import (
    count_true,
    lane_bytes,
    lanes,
    width,
)


@loop
def count_nonzero(T, y, n):
    """The number of elements of y, (n,) T, that are not 0 (NaN counts)."""
    N = lanes(T)
    found = 0
    for j in range(0, n, width(N)):
        found += count_true(masked_load(y + j * lane_bytes(N), n - j, N(0)) != N(0))
    return found


@loop
def load_distribution(args, address, start, n, y):
    """y <- n targets of the row at ``address``, from class ``start`` on."""
    step = args.targets.cls
    call7(args.load_targets, address + start * step, 0, step, 1, n, y, 0)


@loop
def count_positive_labels(T, args, address, y):
    """The number of nonzero targets of a row; y: scratch memory, (STRIP,) T."""
    found = 0
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        load_distribution(args, address, start, n, y)
        found += count_nonzero(T, y, n)
    return found


@loop
def weigh_targets(T, y, n, factor, shift, weight):
    """y <- weight * (factor * y + shift); weight: address of (n,) T class weights, 0: none."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here, left = j * lane_bytes(N), n - j
        x = factor * masked_load(y + here, left, N(0)) + shift
        if weight != 0:
            x = x * masked_load(weight + here, left, N(0))
        store(y + here, x)


@loop
def load_masses(T, args, address, label, start, n, factor, y):
    """(address of n masses weight_j (factor target_j + shift) from class start on, n_ignored).

    The target of a row with a class index is one-hot. ``n_ignored`` targets equal ignore_index.
    y: scratch memory, (STRIP,) T; the masses are read in place where they are the targets.
    """
    shift = T(args.label_shift)
    weight = args.weight + start * lane_bytes(T) if args.weight != 0 else 0
    unchanged = factor == T(1) and shift == T(0) and weight == 0
    n_ignored = 0
    if args.sparse_targets:
        fill(T, y, n, T(0))
        if start <= label < start + n:
            set_at(T, y, label - start, T(1))
    elif unchanged and args.direct_targets:
        y = address + start * args.targets.cls
    else:
        load_distribution(args, address, start, n, y)
    if args.real_targets:
        n_ignored = count_ignored(T, y, n, T(args.ignore_value))
    if not unchanged:
        weigh_targets(T, y, n, factor, shift, weight)
    return y, n_ignored
