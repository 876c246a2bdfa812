"""fusedce.adapters.torch with torch's own tools; gradients that are bit for bit fusedce's."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import fusedce

torch = pytest.importorskip("torch")
F = torch.nn.functional
fused = pytest.importorskip("fusedce.adapters.torch")
operators = pytest.importorskip("fusedce.adapters.torch_operators")

Y = torch.tensor([1, 2, -100, 0, 6])
Z = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 4
# Multiples of 1/64 are exact in every dtype.
T = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)).mul(64).round() / 64
LOSSES = {
    "cross_entropy": (lambda z, **k: fused.cross_entropy(z, Y, **k)),
    "soft": (lambda z, **k: fused.cross_entropy(z, T.to(z.dtype), **k)),
    "bce": (lambda z, **k: fused.binary_cross_entropy_with_logits(z, T.to(z.dtype), **k)),
    "weighted bce": (
        lambda z, **k: fused.binary_cross_entropy_with_logits(
            z, T.to(z.dtype), T[:, :1], pos_weight=T[0], **k
        )
    ),
    "probabilities": (lambda z, **k: fused.binary_cross_entropy(z.sigmoid(), T.to(z.dtype), **k)),
    "focal": (lambda z, **k: fused.sigmoid_focal_loss(z, T.to(z.dtype), **k)),
    "softmax focal": (lambda z, **k: fused.softmax_focal_loss(z, Y, **k)),
}
# torch raises this warning itself when its transforms and its compiler are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
each_loss = pytest.mark.parametrize("name", LOSSES)
each_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
UPSTREAM = {
    "one": torch.tensor(1.0), "scaled": torch.tensor(65536.0), "odd": torch.tensor(0.3),
    "small": torch.tensor(2.0**-20), "nought": torch.tensor(0.0), "negative": torch.tensor(-1.0),
}  # fmt: skip
ROWS = torch.tensor([0.0, 1.0, -2.5, 65536.0, 0.3])


@pytest.fixture(autouse=True)
def nothing_is_known_of_upstream_gradients(monkeypatch):
    monkeypatch.setattr(operators, "_ones", {})


def leaf(z=Z):
    return z.detach().clone().requires_grad_()


array_of = operators._array


def numpy(x):
    return array_of(x.detach())


def gradient(loss, z, upstream=None, **options):
    """The gradient of ``loss`` by ``z``, from autograd."""
    return torch.autograd.grad(loss, z, upstream, **options)[0]


# --------------------------------------------------------------------- upstream gradients


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("up", UPSTREAM)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_upstream_gradient_is_a_factor_of_the_engine(reduction, up, dtype):
    """The gradient is bit for bit fusedce's with the upstream gradient as sample_weight.

    Also where the product of two half-precision numbers would underflow.
    """
    z = leaf(Z.to(getattr(torch, dtype)))
    factor = UPSTREAM[up]
    loss = fused.cross_entropy(z, Y, reduction=reduction)
    with torch.autocast("cpu", enabled=False):
        grad = gradient(loss, z, factor.to(loss.dtype))
    weight = np.full(5, factor.to(loss.dtype).double(), np.float64)
    want = fusedce.cross_entropy(numpy(z), Y.numpy(), sample_weight=weight, reduction=reduction)[1]
    np.testing.assert_array_equal(numpy(grad).view(np.uint8), want.view(np.uint8))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", [n for n in LOSSES if n != "probabilities"])  # sigmoid rounds
def test_upstream_gradient_of_each_loss(name, dtype):
    """Each loss multiplies by upstream gradients that differ by row: 0, 1, -2.5, 65536, 0.3."""
    z = leaf(Z.to(getattr(torch, dtype)))
    wide = leaf(z.double())
    loss = LOSSES[name](z, reduction="none")
    up = ROWS if loss.ndim == 1 else ROWS[:, None].expand(5, 7)
    up = up.to(loss.dtype)
    exact = LOSSES[name](wide, reduction="none")
    want = gradient(exact, wide, up.to(exact.dtype))
    got = gradient(loss, z, up).double()
    unit = {"float32": 1e-5, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    near = torch.isclose(got, want, rtol=1.01 * unit, atol=2.0**-25 if dtype == "float16" else 1e-7)
    assert near.all() or not torch.isfinite(got[~near]).any()  # 65536 overflows float16


def test_a_kept_gradient_is_handed_over():
    """With an upstream gradient of 1 the backward pass computes nothing and copies nothing."""
    z = leaf()
    loss = fused.cross_entropy(z, Y)
    kept = loss.grad_fn.saved_tensors[-1]
    grad = gradient(loss, z, retain_graph=True)
    assert grad.data_ptr() == kept.data_ptr()
    assert gradient(loss, z, torch.tensor(0.5)).data_ptr() != kept.data_ptr()


def watched(monkeypatch):
    """A list to which each computation appends "loss" or "gradient"."""
    calls, real = [], operators.run

    def call(*args, **options):
        calls.append("gradient" if options["return_grad"] else "loss")
        return real(*args, **options)

    monkeypatch.setattr(operators, "run", call)
    return calls


@each_loss
@each_reduction
def test_nothing_is_computed_that_nobody_asked_for(name, reduction, monkeypatch):
    calls = watched(monkeypatch)
    LOSSES[name](Z, reduction=reduction)
    with torch.no_grad():
        LOSSES[name](leaf(), reduction=reduction)
    with torch.inference_mode():
        LOSSES[name](Z, reduction=reduction)
    assert calls == ["loss"] * 3
    calls.clear()
    z = leaf()
    loss = LOSSES[name](z, reduction=reduction)
    loss.backward(torch.ones_like(loss))
    assert calls == (["loss", "gradient"] if reduction == "none" else ["gradient"])


def test_gradients_are_kept_while_upstream_gradients_are_one(monkeypatch):
    """The forward pass computes the gradient while the upstream gradients are 1.

    The first scaled loss wastes one gradient; after it, only the backward pass computes one.
    """
    calls = watched(monkeypatch)
    for scale, expected in (
        (1.0, ["gradient"]), (8.0, ["gradient", "gradient"]), (8.0, ["loss", "gradient"]),
        (1.0, ["loss", "gradient"]), (1.0, ["gradient"]),
    ):  # fmt: skip
        calls.clear()
        z = leaf()
        (fused.cross_entropy(z, Y) * scale).backward()
        assert calls == expected, scale


@each_loss
@each_reduction
def test_inputs_are_not_written(name, reduction):
    z = leaf()
    before = [x.clone() for x in (z, T, Y)]
    loss = LOSSES[name](z, reduction=reduction)
    for _ in range(2):
        loss.backward(torch.full_like(loss, 0.3), retain_graph=True)
    for x, old in zip((z, T, Y), before, strict=True):
        assert torch.equal(x, old)


# --------------------------------------------------------------------- autograd


@each_loss
@each_reduction
def test_gradcheck(name, reduction):
    assert torch.autograd.gradcheck(
        lambda z: LOSSES[name](z, reduction=reduction), leaf(Z.double() / 4)
    )


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "FocalLoss"])
def test_pickles(name):
    """A saved model that contains a loss loads with the class that the adapter exports."""
    module = getattr(fused, name)(reduction="sum")
    copy = pickle.loads(pickle.dumps(module))
    assert type(copy) is getattr(fused, name)
    assert copy.reduction == "sum"


@each_loss
def test_backward_twice_and_two_losses(name):
    """Gradients add up over two backward passes and over two losses of the same logits."""
    z = leaf()
    loss = LOSSES[name](z, reduction="sum")
    first = gradient(loss, z, retain_graph=True)
    assert torch.equal(gradient(loss, z, retain_graph=True), first)
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.equal(z.grad, 2 * first)
    z = leaf()
    (LOSSES[name](z, reduction="sum") + LOSSES[name](z, reduction="sum")).backward()
    assert torch.equal(z.grad, 2 * first)


@each_loss
def test_transforms(name):
    """vmap over grad gives the gradient of each sample, and jacrev the Jacobian."""
    z = Z[None].repeat(3, 1, 1) * torch.tensor([1.0, 0.5, 2.0])[:, None, None]
    per_sample = torch.func.vmap(torch.func.grad(lambda z: LOSSES[name](z, reduction="sum")))(z)
    for k in range(3):
        one = leaf(z[k])
        want = gradient(LOSSES[name](one, reduction="sum"), one)
        torch.testing.assert_close(per_sample[k], want)
    jacobian = torch.func.jacrev(lambda z: LOSSES[name](z, reduction="none"))(Z)
    one = leaf()
    loss = LOSSES[name](one, reduction="none")
    assert jacobian.shape == (*loss.shape, 5, 7)
    torch.testing.assert_close(jacobian.sum(tuple(range(loss.ndim))), gradient(loss.sum(), one))


@each_loss
def test_checkpoint(name):
    """Under checkpoint, which repeats the forward pass, the gradient is bit for bit the same."""
    from torch.utils.checkpoint import checkpoint

    z = leaf()
    want = gradient(LOSSES[name](z * 2, reduction="mean"), z)
    for reentrant in (False, True):
        loss = checkpoint(
            lambda z: LOSSES[name](z * 2, reduction="mean"), z, use_reentrant=reentrant
        )
        z.grad = None
        loss.backward()
        assert torch.equal(z.grad, want)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_scaled_losses(reentrant):
    """Two checkpointed losses with a scale agree with torch.

    What a checkpoint saves must not depend on the upstream gradients of other losses.
    """
    from torch.utils.checkpoint import checkpoint

    def both(z, loss):
        return (loss(z) + loss(z * 1.1)) * 0.5

    def checkpointed(z):
        return checkpoint(lambda z: fused.cross_entropy(z * 2, Y), z, use_reentrant=reentrant)

    a, b = leaf(), leaf()
    for _ in range(2):
        both(a, checkpointed).backward()
        both(b, lambda z: F.cross_entropy(z * 2, Y)).backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_batches_of_upstream_gradients():
    """Batches of upstream gradients, whose values vmap does not reveal, give correct gradients."""
    z = leaf()
    loss = fused.cross_entropy(z, Y)
    ups = torch.tensor([1.0, 0.3, 2.0])
    batch = torch.autograd.grad(loss, z, ups, is_grads_batched=True, retain_graph=True)[0]
    torch.testing.assert_close(batch, gradient(loss, z) * ups[:, None, None])
    rows = torch.autograd.functional.jacobian(
        lambda z: fused.cross_entropy(z, Y, reduction="none"), Z, vectorize=True
    )
    assert rows.shape == (5, 5, 7)
    members = torch.func.vmap(
        lambda z, t: fused.binary_cross_entropy_with_logits(z, t, reduction="sum"), (1, 1)
    )(Z, T)
    want = fused.binary_cross_entropy_with_logits(Z, T, reduction="none").sum(0)
    torch.testing.assert_close(members, want)


def test_a_kept_gradient_that_was_changed_is_not_handed_over_again():
    z = leaf()
    loss = fused.cross_entropy(z, Y)
    gradient(loss, z, retain_graph=True).mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient(loss, z)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # it warns that shapes are compared
def test_tracers():
    """A traced graph contains fusedce's operators and gives the same numbers."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def step(z, y):
        return gradient(fused.cross_entropy(z, y) * 2, z)

    for mode in ("real", "fake", "symbolic"):
        traced = make_fx(step, tracing_mode=mode)(leaf(), Y)
        names = {n.target.name() for n in traced.graph.nodes if n.op == "call_function"}
        assert {"fusedce::loss", "fusedce::gradient"} <= names
        torch.testing.assert_close(traced(leaf(Z * 0.5), Y), step(leaf(Z * 0.5), Y))
    with pytest.warns(DeprecationWarning, match="trace"):
        script = torch.jit.trace(lambda z: fused.cross_entropy(z, Y), leaf())
    torch.testing.assert_close(script(Z * 0.5), fused.cross_entropy(Z * 0.5, Y))


