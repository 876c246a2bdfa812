"""A kernel as plain Python: every function that it reaches, copied, with twins put in.

What a device runs natively (intrinsics) or looks up by types (``@overload``) has no Python body
that could run; the copies find, under the same names, functions that do the same.
"""

from __future__ import annotations

import functools
import types as python
from typing import Any

import numpy as np
from numba.core import types
from numba.core.typing.templates import builtin_registry
from numba.cuda.typing import templates as cuda_templates

from fusedce.kernels.cuda.plan import Plan
from fusedce.kernels.rule import RULES
from fusedce.kernels.vector import Single, Wide
from tests.simulator_numbers import (
    BUILTINS,
    ELEMENTARY,
    TWINS,
    UNITS,
    Int32,
    Int64,
    Undecided,
    dtype_of,
    lanes,
    number_class,
    type_of,
)

BOUND: dict[Any, Any] = {}
MISSING = object()


class _NumPy:
    """NumPy with whole numbers that notice when they overflow."""

    int32, int64 = Int32, Int64

    def __getattr__(self, name):
        return getattr(np, name)


@functools.cache
def _overloads():
    """The builder of each stub: the device's own where it has one."""
    found = {}
    for registry in (builtin_registry, cuda_templates.builtin_registry):
        for template in registry.functions:
            builder = getattr(template, "_overload_func", None)
            target = getattr(template, "metadata", {}).get("target", "generic")
            if builder is not None and target in ("generic", "cuda"):
                known = found.get(template.key)
                if known is None or target == "cuda":
                    found[template.key] = builder
    return found


def _kind(x):
    """What a builder may choose by, more or less: its answers are kept under it."""
    if isinstance(x, type):
        return x
    if isinstance(x, tuple) and not isinstance(x, Plan):
        return type(x), *map(_kind, x)
    return getattr(x, "kind", None) or type(x)


def _looked_up(stub, builder):
    """A stub that chooses its body by the types of what it is called with."""
    bodies = {}

    def twin(*args):
        key = tuple(map(_kind, args))
        body = bodies.get(key)
        if body is None:
            made = builder(*map(type_of, args))
            if made is None:
                raise TypeError(f"{stub.__name__} has no body for {key}")
            body = bodies[key] = bound(made)
        return body(*args)

    return twin


def _elementary(stub, exact):
    """A function of NumPy's, or, of float32 and units that are not exact, the device's."""
    device = functools.cache(lambda: _looked_up(stub, _overloads()[stub]))

    def twin(x):
        single = dtype_of(type(x)) is np.float32
        return device()(x) if single and UNITS.seed is not None else exact(x)

    return twin


def _unknown(name):
    def twin(*args):
        raise NotImplementedError(f"{name} has no twin in tests/simulator*.py")

    return twin


def bound(value):
    """What a copied function finds in place of a value."""
    try:
        found = BOUND.get(value, MISSING)
    except TypeError:  # not hashable: no function
        return value
    if found is not MISSING:
        return found
    if value in TWINS:
        made = TWINS[value]
    elif value in ELEMENTARY:
        made = _elementary(value, ELEMENTARY[value])
    elif hasattr(value, "py_func"):
        made = bound(value.py_func)
    elif isinstance(value, types.Type):
        made = number_class(value) or value
    elif type(value).__name__ == "_Intrinsic":
        made = _unknown(value._name)
    elif value is np:
        made = _NumPy()
    elif isinstance(value, type):
        made = {np.int32: Int32, np.int64: Int64}.get(value, value)
    elif isinstance(value, python.FunctionType) and value.__module__.startswith(OURS):
        builder = _overloads().get(value)
        return _copied(value) if builder is None else _kept(value, _looked_up(value, builder))
    else:
        return value
    return _kept(value, made)


OURS = ("fusedce", "tests", "test_", "__main__")


def _kept(value, made):
    BOUND[value] = made
    return made


def _names(code):
    """Every name that a function or one within it may look up."""
    inner = (c for c in code.co_consts if isinstance(c, python.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _copied(fn):
    """The same code with other surroundings."""
    surroundings: dict[str, Any] = dict(BUILTINS)
    cells = tuple(python.CellType() for _ in fn.__code__.co_freevars)
    made = python.FunctionType(
        fn.__code__, surroundings, fn.__name__, fn.__defaults__, cells or None
    )
    made.__kwdefaults__ = fn.__kwdefaults__
    BOUND[fn] = made  # before what it names, which may name it
    for name in _names(fn.__code__):
        if name in fn.__globals__:
            surroundings[name] = bound(fn.__globals__[name])
    for cell, original in zip(cells, fn.__closure__ or (), strict=True):
        cell.cell_contents = bound(original.cell_contents)
    return made


@functools.cache
def takes_lanes(rule):
    """Whether a rule compiles for several lanes: no ``if`` that they would have to decide."""
    N = lanes(np.float64, 2)
    x, params = N(0.5), rule(*[np.float64(1)] * len(rule._fields))
    found = RULES[rule]
    try:
        for fn in (found.positive, found.negative):
            if fn is not None:
                bound(fn)(-x, -x, x, x, params)
        if found.soft is not None:
            bound(found.soft)(-x, -x, x, x, x, params)
    except Undecided:
        return False
    return True


def body_of(kernel):
    """A kernel as plain Python; as ``compile.cubin`` does, with one lane where a rule needs it."""
    rules = [t for t in kernel.types if isinstance(t, type) and t in RULES]
    single = not all(map(takes_lanes, rules))
    kinds = (Single if t is Wide and single else t for t in kernel.types)
    return bound(kernel.factory(*kinds))
