"""fusedce.adapters.torch has the signatures, numbers, dtypes and errors of torch's own losses."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional
fused = pytest.importorskip("fusedce.adapters.torch")

DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
# Tolerances relative to the largest component; in half precision, half a unit in the last place.
BARS = {"float64": 1e-12, "float32": 1e-5, "float16": 1.01 * 2**-11, "bfloat16": 1.01 * 2**-8}
REDUCTIONS = ("mean", "sum", "none")
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def logits_of(shape, dtype, seed=0, axis=-1):
    """Random logits; in every fourth row the third class has a probability of about 1 - 1e-6."""
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    rows = z.movedim(axis, -1).reshape(-1, shape[axis]) if len(shape) > 1 else None
    if rows is not None:
        rows[::4, 2] = rows[::4].amax(1) + 14.0
        z = rows.reshape(z.movedim(axis, -1).shape).movedim(-1, axis)
    return z.to(DTYPES[dtype])


def derivatives(loss_of, z, upstream):
    """(loss, gradient) for an upstream gradient."""
    leaf = z.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    loss = loss_of(leaf)
    loss.backward(upstream.to(loss.dtype).expand_as(loss))
    return loss.detach(), leaf.grad


def upstream_of(reduction, shape):
    """0.7, or for "none" an upstream gradient that is first 0, then rises from negative values."""
    if reduction != "none":
        return torch.tensor(0.7)
    n = int(np.prod(shape))
    return torch.linspace(-0.5, 2.0, n).where(torch.arange(n) > 0, torch.tensor(0.0)).reshape(shape)


def agree(ours, theirs, z, dtype, reduction, shape):
    """Loss and gradient agree with torch in float64, and the dtypes are those of torch."""
    kind = theirs(z, z.dtype).dtype
    upstream = upstream_of(reduction, shape).to(kind)
    loss, grad = derivatives(ours, z, upstream)
    want, want_grad = derivatives(lambda x: theirs(x, torch.float64), z.double(), upstream)
    assert loss.dtype == kind
    assert grad.dtype == z.dtype
    assert grad.shape == z.shape
    bar = BARS[dtype] if loss.dtype == z.dtype else 1e-5
    tiny = 2.0**-25 if kind == torch.float16 else 1e-14
    assert torch.allclose(loss.double(), want, rtol=bar, atol=tiny, equal_nan=True)
    scale = want_grad.abs().nan_to_num().max() if want_grad.numel() else 1.0
    small = float(scale) * (1e-13 if dtype == "float64" else 1e-6)
    small += 2.0**-25 if dtype == "float16" else 0.0  # half of the smallest float16
    torch.testing.assert_close(
        grad.double(), want_grad, rtol=BARS[dtype], atol=small, equal_nan=True
    )


@pytest.mark.parametrize(
    "name",
    ["cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits", "nll_loss"],
)
def test_signatures(name):
    """The parameters are torch's, and ``inplace`` is keyword-only."""
    ours, theirs = (inspect.signature(getattr(m, name)) for m in (fused, F))
    both = dict(ours.parameters)
    extra = both.pop("inplace", None)
    assert extra is None or (extra.kind is extra.KEYWORD_ONLY and extra.default is False)
    assert [(p.name, p.default, p.kind) for p in both.values()] == [
        (p.name, p.default, p.kind) for p in theirs.parameters.values()
    ]


def test_modules_are_torchs():
    for name in ("CrossEntropyLoss", "BCELoss", "BCEWithLogitsLoss", "NLLLoss"):
        ours, theirs = getattr(fused, name), getattr(torch.nn, name)
        assert issubclass(ours, theirs)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert repr(ours()) == repr(theirs())
    names = list(inspect.signature(fused.sigmoid_focal_loss).parameters.items())
    assert [(n, p.default) for n, p in names[:5]] == [
        ("inputs", inspect.Parameter.empty), ("targets", inspect.Parameter.empty),
        ("alpha", 0.25), ("gamma", 2), ("reduction", "none"),
    ]  # fmt: skip


