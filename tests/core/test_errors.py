"""Every error text, word for word; a call that fails changes none of its arrays."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import fusedce
from fusedce.losses import LOSSES as DECLARED
from fusedce.losses.cross_entropy import CrossEntropy
from fusedce.options import Options


def applied(logits, targets, **options):
    return fusedce.apply(CrossEntropy(), logits, targets, **options)


LOSSES = {name: getattr(fusedce, name) for name in DECLARED} | {"apply": applied}
DEFAULT = {name: loss.activations[0] for name, loss in DECLARED.items()} | {"apply": "softmax"}
FINITE, NOT_NEGATIVE = "a finite number", "a finite number >= 0"
POSITIVE, UNIT = "a finite number > 0", "in [0, 1]"
each_loss = pytest.mark.parametrize("name", LOSSES)


class OnGpu:
    """The interface by which a GPU array is recognized, without a GPU."""

    __cuda_array_interface__ = property(lambda self: {"shape": (4, 3), "typestr": "<f4"})


OnGpu.__module__ = "cupy.core"


def Z(dtype=np.float32, shape=(4, 3)):
    return np.full(shape, 0.25, dtype)


def K(*labels):
    return np.array(labels or [0, 1, 2, 1])


def dense(value=0):
    return np.full((4, 3), value)


def fails(fn, args, options, error, text):
    """The call raises this error with this text, and changes none of its arrays."""
    arrays = [a for a in (*args, *options.values()) if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error) as caught:
        fn(*args, **options)
    assert type(caught.value) is error
    assert str(caught.value) == text
    assert [a.tobytes() for a in arrays] == before


def out_of(low, high, value):
    return f"axis must be between {low} and {high}, got {value}"


COMMON = [  # options, error, text: for each loss, with logits (4, 3) and class indices
    ({"axis": 2}, ValueError, out_of(-2, 1, 2)),
    ({"axis": -3}, ValueError, out_of(-2, 1, -3)),
    ({"axis": 1.0}, TypeError, "axis must be an int, got 1.0"),
    ({"axis": True}, TypeError, "axis must be an int, got True"),
    ({"axis": None}, TypeError, "axis must be an int, got None"),
    ({"activation": "tanh"}, ValueError,
     "activation must be one of 'softmax', 'sigmoid', None, got 'tanh'"),
    ({"activation": 0}, ValueError,
     "activation must be one of 'softmax', 'sigmoid', None, got 0"),
    ({"reduction": "avg"}, ValueError,
     "reduction must be one of 'mean', 'sum', 'none', got 'avg'"),
    ({"reduction": None}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got None"),
    ({"neg_label": 1}, ValueError, "neg_label must be one of 0, -1, got 1"),
    ({"return_grad": 1}, TypeError, "return_grad must be True or False, got 1"),
    ({"return_hessian": "yes"}, TypeError, "return_hessian must be True or False, got 'yes'"),
    ({"normalize_targets": None}, TypeError, "normalize_targets must be True or False, got None"),
    ({"validate": 2}, TypeError, "validate must be True or False, got 2"),
    ({"ignore_index": 1.0}, TypeError, "ignore_index must be an int, got 1.0"),
    ({"ignore_index": None}, TypeError, "ignore_index must be an int, got None"),
    ({"ignore_index": 2**63}, ValueError, f"ignore_index must fit in 64 bits, got {2**63}"),
    ({"weights": 1}, TypeError, "{name}() got an unexpected keyword argument 'weights': did you "
     "mean 'weight' (of classes) or 'sample_weight' (of rows)?"),
    ({"class_weight": 1}, TypeError, "{name}() got an unexpected keyword argument 'class_weight': "
     "did you mean 'weight'?"),
    ({"ignore_idx": 1}, TypeError, "{name}() got an unexpected keyword argument 'ignore_idx': "
     "did you mean 'ignore_index'?"),
    ({"zz": 1, "aa": 2}, TypeError, "{name}() got an unexpected keyword argument 'aa'"),
    ({"weight": np.ones(4)}, ValueError, "weight must have shape (3,), got (4,)"),
    ({"weight": 2.0}, ValueError, "weight must have shape (3,), got ()"),
    ({"weight": np.ones((3, 1))}, ValueError, "weight must have shape (3,), got (3, 1)"),
    ({"weight": [1, np.nan, 1]}, ValueError, "weight must be finite, got nan at 1"),
    ({"weight": [1, 1, -np.inf]}, ValueError, "weight must be finite, got -inf at 2"),
    ({"weight": ["a", "b", "c"]}, TypeError, "weight must hold real numbers, got <U1"),
    ({"weight": np.ones(3, complex)}, TypeError, "weight must hold real numbers, got complex128"),
    ({"sample_weight": np.ones(3, object)}, TypeError,
     "sample_weight must hold real numbers, got object"),
    ({"denominator": 2.0, "reduction": "sum"}, ValueError,
     "denominator=2.0 has no meaning with reduction='sum'"),
    ({"denominator": 2, "reduction": "none"}, ValueError,
     "denominator=2.0 has no meaning with reduction='none'"),
    ({"grad_out": Z(), "return_grad": False}, ValueError,
     "grad_out was given but return_grad=False"),
    ({"hess_out": Z()}, ValueError, "hess_out was given but return_hessian=False"),
]  # fmt: skip
NUMBERS = [  # option, what is allowed, values that are not allowed
    ("label_smoothing", UNIT, [-0.1, 1.5, np.nan, np.inf]),
    ("z_loss", FINITE, [np.nan, np.inf]),
    ("softcap", POSITIVE, [0.0, -1.0, np.nan, np.inf]),
    ("logit_scale", FINITE, [np.nan, -np.inf]),
    ("denominator", POSITIVE, [0, -2.0, np.nan, np.inf]),
]
OWN = [
    ("focal", "gamma", NOT_NEGATIVE, [-0.5, np.nan, np.inf]),
    ("focal", "alpha", "None or in [0, 1]", [-0.25, 1.5, np.nan]),
    ("poly1", "epsilon", "a finite number >= -1", [-1.5, np.nan]),
    ("asymmetric", "gamma_pos", NOT_NEGATIVE, [-1.0, np.nan]),
    ("asymmetric", "gamma_neg", NOT_NEGATIVE, [-1.0, np.inf]),
    ("asymmetric", "clip", "in [0, 1)", [-0.05, 1.0, np.nan]),
    ("generalized_cross_entropy", "q", "in (0, 1]", [0.0, 1.5, -1.0, np.nan]),
]
ALL_NUMBERS = [(loss, *row) for row in NUMBERS for loss in LOSSES] + OWN


@each_loss
@pytest.mark.parametrize(("options", "error", "text"), COMMON, ids=lambda v: str(v)[:40])
def test_options(name, options, error, text):
    fails(LOSSES[name], (Z(), K()), options, error, text.format(name=name))


@pytest.mark.parametrize(("name", "option", "allowed", "values"), ALL_NUMBERS)
def test_numbers(name, option, allowed, values):
    text = f"{option} must be {allowed}, got "
    for value in values:
        fails(LOSSES[name], (Z(), K()), {option: value}, ValueError, f"{text}{value!r}")
    for value in ("1", True, 1j, [0.5], np.ones(1)):
        more = ": pass weight= for classes" if option == "alpha" and np.ndim(value) else ""
        fails(LOSSES[name], (Z(), K()), {option: value}, TypeError, f"{text}{value!r}{more}")


@pytest.mark.parametrize("name", DECLARED)
def test_own_numbers(name):
    """Each numeric parameter of a listed loss is checked, and the error names it."""
    for option, parameter in inspect.signature(LOSSES[name]).parameters.items():
        if option in Options._fields or not isinstance(parameter.default, float):
            continue
        for value in ("1", True, 1j, [0.5], np.ones(1), np.nan, np.inf):
            error = ValueError if isinstance(value, float) else TypeError
            with pytest.raises(error, match=f"^{option} must be "):
                LOSSES[name](Z(), K(), **{option: value})


@each_loss
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.complex64, object, np.longdouble])
def test_logits_of_another_dtype(name, dtype):
    text = f"logits must be float64, float32, float16 or bfloat16, got {np.dtype(dtype)}"
    fails(LOSSES[name], (Z(dtype), K()), {}, TypeError, text)


@each_loss
def test_targets(name):
    """Wrong shapes and dtypes of targets; targets with one axis fewer are class indices."""
    kind = "a distribution" if DEFAULT[name] == "softmax" else "a label for each element"
    for t in (
        K(0, 1, 2),
        np.zeros((4, 1), int),
        np.zeros((3, 4)),
        np.zeros(()),
        np.zeros((4, 3, 1)),
        [],
    ):
        text = (
            f"targets must have shape (4,) (class indices) or (4, 3) ({kind}) "
            f"for logits of shape (4, 3) and axis=1, got {np.shape(t)}"
        )
        fails(LOSSES[name], (Z(), t), {}, ValueError, text)
    for dtype in (bool, np.float32, np.float64):
        t = K().astype(dtype)
        text = (
            f"class indices must be integers, got targets of dtype {t.dtype} and shape (4,) "
            "for logits of shape (4, 3)"
        )
        fails(LOSSES[name], (Z(), t), {}, TypeError, text)
    for t in (K().astype(str), K().astype(complex), K().astype("M8[s]"), dense().astype(object)):
        text = f"targets must be integers, booleans or floats, got {t.dtype}"
        fails(LOSSES[name], (Z(), t), {}, TypeError, text)
    s = np.ones((3,))
    shape = (4,) if DEFAULT[name] == "softmax" else (4, 3)
    text = f"sample_weight must have shape (4,) or that of the unreduced loss, {shape}, got (3,)"
    fails(LOSSES[name], (Z(), K()), {"sample_weight": s}, ValueError, text)
    z = Z(shape=(3, 0))
    if DEFAULT[name] == "softmax":
        text = "logits must have at least one class, got shape (3, 0) and axis=-1"
        fails(LOSSES[name], (z, K(0, 0, 0)), {}, ValueError, text)


RANGES = {
    "softmax": (3, "0 <= target < 3"),
    None: (3, "0 <= target < 3"),
    "sigmoid": (4, "0 <= target <= 3 (3: background)"),
}


@each_loss
@pytest.mark.parametrize("activation", RANGES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_class_indices_out_of_range(name, activation, reduction):
    """Bad labels are found before anything is written; the error gives the first one's position."""
    if name in DECLARED and not DECLARED[name].any_activation and activation != "sigmoid":
        return
    first, allowed = RANGES[activation]
    cases = [(np.int64, v, p) for v in (first, -1, -101, 2**40, -(2**63)) for p in (0, 3)]
    cases += [(np.uint8, 255, 2), (np.int8, -128, 1), (np.uint64, 2**64 - 1, 1)]
    cases += [(np.uint16, 2**16 - 100, 0), (np.uint32, 2**32 - 100, 1)]
    for dtype, label, position in cases:
        t = K().astype(dtype)
        t[position] = label
        t[3] = label  # a second bad label, which is not reported
        end = f"is out of range: {allowed}, or ignore_index=-100"
        text = f"target {label} at position {position} {end}"
        options = {"activation": activation, "reduction": reduction}
        z = Z()
        loss = np.zeros(() if reduction != "none" else (4, 3) if activation == "sigmoid" else (4,),
                        np.float32)  # fmt: skip
        for outs in ({}, {"grad_out": z}, {"grad_out": Z(), "loss_out": loss},
                     {"hess_out": Z(), "return_hessian": True, "grad_out": z}):  # fmt: skip
            fails(LOSSES[name], (z, t), options | outs, IndexError, text)


