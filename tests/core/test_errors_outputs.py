"""Error texts, word for word: conflicting options, output buffers, overlaps, GPU arrays."""

from __future__ import annotations

import numpy as np
import pytest

import fusedce
from tests.core.test_errors import LOSSES, K, OnGpu, Z, dense, each_loss, fails, out_of

PAIRS = [  # loss, activation, whether targets are class indices, options, text
    ("cross_entropy", "softmax", True, {"pos_weight": 2.0}, "pos_weight=[2.0]"),
    ("cross_entropy", "softmax", False, {"pos_weight": np.ones(3)}, "pos_weight=[1.0, 1.0, 1.0]"),
    ("cross_entropy", "softmax", False, {"neg_label": -1}, "neg_label=-1"),
    ("focal", "softmax", False, {"soft_labels": "torchvision"}, "soft_labels='torchvision'"),
    ("focal", None, False, {"soft_labels": "torchvision"}, "soft_labels='torchvision'"),
    *[("cross_entropy", a, i, {"z_loss": 0.5}, "z_loss=0.5") for a in ("sigmoid", None)
      for i in (True, False)],
    *[("poly1", a, False, {"normalize_targets": True}, "normalize_targets=True")
      for a in ("sigmoid", None)],
    *[("apply", None, i, {"softcap": 3.0}, "softcap=3.0") for i in (True, False)],
    *[("apply", None, i, {"logit_scale": 0.5}, "logit_scale=0.5") for i in (True, False)],
]  # fmt: skip
INDICES = [
    ("cross_entropy", "softmax", {"normalize_targets": True}, "normalize_targets=True", ""),
    ("cross_entropy", "sigmoid", {"neg_label": -1}, "neg_label=-1", ""),
    ("cross_entropy", None, {"neg_label": -1}, "neg_label=-1", " and activation=None"),
    ("cross_entropy", None, {"pos_weight": 2}, "pos_weight=[2.0]", " and activation=None"),
    ("focal", None, {"alpha": 0.25}, "alpha=0.25", " and activation=None"),
    ("asymmetric", None, {}, "asymmetric", " and activation=None"),
]


def test_options_without_meaning():
    for name, activation, indices, options, shown in PAIRS:
        text = f"{shown} has no meaning with activation={activation!r}"
        t = K() if indices else dense()
        fails(LOSSES[name], (Z(), t), {"activation": activation, **options}, ValueError, text)
    for name, activation, options, shown, more in INDICES:
        fails(LOSSES[name], (Z(), K()), {"activation": activation, **options},
              ValueError, f"{shown} has no meaning with class indices{more}")  # fmt: skip
    for alpha in (0.25, 0.0):
        text = f"alpha={alpha} has no meaning with activation='softmax': pass weight=, one number "
        options = {"activation": "softmax", "alpha": alpha}
        fails(fusedce.focal, (Z(), K()), options, ValueError, text + "for each class")
    text = "asymmetric has no meaning with activation='softmax': classes must not compete"
    fails(fusedce.asymmetric, (Z(), K()), {"activation": "softmax"}, ValueError, text)
    text = "soft_labels must be one of 'split', 'torchvision', got 'mixed'"
    fails(fusedce.focal, (Z(), K()), {"soft_labels": "mixed"}, ValueError, text)


def locked(array):
    array.flags.writeable = False
    return array


WANTED = "must have shape (4, 3) and dtype float32, got"
OUTPUTS = [
    ("grad_out", Z(np.float64), f"{WANTED} (4, 3) and float64"),
    ("grad_out", Z(">f4"), f"{WANTED} (4, 3) and >f4"),
    ("hess_out", Z(shape=(3, 4)), f"{WANTED} (3, 4) and float32"),
    ("loss_out", Z(), "must have shape () and dtype float32, got (4, 3) and float32"),
    ("grad_out", locked(Z()), "must be writeable, got a read-only array"),
    ("hess_out", [[0.0] * 3] * 4, "must be a NumPy array, got builtins.list"),
    ("loss_out", 0.0, "must be a NumPy array, got builtins.float"),
    ("grad_out", OnGpu(), "must be a NumPy array, got cupy.OnGpu"),
    ("grad_out", np.lib.stride_tricks.as_strided(Z(shape=3), (4, 3), (0, 4)),
     "must have a place for each element, got strides (0, 4)"),
]  # fmt: skip


@each_loss
@pytest.mark.parametrize(("which", "buffer", "text"), OUTPUTS, ids=lambda v: str(v)[:20])
def test_outputs(name, which, buffer, text):
    options = {which: buffer, "return_hessian": True}
    fails(LOSSES[name], (Z(), K()), options, ValueError, f"{which} {text}")