@each_dtype
@each_reduction
@pytest.mark.parametrize(
    "shape", [(9, 6), (6,), (2, 6, 5), (2, 6, 3, 4), (0, 6), (33, 31)], ids=str
)
@pytest.mark.parametrize("form", ["index", "probabilities"])
def test_cross_entropy(form, shape, reduction, dtype):
    axis = 1 if len(shape) > 1 else 0
    rows, classes = shape[:axis] + shape[axis + 1 :], shape[axis]
    z = logits_of(shape, dtype, axis=axis)
    gen = torch.Generator().manual_seed(1)
    for weighted, smoothing, ignoring in itertools.product((0, 1), (0.0, 0.3), (0, 1)):
        weight = torch.rand(classes, generator=gen, dtype=torch.float64) + 0.1 if weighted else None
        weight = None if weight is None else weight.to(z.dtype)
        options = {"reduction": reduction, "label_smoothing": smoothing}
        if form == "index":
            target = torch.randint(classes, rows, generator=gen)
            if ignoring:
                options["ignore_index"] = 1
        elif ignoring:
            continue
        else:
            target = torch.rand(shape, generator=gen, dtype=torch.float64).to(z.dtype)

        def theirs(x, kind, target=target, weight=weight, options=options):
            target = target.to(kind) if target.is_floating_point() else target
            return F.cross_entropy(
                x, target, None if weight is None else weight.to(kind), **options
            )

        def ours(x, target=target, weight=weight, options=options):
            return fused.cross_entropy(x, target, weight, **options)

        agree(ours, theirs, z, dtype, reduction, rows)


@each_dtype
@each_reduction
@pytest.mark.parametrize(
    ("shape", "weight", "pos_weight"),
    [
        ((9, 6), None, None), ((9, 6), (6,), (6,)), ((9, 6), (9, 1), ()), ((31,), (31,), (1,)),
        ((2, 6, 3, 4), (6, 1, 1), (6, 1, 1)), ((2, 3, 4), (2, 3, 4), (3, 4)), ((3, 5), (), (3, 1)),
        ((2, 3, 4), None, (2, 1, 4)), ((0, 4), None, (4,)), ((), None, ()),
    ],
    ids=str,
)  # fmt: skip
def test_binary_cross_entropy_with_logits(shape, weight, pos_weight, reduction, dtype):
    gen = torch.Generator().manual_seed(2)
    z = (torch.randn(shape, generator=gen, dtype=torch.float64) * 8).to(DTYPES[dtype])
    target = torch.rand(shape, generator=gen).round(decimals=1).to(z.dtype)
    w, pw = (
        None if s is None else (torch.rand(s, generator=gen) + 0.5).to(z.dtype)
        for s in (weight, pos_weight)
    )

    def theirs(x, kind):
        a, b, c = (None if t is None else t.to(kind) for t in (target, w, pw))
        return F.binary_cross_entropy_with_logits(x, a, b, reduction=reduction, pos_weight=c)

    def ours(x):
        return fused.binary_cross_entropy_with_logits(
            x, target, w, reduction=reduction, pos_weight=pw
        )

    agree(ours, theirs, z, dtype, reduction, shape)


def test_pos_weight_over_two_axes_of_any_layout():
    """pos_weight may vary over two axes when the logits are not contiguous.

    The two axes are merged, and the gradient is contiguous.
    """
    z = torch.randn(4, 3, 2).permute(2, 1, 0)  # (2, 3, 4)
    y, pos = torch.rand(2, 3, 4), torch.rand(3, 4)
    for reduction in REDUCTIONS:
        ours, theirs = (
            derivatives(
                lambda x, m=m, how=reduction: m.binary_cross_entropy_with_logits(
                    x, y, pos_weight=pos, reduction=how
                ), z, torch.tensor(1.0),
            )
            for m in (fused, F)
        )  # fmt: skip
        torch.testing.assert_close(ours, theirs)


@each_dtype
@each_reduction
def test_binary_cross_entropy(reduction, dtype):
    gen = torch.Generator().manual_seed(3)
    p = torch.rand((7, 33), generator=gen, dtype=torch.float64).to(DTYPES[dtype])
    y = torch.rand((7, 33), generator=gen).round().to(p.dtype)
    weight = (torch.rand(33, generator=gen) + 0.5).to(p.dtype)

    def theirs(x, kind):
        return F.binary_cross_entropy(x, y.to(kind), weight.to(kind), reduction=reduction)

    def ours(x):
        return fused.binary_cross_entropy(x, y, weight, reduction=reduction)

    agree(ours, theirs, p, dtype, reduction, p.shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_binary_cross_entropy_where_torch_cuts_off(dtype):
    """-log p is at most 100 and the gradient at most 1e12, as in torch.

    Where torch's limit makes the gradient 0, ours is the exact 1.
    """
    p = torch.tensor([0.0, 1.0, 1e-20, 0.0, 1.0, 1e-20, 0.0], dtype=DTYPES[dtype])
    y = torch.tensor([1.0, 0.0, 1.0, 0.3, 0.3, 0.0, 0.0], dtype=p.dtype)
    ours, theirs = (
        derivatives(lambda x, f=f: f(x, y, reduction="none"), p, torch.ones(7))
        for f in (fused.binary_cross_entropy, F.binary_cross_entropy)
    )
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1][:5], theirs[1][:5], rtol=1e-6, atol=0)
    assert ours[1][5:].tolist() == [1.0, 1.0]
    assert torch.isfinite(fused.binary_cross_entropy(p, y))


