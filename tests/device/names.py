"""Kernels by name, so that one process can tell another which to compile."""

from __future__ import annotations

import functools
import importlib

from fusedce.kernels.cuda.kernel_args import Kernel


def written(kernel, threads):
    """A kernel and its threads as JSON can hold them."""
    return word(kernel.factory), [word(t) for t in kernel.types], kernel.registers, threads


def word(thing):
    """(module, name) of a function or a type; numbers, words and None stand for themselves."""
    if isinstance(thing, (int, str, type(None))):
        return thing
    return [thing.__module__, thing.__qualname__]


def found(factory, types, registers, threads):
    """The (kernel, threads) of what ``written`` returns; LookupError for a name that is gone."""
    return Kernel(named(factory), tuple(map(named, types)), registers), threads


def named(thing):
    if not isinstance(thing, (list, tuple)):
        return thing
    module, name = thing
    place = importlib.import_module(module)
    here = functools.reduce(lambda at, part: getattr(at, part, None), name.split("."), place)
    return here if here is not None else in_tables(module)[name]


@functools.cache
def in_tables(module):
    """The types of a module that are only in one of its tables, not module attributes, by name."""
    tables = [v for v in vars(importlib.import_module(module)).values()
              if isinstance(v, (dict, list, tuple))]  # fmt: skip
    things = [t for v in tables for t in (v.values() if isinstance(v, dict) else v)]
    return {t.__qualname__: t for t in things if isinstance(t, type)}