HELD = """
    import re, sys, torch
    from pathlib import Path
    if sys.argv[1] == "ours":
        import fusedce.adapters.torch as f
    else:
        f = torch.nn.functional
    def held(which):
        return int(re.search(which + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    def step(rows):
        z = torch.zeros(rows, 1000, requires_grad=True)
        t = torch.zeros(rows, 1000)
        before = held("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        loss = f.binary_cross_entropy_with_logits(z, t, reduction=sys.argv[2])
        torch.autograd.grad(loss, z, torch.tensor(0.5).expand_as(loss))
        return held("VmHWM") - before
    step(8)
    print(step(1 << 14))
"""


@pytest.mark.slow(reason="processes that import torch")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what is held")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_memory_is_not_above_torchs(reduction):
    """The peak memory of both passes over 64 MB of logits is at most 1.05 times torch's."""
    peaks = []
    for who in ("ours", "theirs"):
        command = [sys.executable, "-c", textwrap.dedent(HELD), who, reduction]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        peaks.append(int(done.stdout))
    assert peaks[0] <= 1.05 * peaks[1]


def test_upstream_gradients_of_any_layout():
    """Expanded, column-major and strided upstream gradients agree with torch."""
    z = torch.randn(6, 4)
    t = torch.rand(6, 4)
    ups = {
        "expanded": torch.tensor(0.5).expand(6, 4), "columns": torch.rand(4, 6).t(),
        "steps": torch.rand(6, 8)[:, ::2],
    }  # fmt: skip
    for up in ups.values():
        a, b = leaf(z), leaf(z)
        ours = gradient(fused.binary_cross_entropy_with_logits(a, t, reduction="none"), a, up)
        theirs = gradient(F.binary_cross_entropy_with_logits(b, t, reduction="none"), b, up)
        torch.testing.assert_close(ours, theirs)


