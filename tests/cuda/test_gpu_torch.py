"""Tensors on a GPU: fusedce.adapters.torch gives the same results as on the CPU."""

from __future__ import annotations

import pytest

from tests.cuda.gpu import missing

torch = pytest.importorskip("torch")
fused = pytest.importorskip("fusedce.adapters.torch")
REASON = missing() or ("" if torch.cuda.is_available() else "no GPU: this torch has no CUDA")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]

Z = torch.randn(33, 1000, generator=torch.Generator().manual_seed(0)) * 4
Y = torch.arange(33) * 7
Y[5] = -100
T = torch.rand(33, 1000, generator=torch.Generator().manual_seed(1)).mul(64).round() / 64
LOSSES = {
    "cross_entropy": lambda z, y, t, **k: fused.cross_entropy(z, y, label_smoothing=0.1, **k),
    "weighted": lambda z, y, t, **k: fused.cross_entropy(z, y, t[0].to(z.dtype) + 0.5, **k),
    "soft": lambda z, y, t, **k: fused.cross_entropy(z, t.to(z.dtype), **k),
    "bce": lambda z, y, t, **k: fused.binary_cross_entropy_with_logits(
        z, t.to(z.dtype), t[:, :1].to(z.dtype), pos_weight=t[0].to(z.dtype) + 0.5, **k
    ),
    "probabilities": lambda z, y, t, **k: fused.binary_cross_entropy(
        z.sigmoid(), t.to(z.dtype), **k
    ),
    "focal": lambda z, y, t, **k: fused.sigmoid_focal_loss(z, t.to(z.dtype), **k),
    "softmax focal": lambda z, y, t, **k: fused.softmax_focal_loss(z, y, **k),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def derivatives(name, device, dtype, reduction, scale=0.3, where=None):
    z = Z.to(device, dtype).requires_grad_()
    loss = LOSSES[name](z if where is None else where(z), Y.to(device), T.to(device),
                        reduction=reduction)  # fmt: skip
    (grad,) = torch.autograd.grad(loss, z, torch.full_like(loss, scale))
    assert loss.device.type == grad.device.type == torch.device(device).type
    return loss.detach().cpu().double(), grad.cpu().double()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@each_loss
def test_as_on_the_cpu(name, reduction, dtype):
    bar = {"float64": 1e-12, "float32": 2e-5, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    here, there = (derivatives(name, d, getattr(torch, dtype), reduction) for d in ("cpu", "cuda"))
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b, a, rtol=bar, atol=bar * 1e-3, equal_nan=True)


@each_loss
def test_strides(name):
    """Strided logits: every other column of a column-major array, each column twice."""
    where = lambda z: z.t().contiguous().t()[:, ::2].repeat_interleave(2, 1)  # noqa: E731
    here, there = (derivatives(name, d, torch.float32, "sum", 1.0, where) for d in ("cpu", "cuda"))
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b, a, rtol=2e-5, atol=1e-5)


@each_loss
def test_streams_and_no_waiting(name):
    """Work is on torch's current stream, and a loss is computed without waiting for the device."""
    want = derivatives(name, "cuda", torch.float32, "mean")
    stream = torch.cuda.Stream()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            z = Z.cuda(non_blocking=True).requires_grad_()
            y, t = Y.cuda(non_blocking=True), T.cuda(non_blocking=True)
            loss = LOSSES[name](z, y, t, reduction="mean")
            (grad,) = torch.autograd.grad(loss, z, torch.full_like(loss, 0.3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    assert torch.equal(loss.detach().cpu().double(), want[0])
    assert torch.equal(grad.cpu().double(), want[1])


@each_loss
def test_compiled(name):
    torch._dynamo.reset()
    z, y, t = Z.cuda().requires_grad_(), Y.cuda(), T.cuda()
    compiled = torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")
    grads = [
        torch.autograd.grad(f(z, y, t, reduction="mean"), z)[0] for f in (compiled, LOSSES[name])
    ]
    torch.testing.assert_close(*grads)


def test_labels_out_of_range_are_nan():
    """A label out of range makes its row NaN; it causes no illegal access and no CUDA error."""
    z = Z.cuda().requires_grad_()
    loss = fused.cross_entropy(z, torch.where(Y == 7, 5000, Y).cuda(), reduction="none")
    loss.sum().backward()
    assert loss.isnan().nonzero().flatten().tolist() == [1]
    assert z.grad[1].isnan().all()
    assert z.grad[2:].isfinite().all()


def test_in_place():
    z = Z.cuda().requires_grad_()
    (want,) = torch.autograd.grad(fused.cross_entropy(z, Y.cuda()), z)
    logits = z * 1
    loss = fused.cross_entropy(logits, Y.cuda(), inplace=True)
    torch.testing.assert_close(logits.detach(), want)
    loss.backward()
    torch.testing.assert_close(z.grad, want)
