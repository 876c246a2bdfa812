"""The cases of the numeric tests, from the list of losses in fusedce/losses/__init__.py.

A case is named like the loss, "focal", for the first of its option sets, and like the loss with the
values of its options, "focal 3.7", for the others. A loss without a reference has no case:
test_listed.py says so.
"""

from __future__ import annotations

import numpy as np

from fusedce.losses import LOSSES as DECLARED

# Those that are tested by numbers: not aliases, whose bits are compared (test_listed.py).
LOSSES = {
    name: loss
    for name, loss in DECLARED.items()
    if loss.alias_of is None and loss.reference is not None
}


def representable(options):
    """Options whose numbers are float32, so that none is rounded in either dtype."""
    return {k: float(np.float32(v)) for k, v in options.items()}


def named(loss):
    """{name of a case: options} of a loss: of every test, of the tests of accuracy."""
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
    """The cases that softmax is possible with."""
    return [name for name in cases if of(name).any_activation]


def inexact_power(own):
    """Whether an exponent is no whole number: float32 results may have a larger error then."""
    exponents = {name for loss in LOSSES.values() for name in loss.exponents}
    return any(float(v) % 1 for k, v in own.items() if k in exponents)
