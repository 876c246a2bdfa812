"""Random layouts of all arrays against the oracle: strides, axis orders, offsets, broadcast axes.

Losses, dtypes and options come from a short list, so that many layouts share one compiled kernel;
layouts are drawn at random. The environment variable LAYOUTS sets the total number of examples.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fusedce
from fusedce.backends import cpu_replay
from fusedce.kernels import tuning
from tests.core.test_activations import close
from tests.core.test_losses import DTYPES, RULES, agree, bar, make
from tests.reference import reference

EXAMPLES = int(os.environ.get("LAYOUTS", "400"))
FILL = 77  # fills the memory between and around the elements of an array
CLASSES = 1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 33, 63, 64, 65, 130, 300
MOST = 6000  # the largest number of logits of an example


class Loss(NamedTuple):
    """A loss function with its options and dtypes; the arrays are drawn separately."""

    rule: str
    activation: str | None
    form: str
    dtype: str
    labels: str  # dtype of the targets
    options: dict[str, Any]


LOSSES = [
    Loss("cross_entropy", "softmax", "index", "float32", "int64", {}),
    Loss("cross_entropy", "softmax", "index", "bfloat16", "int32", {"ignore_index": 0}),
    Loss("focal", "softmax", "index", "float16", "uint8", {"softcap": 20.0}),
    Loss("cross_entropy", "softmax", "index", "float64", "int16", {"label_smoothing": 0.125}),
    Loss("cross_entropy", "softmax", "soft", "float32", "float32", {}),
    Loss("cross_entropy", "softmax", "soft", "bfloat16", "float16", {"z_loss": 0.125}),
    Loss("cross_entropy", "softmax", "soft", "float16", "float64", {"normalize_targets": True}),
    Loss("cross_entropy", "sigmoid", "int", "float32", "int32", {"ignore_index": 0}),
    Loss("focal", "sigmoid", "soft", "bfloat16", "float32", {}),
    Loss("focal", "sigmoid", "int", "float32", "float16", {"ignore_index": 0}),
    Loss("focal", "sigmoid", "index", "float16", "int64", {"ignore_index": 1}),
    Loss("cross_entropy", None, "index", "float64", "int64", {"label_smoothing": 0.125}),
    Loss("cross_entropy", None, "int", "float32", "bool", {}),
]
ACTIVATIONS = [
    ("softmax", "float32"), ("softmax", "bfloat16"), ("log_softmax", "float64"),
    ("log_softmax", "float16"), ("sigmoid", "float32"), ("log_sigmoid", "bfloat16"),
]  # fmt: skip
PARTS = len(LOSSES) + len(ACTIVATIONS)
losses = pytest.mark.parametrize(
    "loss", LOSSES, ids=lambda a: f"{a.rule}-{a.activation}-{a.form}-{a.dtype}"
)
activations = pytest.mark.parametrize(("name", "dtype"), ACTIVATIONS)
examples = settings(
    max_examples=max(1, EXAMPLES // PARTS), derandomize=True, deadline=None, database=None
)


# --------------------------------------------------------------------------- layouts


class Layout(NamedTuple):
    """Where the elements of an array lie in memory. Each tuple has one entry per axis."""

    order: tuple[int, ...]  # the axes in memory order, the innermost last
    steps: tuple[int, ...]  # stride in elements; negative: backwards
    gaps: tuple[tuple[int, int], ...]  # unused elements before and after the axis
    lone: tuple[int, ...]  # the stride in bytes of an axis of length 1
    repeated: tuple[bool, ...]  # whether the axis is broadcast, with stride 0
    offset: int = 0  # unused elements before everything
    byte: int = 0  # bytes added to the address; 1: unaligned


@st.composite
def layouts(draw, ndim, written=False, byte=True):
    """Strategy: a layout; an array that is written is aligned and has no broadcast axes."""
    no = (False,) * ndim
    if draw(st.integers(0, 3)) == 0:  # contiguous
        return Layout(tuple(range(ndim)), (1,) * ndim, ((0, 0),) * ndim, (8,) * ndim, no)

    def each(values, otherwise):
        some = st.tuples(*[st.sampled_from(values)] * ndim)
        return draw(st.one_of(st.just((otherwise,) * ndim), some))

    return Layout(
        tuple(draw(st.permutations(range(ndim)))),
        each([1, 1, 2, 3, -1, -2], 1),
        each([(0, 0), (0, 1), (1, 0), (3, 2), (0, 4)], (0, 0)),
        each([8, 0, -4, 3, 1 << 40], 8),
        no if written else each([False, False, True], False),
        draw(st.integers(0, 17)),
        draw(st.sampled_from([0] * 7 + [1])) if byte and not written else 0,
    )


class Placed(NamedTuple):
    """An array, and the larger memory that contains it."""

    array: np.ndarray
    memory: np.ndarray

    def outside(self):
        """The bytes of the memory, with zeros in place of the array's own elements."""
        kept = self.array.copy()
        self.array[...] = 0
        found = self.memory.copy()
        self.array[...] = kept
        return found.tobytes()


