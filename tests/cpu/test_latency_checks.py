"""A replayed call makes every check of an ordinary one; where it fails, no array is changed."""

from __future__ import annotations

import numpy as np
import pytest

import fusedce
from tests.cpu.latency import bits, count_ordinary_calls, data, forget

__all__ = ["count_ordinary_calls"]  # the fixture


def known(ordinary, fn, z, t, **options):
    """Prepare a call, and assert that the next call like it is replayed."""
    fn(z, t, **options)
    before = len(ordinary)
    fn(z, t, **options)
    assert len(ordinary) == before


def fails(error, text, fn, *args, **options):
    """The call raises this error with this text, and changes no array."""
    arrays = [a for a in (*args, *options.values()) if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error) as caught:
        fn(*args, **options)
    assert str(caught.value) == text
    assert [a.tobytes() for a in arrays] == before


def test_labels_are_still_checked(ordinary):
    z, t = data("index", np.float32, 0)
    grad = np.zeros_like(z)
    known(ordinary, fusedce.cross_entropy, z, t, grad_out=grad)
    t[3] = 5
    text = "target 5 at position 3 is out of range: 0 <= target < 5, or ignore_index=-100"
    fails(IndexError, text, fusedce.cross_entropy, z, t, grad_out=grad)
    fails(IndexError, text, fusedce.cross_entropy, z, t, grad_out=z)
    y = np.zeros((7, 5), int)
    known(ordinary, fusedce.focal, z, y)
    y[2, 1] = -1
    text = "target -1 at position (2, 1) is out of range: a label is 0 or 1, or ignore_index=-100"
    fails(IndexError, text, fusedce.focal, z, y)
    huge = np.arange(7, dtype=np.uint64) % 5
    fusedce.cross_entropy(z, huge)
    huge[4] = 2**64 - 100
    text = f"target {huge[4]} at position 4 is out of range: 0 <= target < 5, or ignore_index=-100"
    fails(IndexError, text, fusedce.cross_entropy, z, huge)


def test_outputs_are_still_checked(ordinary):
    fn = fusedce.cross_entropy
    z, t = data("index", np.float32, 0)
    memory = np.zeros(100, np.float32)
    grad, hess = memory[:35].reshape(7, 5), memory[35:70].reshape(7, 5)
    both = {"grad_out": grad, "hess_out": hess, "return_hessian": True}
    known(ordinary, fn, z, t, **both)
    only = "only grad_out=logits, the very same array, may be computed in place"
    shifted = memory[20:55].reshape(7, 5)
    fails(ValueError, f"grad_out overlaps hess_out in memory: {only}", fn, z, t,
          **both | {"hess_out": shifted})  # fmt: skip
    fails(ValueError, f"grad_out overlaps hess_out in memory: {only}", fn, z, t,
          **both | {"hess_out": grad})  # fmt: skip
    fails(ValueError, f"grad_out overlaps logits in memory: {only}", fn, shifted, t, **both)
    known(ordinary, fn, z, t, grad_out=z.copy())
    fails(ValueError, f"grad_out overlaps logits in memory: {only}", fn, grad, t, grad_out=shifted)
    labels = memory.view(np.int64)[:7]
    fails(ValueError, f"grad_out overlaps targets in memory: {only}", fn, z, labels, grad_out=grad)
    locked = grad.copy()
    locked.flags.writeable = False
    fails(ValueError, "grad_out must be writeable, got a read-only array", fn, z, t,
          grad_out=locked)  # fmt: skip
    for wrong in (np.zeros((5, 7), np.float32), np.zeros((7, 5))):
        text = (f"grad_out must have shape (7, 5) and dtype float32, got {wrong.shape} "
                f"and {wrong.dtype}")  # fmt: skip
        fails(ValueError, text, fn, z, t, grad_out=wrong)
    weight = memory[:7]
    known(ordinary, fn, z, t, grad_out=grad, sample_weight=np.ones(7, np.float32))
    fails(ValueError, f"grad_out overlaps sample_weight in memory: {only}", fn, z, t,
          grad_out=grad, sample_weight=weight)  # fmt: skip


