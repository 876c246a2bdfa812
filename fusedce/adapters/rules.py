"""Rules of the adapters. The key of compiled code on disk includes the content of this file."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fusedce.kernels.rule import RULES, Rule, rule
from fusedce.kernels.scalar import scalar, tiny, where


class ClampedLog(NamedTuple):
    """Cross-entropy of probabilities with the limits of PyTorch."""


@rule(ClampedLog)
def _clamped(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = min(-l, 100), and a gradient f' / p of at most 1e12."""
    T = type(p)
    floor = tiny(p)
    return min(-logp, T(100)), -min(T(1), where(p > floor, p, floor) * T(1e12)), T(0)


def convex(T, f, f1, f2):  # type: ignore[no-untyped-def]
    """A rule with max(f'', 0) for f''."""
    return f, f1, where(T(f2) < T(0), T(0), T(f2))


def bend(T, f, f1, f2):  # type: ignore[no-untyped-def]
    """A rule whose slope is f''."""
    return f1, f2, T(0)


def derived(rule: Any, change: Callable[..., Any]) -> Any:
    """A rule made from another by a function of its f, f' and f'', with the same parameters.

    Its type is an attribute of the type of the other: the key of a kernel on disk is the qualified
    name of that type.
    """
    params, name = type(rule), f"_{change.__name__}"
    made = vars(params).get(name)
    if made is None:
        where = {"__module__": params.__module__, "__qualname__": f"{params.__qualname__}.{name}"}
        made = type(name, (params,), {"__slots__": (), **where})
        setattr(params, name, made)
    if made not in RULES:  # new, or its class was unpickled from another process
        found = RULES[params]
        negative = None if found.negative is None else _changed(found.negative, change)
        RULES[made] = Rule(_changed(found.positive, change), negative, found.soft)
    return made(*rule)


def _changed(rule: Any, change: Callable[..., Any]) -> Any:
    change = scalar(change)

    def changed(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
        f, f1, f2 = rule(logp, logq, p, q, params)
        return change(type(p), f, f1, f2)

    return scalar(changed)