def thinned(a, layout):
    """Fill each repeated axis with its first element, in place."""
    for axis, repeats in enumerate(layout.repeated):
        if repeats:
            a[...] = np.take(a, [0], axis)
    return a


def placed(a, layout):
    """Copy ``a``, a result of ``thinned``, to new memory with this layout."""
    a = np.asarray(a)
    first = tuple(slice(0, 1 if r else None) for r in layout.repeated)
    few = a[first]
    span = [
        max(0, (n - 1) * abs(step)) + 1 for n, step in zip(few.shape, layout.steps, strict=True)
    ]
    room = [low + n + high for n, (low, high) in zip(span, layout.gaps, strict=True)]
    size = int(np.prod(room, dtype=int))
    raw = np.empty((layout.offset + size) * a.itemsize + layout.byte, np.uint8)
    memory = np.ndarray(layout.offset + size, a.dtype, raw, layout.byte)
    memory[...] = True if a.dtype == bool else FILL
    view = memory[layout.offset :].reshape([room[k] for k in layout.order])
    view = view.transpose(np.argsort(layout.order))
    for axis, (step, (low, _)) in enumerate(zip(layout.steps, layout.gaps, strict=True)):
        piece = slice(low, low + span[axis])
        view = view[(slice(None),) * axis + (piece,)][
            (slice(None),) * axis + (slice(None, None, step),)
        ]
    view[...] = few
    lone = [n == 1 for n in a.shape]
    strides = [
        other if alone else 0 if repeats else stride
        for alone, other, repeats, stride in zip(
            lone, layout.lone, layout.repeated, view.strides, strict=True
        )
    ]
    return Placed(np.lib.stride_tricks.as_strided(view, a.shape, strides), memory)


# --------------------------------------------------------------------------- calls


@st.composite
def shapes(draw, classes):
    """Strategy: (shape, class axis), with one to four axes."""
    n = draw(st.sampled_from(classes))
    rest = draw(st.lists(st.sampled_from([1, 2, 3, 5, 8, 33]), max_size=3))
    while np.prod(rest, dtype=int) * n > MOST:
        rest.remove(max(rest))
    axis = draw(st.integers(0, len(rest)))
    return (*rest[:axis], n, *rest[axis:]), axis


class Case(NamedTuple):
    """A call: its arrays by argument name, and its other options."""

    inputs: dict[str, Placed]
    outputs: dict[str, Placed]
    options: dict[str, Any]


def weights(draw, rng, loss, shape, axis):
    """Weight arrays by argument name, before they get a layout."""
    rows = tuple(np.delete(shape, axis))
    by_row = loss.activation == "softmax" or (loss.activation is None and loss.form == "index")
    found = {}
    if draw(st.booleans()):
        found["weight"] = rng.integers(0, 9, shape[axis]) / 4
    if loss.activation == "sigmoid" and draw(st.booleans()):
        found["pos_weight"] = rng.integers(0, 9, shape[axis]) / 4
    kind = draw(st.sampled_from([None, "rows", "first", "all"]))
    if kind is not None:
        whole = rows if by_row else shape
        wanted = {"rows": rows, "first": whole[:1], "all": whole}[kind]
        found["sample_weight"] = np.asarray(rng.integers(-4, 9, wanted) / 4)
    kinds = draw(st.sampled_from(["float32", "float64", "bfloat16"]))
    return {name: a.astype(DTYPES[kinds]) for name, a in found.items()}