def torchvision_focal(x, y, alpha, gamma, reduction):
    """torchvision's formula in torch, without cancellation in 1 - p_t: exact for |x| < 700."""
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    wrong = torch.sigmoid(x) * (1 - y) + torch.sigmoid(-x) * y
    loss = ce * wrong**gamma
    if alpha >= 0:
        loss = (alpha * y + (1 - alpha) * (1 - y)) * loss
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]


@each_dtype
@each_reduction
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 2.0), (0.0, 1.0), (0.6, 3.7), (1, 0)])
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_sigmoid_focal_loss(labels, alpha, gamma, reduction, dtype):
    gen = torch.Generator().manual_seed(4)
    z = (torch.randn((5, 33), generator=gen, dtype=torch.float64) * 8).to(DTYPES[dtype])
    y = torch.rand(z.shape, generator=gen)
    y = (y < 0.3).to(z.dtype) if labels == "hard" else y.to(z.dtype)

    def theirs(x, kind):
        return torchvision_focal(x, y.to(kind), alpha, gamma, reduction)

    def ours(x):
        return fused.sigmoid_focal_loss(x, y, alpha, gamma, reduction)

    agree(ours, theirs, z, dtype, reduction, z.shape)


@each_reduction
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_softmax_focal_loss(gamma, reduction):
    z = logits_of((33, 7), "float64")
    y = torch.arange(33) % 7
    y[3] = -100
    weight = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)

    def theirs(x, kind):
        log_p = F.log_softmax(x, 1).gather(1, y.clamp(min=0)[:, None])[:, 0]
        w = weight[y.clamp(min=0)] * (y >= 0)
        loss = -w * (1 - log_p.exp()) ** gamma * log_p
        return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / w.sum()}[reduction]

    def ours(x):
        return fused.softmax_focal_loss(x, y, weight, gamma, reduction=reduction)

    agree(ours, theirs, z, "float64", reduction, (33,))


def test_focal_without_gamma_is_cross_entropy():
    z, y = logits_of((33, 7), "float32"), torch.arange(33) % 7
    pairs = [
        (lambda x: fused.softmax_focal_loss(x, y, gamma=0), lambda x: fused.cross_entropy(x, y)),
    ]
    for one, other in pairs:
        a, b = (derivatives(f, z, torch.tensor(1.0)) for f in (one, other))
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_defaults_of_modules():
    """The defaults of FocalLoss and SoftmaxFocalLoss are those of their functions."""
    for module, function in ((fused.FocalLoss, fused.sigmoid_focal_loss),
                             (fused.SoftmaxFocalLoss, fused.softmax_focal_loss)):  # fmt: skip
        known = inspect.signature(function).parameters
        for name, parameter in inspect.signature(module).parameters.items():
            assert parameter.default == known[name].default, name