@pytest.mark.parametrize("activation", RANGES)
def test_unsigned_labels_do_not_wrap_to_ignore_index(activation):
    """uint64 2**64 - 100 has the bits of -100, but it is out of range and not ignore_index."""
    t = np.array([0, 1, 2**64 - 100, 2], np.uint64)
    allowed = RANGES[activation][1]
    text = f"target {2**64 - 100} at position 2 is out of range: {allowed}, or ignore_index=-100"
    options = {"activation": activation}
    fails(fusedce.cross_entropy, (Z(), t), options, IndexError, text)


def test_position_of_a_bad_label():
    """The error gives an index into targets: several axes, any layout, large arrays."""
    z, t = Z(shape=(2, 3, 4, 5)), np.zeros((2, 4, 5), np.int32)
    t[1, 2, 3] = t[1, 3, 0] = 7
    end = "is out of range: 0 <= target < 3, or ignore_index=-1"
    options = {"axis": 1, "ignore_index": -1}
    text = f"target 7 at position (1, 2, 3) {end}"
    fails(fusedce.cross_entropy, (z, t), options, IndexError, text)
    fails(fusedce.cross_entropy, (z, np.asfortranarray(t)), options, IndexError, text)
    fails(fusedce.cross_entropy, (Z(shape=3), np.array(-100)), {"ignore_index": -1}, IndexError,
          f"target -100 at position () {end}")  # fmt: skip
    t = np.zeros(100_001, np.int64)
    t[[77_777, 99_999]] = 3
    for labels in (t, np.repeat(t, 2)[::2], np.ascontiguousarray(t[::-1])[::-1]):
        fails(fusedce.cross_entropy, (Z(shape=(100_001, 3)), labels), {"ignore_index": -1},
              IndexError, f"target 3 at position 77777 {end}")  # fmt: skip


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "poly1"])
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_dense_labels_out_of_range(name, activation):
    for neg, bad in ((0, 2), (0, -1), (-1, 0), (-1, 2)):
        t = dense(1)
        t[2, 1] = bad
        text = (
            f"target {bad} at position (2, 1) is out of range: a label is {neg} or 1, "
            "or ignore_index=-100"
        )
        z, options = Z(), {"activation": activation, "neg_label": neg}
        for targets in (t, t.astype(np.int8), np.asfortranarray(t)):
            fails(LOSSES[name], (z, targets), {"grad_out": z, **options}, IndexError, text)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "apply"])
def test_probabilities_out_of_range(name):
    for value in (-0.25, 1.5, np.inf, -np.inf):
        z = Z(np.float64)
        z[3, 1] = value
        z[0, 0] = np.nan  # NaN is accepted
        text = (
            "with activation=None logits are probabilities between 0 and 1, "
            f"got {value} at position (3, 1)"
        )
        for t in (K(), dense()):
            options = {"activation": None, "grad_out": z}
            fails(LOSSES[name], (z, t), options, ValueError, text)