@st.composite
def cases(draw, loss, classes=CLASSES, byte=True):
    """Strategy: a call of this loss, each array with a random layout."""
    shape, axis = draw(shapes(classes))
    if loss.form == "index" and loss.activation != "softmax":
        assume(shape[axis] > 1)  # one class: class indices are refused
        assume(loss.activation is None or len(shape) > 1)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    options = loss.options | {"activation": loss.activation, "axis": axis}
    options["reduction"] = reduction = draw(st.sampled_from(["mean", "none", "sum"]))
    options["return_hessian"] = hessian = draw(st.booleans())
    z, t = make(loss.activation, loss.form, loss.dtype, shape, rng, axis)
    in_place = draw(st.booleans())
    arrays = {"logits": z, "targets": t.astype(loss.labels)} | weights(draw, rng, loss, shape, axis)
    inputs = {}
    for name, a in arrays.items():
        written = name == "logits" and in_place
        layout = draw(layouts(np.ndim(a), written, byte))
        inputs[name] = placed(thinned(a, layout), layout)
    by_row = loss.activation == "softmax" or (loss.activation is None and loss.form == "index")
    rows = tuple(np.delete(shape, axis))
    wanted = {"loss_out": () if reduction != "none" else rows if by_row else shape}
    wanted |= {"grad_out": shape, "hess_out": shape}
    outputs = {}
    for name, form in wanted.items():
        if (name == "hess_out" and not hessian) or draw(st.booleans()):
            continue
        kind = np.float64 if loss.dtype == "float64" else np.float32
        blank = np.full(form, FILL, DTYPES[loss.dtype] if name != "loss_out" else kind)
        outputs[name] = placed(blank, draw(layouts(len(form), True)))
    if in_place:
        outputs["grad_out"] = inputs["logits"]
    return Case(inputs, outputs, options)


def ask(call, case):
    """Call with the arrays of the case themselves; memory around the outputs must not change."""
    given = {name: a.array for name, a in case.inputs.items()}
    outs = {name: a.array for name, a in case.outputs.items()}
    around = {name: a.outside() for name, a in case.outputs.items()}
    got = call(given.pop("logits"), given.pop("targets"), **given, **outs, **case.options)
    for name, result in zip(("loss_out", "grad_out", "hess_out"), got, strict=False):
        assert name not in outs or result is outs[name]
    assert around == {name: a.outside() for name, a in case.outputs.items()}
    return got


def check_loss(api, loss, case):
    """Compare a call with the oracle; a second call, replayed from the cache, has the same bits."""
    own = {k: float(v) for k, v in RULES[loss.rule].items()}
    inputs = {name: a.array.copy() for name, a in case.inputs.items()}
    options = {k: v for k, v in case.options.items() if k != "return_hessian"}
    want, scales = reference((loss.rule, own), **inputs, **options, scales=True)

    def call(*args, **kwargs):
        return getattr(api, loss.rule)(*args, **kwargs, **own)

    got = [np.array(a) for a in ask(call, case)]
    rtol = bar(loss.dtype, loss.activation, own)
    for what, ours, true, scale in zip(("loss", "grad", "hess"), got, want, scales, strict=False):
        agree(what, ours, true, scale, loss.dtype, rtol)
    case.inputs["logits"].array[...] = inputs["logits"]  # restored after a call in place
    for a, b in zip(got, ask(call, case), strict=True):
        assert a.tobytes() == np.asarray(b).tobytes()


@st.composite
def arrays(draw, name, dtype, classes=CLASSES, byte=True):
    """Strategy: (logits, out or None, axis) of an activation, each with a random layout."""
    shape, axis = draw(shapes(classes))
    z, _ = make("softmax", "index", dtype, shape, np.random.default_rng(draw(st.integers(0, 99))))
    kind = draw(st.sampled_from(["new", "out", "in place"]))
    layout = draw(layouts(len(shape), kind == "in place", byte))
    source = placed(thinned(z, layout), layout)
    out = source if kind == "in place" else None
    if kind == "out":
        out = placed(np.full_like(z, FILL), draw(layouts(len(shape), True)))
    return source, out, axis