@pytest.mark.parametrize(
    "module",
    [
        fused.CrossEntropyLoss(torch.rand(7) + 0.1, label_smoothing=0.1, ignore_index=2),
        fused.BCEWithLogitsLoss(torch.rand(7), pos_weight=torch.rand(7), reduction="sum"),
        fused.BCELoss(torch.rand(7)),
        fused.FocalLoss(0.3, 1.5, "mean"),
        fused.SoftmaxFocalLoss(
            torch.rand(7) + 0.1, gamma=3.0, reduction="sum", label_smoothing=0.1
        ),
    ],
    ids=lambda m: type(m).__name__,
)
def test_modules(module):
    """A module calls its function with its buffers and arguments, and agrees with torch's."""
    z = torch.rand(9, 7)
    y = torch.arange(9) % 7 if "CrossEntropy" in type(module).__mro__[1].__name__ else z.round()
    functions = {
        "CrossEntropyLoss": lambda m: fused.cross_entropy(
            z, y, m.weight, None, 2, label_smoothing=0.1
        ),
        "BCEWithLogitsLoss": lambda m: fused.binary_cross_entropy_with_logits(
            z, y, m.weight, reduction="sum", pos_weight=m.pos_weight
        ),
        "BCELoss": lambda m: fused.binary_cross_entropy(z, y, m.weight),
        "FocalLoss": lambda m: fused.sigmoid_focal_loss(z, y, 0.3, 1.5, "mean"),
        "SoftmaxFocalLoss": lambda m: fused.softmax_focal_loss(
            z, y, m.weight, 3.0, reduction="sum", label_smoothing=0.1
        ),
    }  # fmt: skip
    name = type(module).__name__
    assert torch.equal(module(z, y), functions[name](module))
    theirs = getattr(torch.nn, name, None)
    if theirs is not None:
        twin = theirs.__new__(theirs)
        twin.__dict__.update(module.__dict__)
        torch.testing.assert_close(module(z, y), twin(z, y))
    else:
        assert "gamma" in repr(module) or name == "SoftmaxFocalLoss"


# --------------------------------------------------------------------- torch's corner cases


def test_every_target_ignored():
    """If every target is ignored, or there is none, the mean is NaN and the gradient 0."""
    z = torch.randn(4, 5)
    loss, grad = derivatives(
        lambda x: fused.cross_entropy(x, torch.full((4,), -100)), z, torch.tensor(1.0)
    )
    assert loss.isnan()
    assert torch.equal(grad, torch.zeros(4, 5))
    assert fused.cross_entropy(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)).isnan()
    assert fused.binary_cross_entropy_with_logits(torch.zeros(0), torch.zeros(0)).isnan()


@each_reduction
@pytest.mark.parametrize("shape", [(3, 0), (0, 0), (0,), (2, 0, 3), (0, 0, 3)], ids=str)
@pytest.mark.parametrize("form", ["int64", "int32", "float32"])
def test_no_classes(form, shape, reduction):
    """With no classes, the loss (NaN, 0 or -0), dtype and gradient are those of torch.

    Where torch raises an error, ours raises one too.
    """
    axis = min(1, len(shape) - 1)
    if form == "float32":
        target = torch.rand(shape)
    else:
        target = torch.full(shape[:axis] + shape[axis + 1 :], -100, dtype=getattr(torch, form))
    theirs_target = target if form == "float32" else target.long()
    for smoothing, weight in itertools.product((0.0, 0.1), (None, torch.ones(shape[axis]))):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        z = torch.zeros(shape)
        ours = [
            lambda x, w=weight, o=options: fused.cross_entropy(x, target, w, **o),
            lambda x, w=weight, o=options: fused.softmax_focal_loss(x, target, w, **o),
        ]
        theirs = lambda x, w=weight, o=options: F.cross_entropy(x, theirs_target, w, **o)  # noqa: E731
        try:
            want = derivatives(theirs, z, torch.tensor(0.3))
        except RuntimeError:
            for loss_of in ours:
                with pytest.raises(RuntimeError, match="size mismatch"):
                    loss_of(z)
            continue
        for loss_of in ours:
            for got, expected in zip(derivatives(loss_of, z, torch.tensor(0.3)), want, strict=True):
                assert got.dtype == expected.dtype
                torch.testing.assert_close(got, expected, equal_nan=True)
                assert torch.equal(got.signbit(), expected.signbit()) or got.isnan().all()