def test_grad_scaler():
    """A scaled loss in half precision: no gradient component underflows."""
    z = torch.zeros(4096, 8, dtype=torch.float16)
    y = torch.arange(4096) % 8
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    for autocast in (True, False):
        one = leaf(z)
        with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
            loss = fused.cross_entropy(one, y)
            assert loss.dtype == (torch.float32 if autocast else torch.float16)
        scale = scaler.scale(loss) if autocast else loss * 1024.0
        scale.backward()
        factor = 65536.0 if autocast else 1024.0
        want = torch.full((4096, 8), 1 / 8) - F.one_hot(y, 8)
        torch.testing.assert_close(one.grad.float(), want * (factor / 4096), rtol=2e-3, atol=0)


def test_in_place():
    """inplace=True writes the gradient over the logits.

    torch raises an error if an earlier operation needs the logits.
    """
    for loss_of in ("cross_entropy", "bce", "focal", "softmax focal"):
        z = leaf()
        want = gradient(LOSSES[loss_of](z, reduction="sum"), z)
        logits = z * 1.0
        loss = LOSSES[loss_of](logits, reduction="sum", inplace=True)
        assert torch.equal(logits.detach(), want)
        got = gradient(loss, logits, retain_graph=True)
        assert got.data_ptr() == logits.data_ptr()
        torch.testing.assert_close(gradient(loss, logits, torch.tensor(0.3)), 0.3 * want)
        torch.testing.assert_close(logits.detach(), want, rtol=0, atol=0)
    for loss_of in ("cross_entropy", "focal"):  # one factor for each row, or for each element
        z = leaf(Z[:, :5])
        y, t = Y.clamp(max=4), T[:, :5]
        losses = {
            "cross_entropy": lambda z, y=y, **k: fused.cross_entropy(z, y, reduction="none", **k),
            "focal": lambda z, t=t, **k: fused.sigmoid_focal_loss(z, t, **k),
        }
        want = gradient(losses[loss_of](z).square().sum(), z)
        logits = z * 1.0
        got = gradient(losses[loss_of](logits, inplace=True).square().sum(), logits)
        torch.testing.assert_close(got, want)
    half = leaf(Z.half())
    with torch.autocast("cpu", dtype=torch.float16):
        loss = fused.cross_entropy(half * 1, Y, inplace=True) * 65536
    assert gradient(loss, half).isfinite().all()
    z = leaf()
    loss = fused.cross_entropy(z.exp(), Y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    before = Z.clone()
    fused.cross_entropy(Z, Y, inplace=True)  # nothing is written, because no gradient is asked for
    assert torch.equal(Z, before)
    with pytest.raises(IndexError, match="target 101"):
        fused.cross_entropy(z * 1.0, Y + 100, inplace=True)


def test_threads():
    """Six Python threads at once get bit for bit the gradient of a single one."""
    z = torch.randn(64, 1000)
    y = torch.randint(1000, (64,))
    one = leaf(z)
    want = gradient(fused.cross_entropy(one, y), one)
    wrong = []

    def work():
        for _ in range(20):
            mine = leaf(z)
            loss = fused.cross_entropy(mine, y)
            loss.backward()
            if not torch.equal(mine.grad, want):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert not wrong
    assert not any(t.is_alive() for t in threads)


# --------------------------------------------------------------------- torch.library


def operands(name, reduction, z):
    """The arguments with which the public function calls an operator."""
    seen = []
    real = operators._Loss

    class Spy:
        @staticmethod
        def apply(early, *args):
            seen.append(args)
            return real.apply(early, *args)

    operators._Loss = Spy
    try:
        LOSSES[name](z, reduction=reduction)
    finally:
        operators._Loss = real
    return seen[0]


@each_loss
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck(name, reduction):
    args = operands(name, reduction, leaf())
    torch.library.opcheck(operators._loss, (args[0].detach().requires_grad_(), *args[1:]))
    args = (args[0].detach(), *args[1:])
    torch.library.opcheck(operators._loss_and_gradient, args)
    up = torch.rand(operators._loss(*args).shape)
    torch.library.opcheck(operators._gradient, (up, *args))
    if name != "probabilities":
        torch.library.opcheck(operators._in_place, (args[0].clone(), *args[1:]))


@each_loss
@each_reduction
def test_compile(name, reduction):
    """torch.compile makes one graph of a step, with the loss and gradient of eager mode."""
    torch._dynamo.reset()

    def step(z, scale):
        return LOSSES[name](z * 2, reduction=reduction).mean() * scale

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for scale in (1.0, 65536.0):
        a, b = leaf(), leaf()
        ours, want = compiled(a, torch.tensor(scale)), step(b, torch.tensor(scale))
        torch.testing.assert_close(ours, want)
        torch.testing.assert_close(gradient(ours, a), gradient(want, b), rtol=1e-5, atol=1e-30)


def test_compile_for_any_batch():
    """Batches of other sizes do not make torch.compile compile again."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fused.cross_entropy, fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for n in (3, 31, 32, 33, 100):
        z, y = torch.randn(n, 7), torch.arange(n) % 7
        a, b = leaf(z), leaf(z)
        ours, want = compiled(a, y), F.cross_entropy(b, y)
        torch.testing.assert_close(ours, want)
        torch.testing.assert_close(gradient(ours, a), gradient(want, b))
        graphs.append(counter.frame_count)
    assert graphs == [graphs[0]] * 5


def test_compile_by_inductor():
    """The default backend of torch.compile, inductor, agrees with torch."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("no C++ compiler")
    torch._dynamo.reset()
    model = torch.nn.Linear(7, 7)
    loss = fused.CrossEntropyLoss(label_smoothing=0.1)
    step = torch.compile(lambda z: loss(model(z), Y), fullgraph=True)
    step(Z).backward()
    got = model.weight.grad.clone()
    model.zero_grad()
    F.cross_entropy(model(Z), Y, label_smoothing=0.1).backward()
    torch.testing.assert_close(got, model.weight.grad)


def test_compiled_code_is_not_written_to():
    torch._dynamo.reset()
    step = torch.compile(
        lambda z: fused.cross_entropy(z * 1, Y, inplace=True), backend="aot_eager", fullgraph=True
    )
    with pytest.raises(Exception, match="inplace=True is for eager mode"):
        step(leaf())


def test_export():
    """torch.export makes a graph with one operator, which works for any batch size."""

    class Model(torch.nn.Module):
        def forward(self, z, y):
            return fused.softmax_focal_loss(z, y, gamma=1.5)

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        Model(), (Z, Y), dynamic_shapes=({0: batch}, {0: batch}), strict=True
    )
    assert [n.target.name() for n in program.graph.nodes if n.op == "call_function"] == [
        "fusedce::loss"
    ]
    z, y = torch.randn(33, 7), torch.arange(33) % 7
    torch.testing.assert_close(program.module()(z, y), Model()(z, y))