def check_activation(api, name, dtype, source, out, axis):
    """Compare a call of softmax, sigmoid or their logarithms with NumPy in float64."""
    z = source.array.astype(np.float64)
    if name.endswith("softmax"):
        top = z.max(axis, keepdims=True)
        others = np.exp(z - top)
        np.put_along_axis(others, z.argmax(axis, keepdims=True), 0.0, axis)
        want = z - top - np.log1p(others.sum(axis, keepdims=True))
    else:
        want = -np.logaddexp(0, -z)
    want = want if name.startswith("log") else np.exp(want)
    options = {"axis": axis} if name.endswith("softmax") else {}
    options |= {} if out is None else {"out": out.array}
    around = None if out is None else out.outside()
    got = getattr(api, name)(source.array, **options)
    assert out is None or (got is out.array and out.outside() == around)
    close(got, want, dtype, 30.0 if dtype == "float64" else 4.0)


# --------------------------------------------------------------------------- on the CPU


@pytest.fixture(params=[False, True], ids=["", "streamed"], name="stored")
def past_the_caches(request, monkeypatch):
    """Fixture, with True: gradients of any size use non-temporal stores, as large ones do."""
    if request.param:
        monkeypatch.setattr(tuning, "STREAM_ABOVE", 0)
    cpu_replay._PREPARED.clear()
    yield
    cpu_replay._PREPARED.clear()


@losses
def test_losses(loss, stored):
    @examples
    @given(cases(loss))
    def run(case):
        check_loss(fusedce, loss, case)

    run()


@activations
def test_activations(name, dtype):
    @examples
    @given(arrays(name, dtype))
    def run(laid):
        check_activation(fusedce, name, dtype, *laid)

    run()


@pytest.mark.parametrize("form", ["index", "soft"])
def test_large_gradients_of_few_classes(form):
    """Gradients large enough for non-temporal stores: in a view with gaps, and with a Hessian."""
    z, t = make("softmax", form, "float32", (150_000, 30), np.random.default_rng(0))
    assert z.nbytes > tuning.STREAM_ABOVE
    want = fusedce.cross_entropy(z, t)[1]
    room = np.full((len(z), 33), FILL, z.dtype)
    fusedce.cross_entropy(z, t, grad_out=room[:, :30])
    assert room[:, :30].tobytes() == want.tobytes()
    assert (room[:, 30:] == FILL).all()
    assert fusedce.cross_entropy(z, t, return_hessian=True)[1].tobytes() == want.tobytes()


def test_axes_of_one_number_decide_nothing():
    """The stride of an axis of length 1 has no influence on whether rows are put into lanes."""
    z = np.zeros(1000, np.float32)
    for row in (z[None, :, None], z.reshape(1, -1, 1), np.lib.stride_tricks.as_strided(
            z, (1, 1000, 1), (1, 4, 3))):  # fmt: skip
        assert not tuning.few_classes(row)
    assert tuning.few_classes(np.zeros((1000, 5)).T[None])


def test_layouts_are_what_they_say():
    """`placed` gives the strides of a layout: negative, spaced, zero, unaligned, of length 1."""
    a = np.arange(6.0).reshape(2, 3)
    layout = Layout((1, 0), (-2, 3), ((1, 0), (0, 2)), (8, 8), (False, False), 5)
    b = placed(a, layout)
    np.testing.assert_array_equal(b.array, a)
    assert b.array.strides == (-16, 3 * 4 * 8)
    assert (b.memory == FILL).sum() == b.memory.size - 6
    assert set(np.frombuffer(b.outside(), float)) == {0.0, FILL}
    flat = Layout((0, 1), (1, 1), ((0, 0), (0, 0)), (3, 3), (True, False), 0, 1)
    c = placed(thinned(a.copy(), flat), flat)
    assert c.array.strides == (0, 8)
    assert not c.array.flags.aligned
    np.testing.assert_array_equal(c.array, np.stack([a[0], a[0]]))
    assert placed(a[:1], flat).array.strides == (3, 8)
