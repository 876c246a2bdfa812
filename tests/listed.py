"""The cases of the numeric tests, from the list of losses in fusedce/losses/__init__.py.

A case is named like the loss, "focal", for the first of its option sets, and like the loss with the
values of its options, "focal 3.7", for the others. A loss without a reference has no case:
test_listed.py says so.
"""

from __future__ import annotations

import numpy as np

from fusedce.losses import LOSSES as DECLARED

# The losses tested numerically. Aliases are not among them: test_listed.py compares their bits.
LOSSES = {
    name: loss
    for name, loss in DECLARED.items()
    if loss.alias_of is None and loss.reference is not None
}


def representable(options):
    """The options with numbers rounded to float32, so that neither dtype rounds them again."""
    return {k: float(np.float32(v)) for k, v in options.items()}


def named(loss):
    """Two dicts {name of a case: options} of a loss: for every test, and for the accuracy tests."""
    sets = [*loss.options, *loss.more_options]
    values = [" ".join(f"{v:g}" for v in one.values()) for one in sets]
    names = [loss.name, *(f"{loss.name} {text}" for text in values[1:])]
    cases = dict(zip(names, map(representable, sets), strict=True))
    return dict(list(cases.items())[: len(loss.options)]), cases


# {name of a case: own options}
RULES = {k: v for loss in LOSSES.values() for k, v in named(loss)[0].items()}
ALL_RULES = {k: v for loss in LOSSES.values() for k, v in named(loss)[1].items()}


def of(name):
    """The loss of a case."""
    return LOSSES[name.split()[0]]


def competing(cases):
    """The cases whose loss allows the softmax activation."""
    return [name for name in cases if of(name).any_activation]


def inexact_power(own):
    """Whether an exponent is not an integer: the float32 tolerance is larger then."""
    exponents = {name for loss in LOSSES.values() for name in loss.exponents}
    return any(float(v) % 1 for k, v in own.items() if k in exponents)