def test_a_gradient_over_another_view_of_the_logits():
    """The gradient goes into another view of the logits, and into a separate array, in turn."""
    z, t = data("index", np.float32, 0)
    want = bits(fusedce.cross_entropy(z, t))
    for _ in range(3):
        same, apart = z.copy(), np.empty_like(z)
        assert bits(fusedce.cross_entropy(same, t, grad_out=same[:])) == want
        assert bits(fusedce.cross_entropy(z, t, grad_out=apart)) == want


def test_numbers_are_still_checked(ordinary):
    z, t = data("index", np.float32, 0)
    fn = fusedce.cross_entropy
    known(ordinary, fn, z, t, denominator=2)
    for value in (np.float32(2), np.int64(2), 2.0, np.array(2.0)):
        assert bits(fn(z, t, denominator=value)) == bits(fn(z, t, denominator=2))
    for value in (0, -3, 2**2000):
        with pytest.raises((ValueError, OverflowError)):
            fn(z, t, denominator=value)
    fails(ValueError, "denominator must be a finite number > 0, got -3", fn, z, t, denominator=-3)
    text = "denominator must be a finite number > 0, got nan"
    known(ordinary, fn, z, t, denominator=2.0)
    fails(ValueError, text, fn, z, t, denominator=float("nan"))
    weight = np.ones(5)
    known(ordinary, fn, z, t, weight=weight)
    weight[2] = np.inf
    fails(ValueError, "weight must be finite, got inf at 2", fn, z, t, weight=weight)
    p, y = data("probabilities", np.float32, 0)
    known(ordinary, fn, p, y, activation=None)
    p[6, 1] = 1.5
    text = "with activation=None logits are probabilities between 0 and 1, got 1.5 at position "
    fails(ValueError, text + "(6, 1)", fn, p, y, activation=None)


TWINS = [  # an option, a legal value, and a value of another type that compares equal
    ("label_smoothing", 1.0, True),
    ("label_smoothing", 0.0, False),
    ("z_loss", 0.0, False),
    ("logit_scale", 1.0, True),
    ("denominator", 1, True),
    ("axis", 1, True),
    ("axis", 1, 1.0),
    ("ignore_index", 1, True),
    ("ignore_index", 1, 1.0),
    ("return_grad", True, 1),
    ("normalize_targets", False, 0),
    ("validate", True, 1),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value", "twin"), TWINS)
def test_equal_is_not_the_same(option, value, twin, ordinary):
    """A value of a wrong type is an error even if a legal value that compares equal was used."""
    z, t = data("index", np.float32, 0)
    known(ordinary, fusedce.cross_entropy, z, t, **{option: value})
    with pytest.raises(TypeError, match=option):
        fusedce.cross_entropy(z, t, **{option: twin})


def test_signs_of_nought(ordinary):
    """0.0 and -0.0 compare equal, but as logit_scale they give results of different sign."""
    z, t = data("index", np.float32, 0)
    want = []
    for scale in (0.0, -0.0):
        forget()
        want.append(bits(fusedce.cross_entropy(z, t, logit_scale=scale)))
    assert want[0] != want[1]
    for k in (0, 1, 0, 1):
        assert bits(fusedce.cross_entropy(z, t, logit_scale=(0.0, -0.0)[k])) == want[k]


def test_unknown_words(ordinary):
    """Unknown keyword arguments are errors, also those that internal functions accept."""
    z, t = data("index", np.float32, 0)
    known(ordinary, fusedce.cross_entropy, z, t)
    for word in ("key", "params", "traits", "weights"):
        text = f"cross_entropy() got an unexpected keyword argument {word!r}"
        text += ": did you mean 'weight' (of classes) or 'sample_weight' (of rows)?" * (
            word == "weights"
        )
        fails(TypeError, text, fusedce.cross_entropy, z, t, **{word: 1})