def test_overlaps():
    """Outputs must not share memory with inputs or each other; only grad_out may be the logits."""

    def text(out, other):
        return (f"{out} overlaps {other} in memory: only grad_out=logits, the very same array, "
                "may be computed in place")  # fmt: skip

    memory = np.full(40, 0.25, np.float32)
    z, shifted, backwards = (memory[k : k + 12].reshape(4, 3) for k in (0, 1, 0))
    backwards = backwards[::-1]
    t, s = Z()[:, 0].astype(int), memory[20:24]
    for outs, out, other in (
        ({"grad_out": shifted}, "grad_out", "logits"),
        ({"grad_out": backwards}, "grad_out", "logits"),
        ({"hess_out": z, "return_hessian": True}, "hess_out", "logits"),
        ({"hess_out": shifted, "return_hessian": True}, "hess_out", "logits"),
        ({"loss_out": memory[3:7], "reduction": "none"}, "loss_out", "logits"),
        ({"loss_out": memory[20:24], "reduction": "none"}, "loss_out", "sample_weight"),
        ({"loss_out": memory[18:22], "reduction": "none"}, "loss_out", "sample_weight"),
        ({"grad_out": memory[12:24].reshape(4, 3)}, "grad_out", "sample_weight"),
        ({"grad_out": z, "loss_out": memory[2:6], "reduction": "none"}, "loss_out", "logits"),
    ):
        fails(fusedce.cross_entropy, (z, t), {"sample_weight": s, **outs}, ValueError,
              text(out, other))  # fmt: skip
    a = memory[:12].reshape(4, 3)
    fails(fusedce.cross_entropy, (Z(), t), {"grad_out": a, "hess_out": a, "return_hessian": True},
          ValueError, text("grad_out", "hess_out"))  # fmt: skip
    fails(fusedce.cross_entropy, (Z(), t), {"grad_out": a, "loss_out": memory[2:3].reshape(())},
          ValueError, text("loss_out", "grad_out"))  # fmt: skip
    fails(fusedce.cross_entropy, (Z(), dense(0.25).astype(np.float32)[:, ::-1]),
          {"grad_out": Z(), "weight": memory[:3], "loss_out": memory[2:3].reshape(())},
          ValueError, text("loss_out", "weight"))  # fmt: skip
    q = memory[:12].reshape(4, 3)
    fails(fusedce.cross_entropy, (Z(), q), {"grad_out": q}, ValueError, text("grad_out", "targets"))
    outs = {"pos_weight": memory[20:23], "grad_out": memory[20:32].reshape(4, 3)}
    fails(fusedce.focal, (Z(), q), outs, ValueError, text("grad_out", "pos_weight"))
    held = memory[5:6].reshape(())
    fails(fusedce.cross_entropy, (Z(), t), {"denominator": held, "loss_out": held},
          ValueError, text("loss_out", "denominator"))  # fmt: skip
    # columns that alternate in one array do not overlap
    lace = np.zeros((4, 6), np.float32)
    loss, grad = fusedce.cross_entropy(lace[:, ::2], t, grad_out=lace[:, 1::2])
    assert np.shares_memory(grad, lace)
    assert loss == pytest.approx(np.log(3))


@pytest.mark.parametrize("wrap", [memoryview, lambda a: a.view(np.ndarray).data, "torch"])
def test_overlaps_with_what_only_wraps_memory(wrap):
    """Overlap is found for inputs that are not arrays but that NumPy reads without a copy."""
    memory = np.full(40, 0.25, np.float32)
    z = memory[:12].reshape(4, 3)
    wrap = pytest.importorskip("torch").from_numpy if wrap == "torch" else wrap
    text = ("grad_out overlaps logits in memory: only grad_out=logits, the very same array, may be "
            "computed in place")  # fmt: skip
    options = {"grad_out": memory[1:13].reshape(4, 3)}
    fails(fusedce.cross_entropy, (wrap(z), K()), options, ValueError, text)


def test_gpu_arrays():
    """CPU and GPU arrays in one call are an error that names both arguments."""
    gpu, where = OnGpu(), "is on a GPU (cupy.OnGpu)"
    for args, options, first, other, kind in (
        ((gpu, K()), {}, "logits", "targets", "numpy.ndarray"),
        ((Z(), gpu), {}, "targets", "logits", "numpy.ndarray"),
        ((Z(), K()), {"weight": gpu}, "weight", "logits", "numpy.ndarray"),
        ((Z(), K()), {"sample_weight": gpu}, "sample_weight", "logits", "numpy.ndarray"),
        ((gpu, [0, 1, 2, 1]), {}, "logits", "targets", "builtins.list"),
    ):
        text = f"{first} {where} and {other} is not ({kind}): move one of them"
        for fn in LOSSES.values():
            fails(fn, args, options, TypeError, text)


def test_activations():
    for name in ("softmax", "log_softmax", "sigmoid", "log_sigmoid"):
        fn = getattr(fusedce, name)
        text = "logits must be float64, float32, float16 or bfloat16, got int64"
        fails(fn, (K(),), {}, TypeError, text)
        text = "out must have shape (4, 3) and dtype float32, got (4, 3) and float64"
        fails(fn, (Z(),), {"out": Z(np.float64)}, ValueError, text)
        fails(fn, (Z(),), {"out": locked(Z())}, ValueError,
              "out must be writeable, got a read-only array")  # fmt: skip
        memory = np.zeros(20, np.float32)
        fails(fn, (memory[:5],), {"out": memory[1:6]}, ValueError,
              "out overlaps logits in memory: only out=logits, the very same array, may be "
              "computed in place")  # fmt: skip
        if name.endswith("softmax"):
            fails(fn, (Z(),), {"axis": 2}, ValueError, out_of(-2, 1, 2))
            fails(fn, (Z(),), {"axis": "0"}, TypeError, "axis must be an int, got '0'")
            text = "logits must have a class axis, got a 0-d array"
            fails(fn, (np.float32(1),), {}, ValueError, text)
    for value in (0.0, 1.0, -0.5, np.nan):
        fails(fusedce.prior_bias, (value,), {}, ValueError, f"pi must be in (0, 1), got {value!r}")
    fails(fusedce.prior_bias, ("0.01",), {}, TypeError, "pi must be in (0, 1), got '0.01'")


def test_nought_dimensional_logits():
    """A single number as logits: softmax is refused, and so are targets of another shape."""
    for activation in ("softmax", "sigmoid", None):
        with pytest.raises(ValueError, match=r"axis|class|targets"):
            fusedce.cross_entropy(np.float32(0.5), np.zeros(3), activation=activation)
    with pytest.raises(ValueError, match=r"axis|class"):
        fusedce.cross_entropy(np.float64(0.5), 1.0, activation="softmax")