def test_no_classes_but_a_label():
    with pytest.raises(IndexError, match="out of bounds"):
        fused.cross_entropy(torch.zeros(3, 0), torch.zeros(3).long())
    z = torch.zeros(3, 0, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = (m.cross_entropy(z, torch.full((3,), -100)) for m in (fused, F))
    assert ours.dtype == theirs.dtype == torch.float32


@each_reduction
@pytest.mark.parametrize("shape", [(3, 0), (0, 0), (0,), (0, 4), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
def test_no_elements(name, shape, reduction):
    z, y = torch.zeros(shape), torch.zeros(shape)
    for weight in (None, torch.ones(shape[-1]), torch.ones(shape)):
        ours, theirs = (
            derivatives(
                lambda x, m=m, w=weight: getattr(m, name)(x, y, w, reduction=reduction),
                z, torch.tensor(0.3),
            )
            for m in (fused, F)
        )  # fmt: skip
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_masked_classes():
    """A logit of -inf has probability and gradient 0; NaN affects only its row."""
    z = torch.randn(3, 5)
    z[0, 1:4] = -torch.inf
    z[1, 2] = torch.nan
    y = torch.tensor([0, 0, 4])
    loss, grad = derivatives(
        lambda x: fused.cross_entropy(x, y, reduction="none"), z, torch.tensor([1.0, 1.0, 2.0])
    )
    want, want_grad = derivatives(
        lambda x: F.cross_entropy(x, y, reduction="none"), z, torch.tensor([1.0, 1.0, 2.0])
    )
    torch.testing.assert_close(loss, want, equal_nan=True)
    torch.testing.assert_close(grad, want_grad, equal_nan=True)
    assert grad[0, 1:4].tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_reduction
def test_dtype_in_autocast(dtype, reduction):
    """In autocast the loss is float32, as torch's, and the gradient has the logits' dtype."""
    z = logits_of((4, 5), dtype)
    y, t = torch.arange(4), torch.rand(4, 5).to(z.dtype)
    with torch.autocast("cpu", dtype=z.dtype):
        for name, label in (("cross_entropy", y), ("cross_entropy", t),
                            ("binary_cross_entropy_with_logits", t)):  # fmt: skip
            ours, theirs = (
                derivatives(
                    lambda x, m=m, name=name, label=label: getattr(m, name)(
                        x, label, reduction=reduction
                    ), z, torch.tensor(1.0),
                )
                for m in (fused, F)
            )  # fmt: skip
            assert ours[0].dtype == theirs[0].dtype == torch.float32
            assert ours[1].dtype == theirs[1].dtype == z.dtype
            torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)


def test_promotion():
    """The dtype of the loss is the widest of its inputs, as in torch."""
    pairs = itertools.product(DTYPES.values(), DTYPES.values())
    for dtype, other in pairs:
        z, y = torch.randn(3, 4).to(dtype), torch.rand(3, 4).to(other)
        for name in ("cross_entropy", "binary_cross_entropy_with_logits"):
            ours, theirs = (getattr(m, name)(z, y) for m in (fused, F))
            assert ours.dtype == theirs.dtype, (dtype, other, name)
        kinds = torch.promote_types(dtype, other)
        assert fused.sigmoid_focal_loss(z, y).dtype == kinds
        assert fused.cross_entropy(z, y.to(dtype), torch.ones(4, dtype=other)).dtype == kinds
        pos = torch.tensor(2.0, dtype=other)
        ours, theirs = (
            m.binary_cross_entropy_with_logits(z, y.to(dtype), pos_weight=pos) for m in (fused, F)
        )
        assert ours.dtype == theirs.dtype, (dtype, other)


LOGITS, LABELS = torch.randn(5, 7), torch.tensor([1, 2, 3, 0, 6])
WRONG = {
    "list": lambda m: m.cross_entropy(LOGITS, [1, 2, 3, 0, 6]),
    "rows": lambda m: m.cross_entropy(LOGITS, LABELS[:2]),
    "pixels": lambda m: m.cross_entropy(torch.randn(2, 3, 4), torch.zeros(2, 5).long()),
    "floats": lambda m: m.cross_entropy(LOGITS, LABELS.float()),
    "range": lambda m: m.cross_entropy(LOGITS, LABELS + 3),
    "negative": lambda m: m.cross_entropy(LOGITS, LABELS - 3),
    "reduction": lambda m: m.cross_entropy(LOGITS, LABELS, reduction="average"),
    "integers": lambda m: m.cross_entropy(LOGITS.long(), LABELS),
    "smoothing": lambda m: m.cross_entropy(LOGITS, LABELS, label_smoothing=3),
    "distribution": lambda m: m.cross_entropy(LOGITS, torch.zeros(5, 7).long()),
    "ignored": lambda m: m.cross_entropy(LOGITS, torch.rand(5, 7), ignore_index=2),
    "weight": lambda m: m.cross_entropy(LOGITS, LABELS, torch.ones(2)),
    "no reduction": lambda m: m.cross_entropy(LOGITS, LABELS, reduction=None),
    "a number for reduction": lambda m: m.cross_entropy(LOGITS, LABELS, reduction=1),
    "no ignore_index": lambda m: m.cross_entropy(LOGITS, LABELS, ignore_index=None),
    "ignore_index": lambda m: m.cross_entropy(LOGITS, LABELS, ignore_index=1.0),
    "meta": lambda m: m.cross_entropy(LOGITS, LABELS.to("meta")),
    "meta weight": lambda m: m.binary_cross_entropy_with_logits(
        LOGITS, torch.rand(5, 7), pos_weight=torch.rand(7, device="meta")
    ),
    "keyword": lambda m: m.cross_entropy(LOGITS, LABELS, gamma=2),
    "bce list": lambda m: m.binary_cross_entropy_with_logits(LOGITS, 1.0),
    "bce shape": lambda m: m.binary_cross_entropy_with_logits(LOGITS, torch.rand(7)),
    "bce weight": lambda m: m.binary_cross_entropy_with_logits(
        LOGITS, torch.rand(5, 7), torch.ones(3)
    ),
    "bce pos_weight": lambda m: m.binary_cross_entropy_with_logits(
        LOGITS, torch.rand(5, 7), pos_weight=torch.ones(5)
    ),
    "bce integers": lambda m: m.binary_cross_entropy_with_logits(LOGITS.long(), torch.rand(5, 7)),
    "probabilities": lambda m: m.binary_cross_entropy(LOGITS, torch.rand(5, 7)),
    "bce reduction": lambda m: m.binary_cross_entropy(
        torch.rand(5, 7), torch.rand(5, 7), reduction="x"
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_of_torchs_types(name):
    with pytest.raises(Exception, match=r".") as theirs:
        WRONG[name](F)
    with pytest.raises(theirs.type):
        WRONG[name](fused)


def test_errors_of_focal():
    z, y = torch.randn(4), torch.ones(4)
    for wrong in ({"alpha": 2.0}, {"alpha": -0.5}, {"reduction": "x"}, {"gamma": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fused.sigmoid_focal_loss(z, y, **wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fused.sigmoid_focal_loss(inputs=z, targets=y, **wrong)
    with pytest.raises(ValueError, match="target must have the shape"):
        fused.sigmoid_focal_loss(inputs=z, targets=y[:2])
    with pytest.raises(ValueError, match="gamma"):
        fused.softmax_focal_loss(z, torch.tensor(1), gamma=-1.0)


OUTSIDE = (255.0, 1.5, 1.0000001, -0.5, -1e-30, -100.0, float("nan"), float("inf"), -float("inf"))


@each_reduction
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["input", "target"])
def test_probabilities_outside_0_and_1(name, dtype, reduction):
    """Inputs and targets outside of [0, 1] raise torch's error with their position.

    By the function, the module and compiled code.
    """
    inside = torch.full((3, 4), 0.25, dtype=DTYPES[dtype])
    torch._dynamo.reset()
    ours = fused.BCELoss(reduction=reduction)
    traced = torch.compile(ours, backend="aot_eager")
    for wrong in OUTSIDE:
        x = inside.clone()
        x[1, 2] = wrong
        if x[1, 2] == 1:
            continue
        pair = (x, inside) if name == "input" else (inside, x)
        with pytest.raises(RuntimeError, match=f"all elements of {name} should be between 0 and 1"):
            F.binary_cross_entropy(*pair, reduction=reduction)
        place = f"all elements of {name} should be between 0 and 1, got .* at position .1, 2."
        for call in (lambda z, y: fused.binary_cross_entropy(z, y, reduction=reduction), ours):
            with pytest.raises(RuntimeError, match=place):
                call(*pair)
            with pytest.raises(RuntimeError, match=place):
                call(pair[0].clone().requires_grad_(), pair[1])
    with pytest.raises(RuntimeError, match=place):
        traced(*pair)
    ends = torch.tensor([0.0, -0.0, 1.0], dtype=DTYPES[dtype])
    a, b = (m.binary_cross_entropy(ends, ends, reduction=reduction) for m in (fused, F))
    torch.testing.assert_close(a, b)


@each_reduction
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("label", [255.0, 1.5, -0.5, -100.0, float("nan")])
def test_labels_outside_0_and_1_of_logits(label, dtype, reduction):
    """Labels outside of [0, 1] raise no error with logits: the loss is linear in a label."""
    z = logits_of((4, 5), dtype)
    y = torch.rand(4, 5).to(z.dtype)
    y[0], y[1:, 3] = label, label
    pos, w = torch.tensor([0.5, 1, 2, 3, 4]).to(z.dtype), torch.rand(4, 1).to(z.dtype)
    for weight, pos_weight in ((None, None), (w, pos)):

        def theirs(x, kind, weight=weight, pos_weight=pos_weight):
            a, b, c = (None if t is None else t.to(kind) for t in (y, weight, pos_weight))
            return F.binary_cross_entropy_with_logits(x, a, b, reduction=reduction, pos_weight=c)

        def ours(x, weight=weight, pos_weight=pos_weight):
            return fused.binary_cross_entropy_with_logits(
                x, y, weight, reduction=reduction, pos_weight=pos_weight
            )

        agree(ours, theirs, z, dtype, reduction, z.shape)


SIDES = [
    *itertools.product(["above"], [1.5, -0.5, 255.0, -100.0, float("nan")], [0, 1, 2, 3, 8, 2.5]),
    *itertools.product(["below"], [1.5, -0.5, 255.0, -100.0], [1, 2, 3, 8]),
]


@each_reduction
@pytest.mark.parametrize("alpha", [0.3, -1])
@pytest.mark.parametrize(("side", "label", "gamma"), SIDES)
def test_labels_outside_0_and_1_of_the_focal_loss(side, label, gamma, alpha, reduction):
    """Labels outside of [0, 1] give torchvision's formula.

    Its 1 - p_t is then positive for some logits and negative for others; both are tested.
    """
    z = torch.tensor([-2.0, 0.3, 5.0, -8.0, 0.0, 30.0, -40.0], dtype=torch.float64)
    p = torch.sigmoid(z)
    wrong = p * (1 - label) + (1 - p) * label
    z = z[(wrong < 0 if side == "below" else wrong > 0) | wrong.isnan()]
    y = torch.full_like(z, label)

    def theirs(x, kind):
        ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        p = torch.sigmoid(x)
        loss = ce * (p * (1 - y) + (1 - p) * y) ** gamma
        loss = loss if alpha < 0 else (alpha * y + (1 - alpha) * (1 - y)) * loss
        return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]

    def ours(x):
        return fused.sigmoid_focal_loss(x, y, alpha, gamma, reduction)

    agree(ours, theirs, z, "float64", reduction, z.shape)


def test_no_label_of_floats_is_ignored():
    """-100 in float targets is an ordinary number and not ignore_index, as in torch."""
    z = torch.randn(3, 4)
    for y in (torch.full((3, 4), -100.0), torch.tensor([[0.1] * 4, [-100.0] * 4, [0.5] * 4])):
        for name in ("cross_entropy", "binary_cross_entropy_with_logits"):
            ours, theirs = (derivatives(lambda x, m=m, y=y, name=name: getattr(m, name)(x, y), z,
                                        torch.tensor(1.0)) for m in (fused, F))  # fmt: skip
            torch.testing.assert_close(ours, theirs)


ONE_UNIT = {
    "(N, 1) and (N,)": ((3, 1), (3,)), "(N, 1, H, W) and (N, H, W)": ((3, 1, 2, 2), (3, 2, 2)),
    "(1,) and ()": ((1,), ()), "() and (1,)": ((), (1,)), "(N,) and ()": ((3,), ()),
    "(1, 1) and (1,)": ((1, 1), (1,)), "(N,) and (N, 1)": ((3,), (3, 1)),
    "(N, C) and (N,)": ((3, 4), (3,)),
}  # fmt: skip


@pytest.mark.parametrize("shapes", ONE_UNIT)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
@pytest.mark.parametrize("name", ["bce", "probabilities", "focal"])
def test_shapes_of_sigmoid_losses_must_be_the_same(name, dtype, shapes):
    """Logits and labels of different shapes raise torch's error.

    Labels are not read as class indices and are not broadcast.
    """
    theirs, *ours = {
        "bce": (F.binary_cross_entropy_with_logits, fused.binary_cross_entropy_with_logits,
                fused.BCEWithLogitsLoss()),
        "probabilities": (F.binary_cross_entropy, fused.binary_cross_entropy, fused.BCELoss()),
        # the torch function that torchvision's calls first
        "focal": (F.binary_cross_entropy_with_logits, fused.sigmoid_focal_loss, fused.FocalLoss()),
    }[name]  # fmt: skip
    first, second = ONE_UNIT[shapes]
    z, y = torch.rand(first), torch.ones(second).to(dtype)
    with pytest.raises(ValueError, match="size"):
        theirs(z, y)
    for call in ours:
        with pytest.raises(ValueError, match="target must have the shape of input"):
            call(z, y)
        call(z, z.round())


@pytest.mark.parametrize("dtype", DTYPES)
def test_single_elements(dtype):
    """Zero-dimensional logits and labels agree with torch."""
    z, y = torch.tensor(0.3).to(DTYPES[dtype]), torch.tensor(1.0).to(DTYPES[dtype])
    for name in ("binary_cross_entropy_with_logits", "binary_cross_entropy"):
        for reduction in REDUCTIONS:
            ours, theirs = (
                derivatives(lambda x, m=m: getattr(m, name)(x, y, reduction=reduction), z,  # noqa: B023
                            torch.tensor(0.5)) for m in (fused, F)
            )  # fmt: skip
            torch.testing.assert_close(ours, theirs, rtol=2 * BARS[dtype], atol=0)
            assert ours[0].shape == ()


def test_position_of_a_bad_label_is_told():
    with pytest.raises(IndexError, match="target 9 at position 4 is out of range"):
        fused.cross_entropy(LOGITS, LABELS + 3)


def test_derivative_by_targets_or_weights_is_refused():
    """Targets or weights that require a gradient raise an error; the gradient is not omitted."""
    soft = torch.rand(5, 7, requires_grad=True)
    weight = torch.rand(7, requires_grad=True)
    for call in (
        lambda: fused.cross_entropy(LOGITS, soft),
        lambda: fused.binary_cross_entropy_with_logits(LOGITS, soft),
        lambda: fused.cross_entropy(LOGITS, LABELS, weight),
        lambda: fused.binary_cross_entropy_with_logits(LOGITS, soft.detach(), weight),
        lambda: fused.binary_cross_entropy_with_logits(LOGITS, soft.detach(), pos_weight=weight),
    ):
        with pytest.raises(RuntimeError, match="have no gradient here"):
            call()
        with torch.no_grad():
            call()


def test_former_words_for_reduction():
    for old in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        with pytest.warns(UserWarning, match="will be deprecated"):
            theirs = F.cross_entropy(LOGITS, LABELS, **old)
        with pytest.warns(UserWarning, match="will be deprecated"):
            torch.testing.assert_close(fused.cross_entropy(LOGITS, LABELS, **old), theirs)
        p = torch.sigmoid(LOGITS)
        for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
            with pytest.warns(UserWarning, match="will be deprecated"):
                theirs = getattr(F, name)(p, p, **old)
            with pytest.warns(UserWarning, match="will be deprecated"):
                torch.testing.assert_close(getattr(fused, name)(p, p, **old), theirs)


# --------------------------------------------------------------------- layouts


@each_dtype
def test_any_strides_without_a_copy(dtype):
    """Strided, column-major, broadcast and offset logits give the bits of contiguous ones.

    The NumPy view of such a tensor is made without a copy.
    """
    from fusedce.adapters import torch_operators

    wide = logits_of((6, 14), dtype)
    y = torch.arange(6)
    views = {
        "steps": wide[:, ::2], "columns": wide[:, :7].t().contiguous().t(),
        "one row": wide[:1, :7].expand(6, 7), "offset": wide[:, 3:10],
    }  # fmt: skip
    for name, view in views.items():
        array = torch_operators._array(view)
        assert array.ctypes.data == view.data_ptr(), name
        a, b = (
            derivatives(lambda x: fused.cross_entropy(x, y, reduction="sum"), z, torch.tensor(1.0))
            for z in (view, view.contiguous())
        )
        assert torch.equal(a[0], b[0]), name
        assert torch.equal(a[1], b[1]), name


def test_class_axis_of_images():
    """NCHW and channels-last images agree with torch; the gradient has the logits' strides."""
    z = torch.randn(2, 5, 4, 3)
    y = torch.randint(5, (2, 4, 3))
    for order in (torch.contiguous_format, torch.channels_last):
        x = z.to(memory_format=order).requires_grad_()
        (grad,) = torch.autograd.grad(fused.cross_entropy(x, y), x)
        (want,) = torch.autograd.grad(F.cross_entropy(x, y), x)
        torch.testing.assert_close(grad, want)
        assert grad.stride() == x.stride()