def test_tensors_on_a_gpu_go_to_the_engine_as_they_are(monkeypatch):
    """GPU tensors are passed on detached, with torch tensors as buffers for the results.

    CPU tensors stand for them here.
    """
    monkeypatch.setattr(operators, "_array", lambda x: x if x is None else x.detach())
    seen = {}
    real = operators.run

    def engine(rule, traits, z, y, **options):
        seen.update(options, logits=z, targets=y)
        for value in seen.values():
            assert not getattr(value, "requires_grad", False)
        arrays = {k: numpy(v) if torch.is_tensor(v) else v for k, v in options.items()}
        return real(rule, traits, numpy(z), numpy(y), **arrays)

    monkeypatch.setattr(operators, "run", engine)
    z = leaf()
    grad = gradient(fused.cross_entropy(z, Y), z)
    assert all(torch.is_tensor(seen[k]) for k in ("logits", "targets", "loss_out", "grad_out"))
    assert grad.data_ptr() == seen["grad_out"].data_ptr()


# --------------------------------------------------------------------- training


def test_digits_trained_by_either_loss():
    """A network trained with either loss has the same loss curve for 200 steps."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    curves = []
    for loss in (fused.CrossEntropyLoss(label_smoothing=0.05),
                 torch.nn.CrossEntropyLoss(label_smoothing=0.05)):  # fmt: skip
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
        descent = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
        curve = []
        for step in range(200):
            rows = torch.arange(step * 64, (step + 1) * 64) % len(x)
            descent.zero_grad()
            value = loss(net(x[rows]), y[rows])
            value.backward()
            descent.step()
            curve.append(value.item())
        curves.append(curve)
    np.testing.assert_allclose(*curves, rtol=2e-4)
    assert curves[0][-1] < 0.6 < 2.0 < curves[0][0]
