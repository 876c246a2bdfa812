"""fusedce.adapters.torch under torch.func and the tools of autograd, on samples of torch's tests.

The samples are those of torch's own database of operators (OpInfo), upon which functorch's test_ops
is built; each check here is one of its tests: vjp, grad, vmap, vmapvjp, vjpvmap, jvp. The reference
is torch's loss and its autograd, for one member of a batch at a time.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional
fused = pytest.importorskip("fusedce.adapters.torch")
operators = pytest.importorskip("fusedce.adapters.torch_operators")

# torch raises this warning itself when its transforms and its compiler are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
OPS = (
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
)  # fmt: skip
each_op = pytest.mark.parametrize("op", OPS)
each_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
Y = torch.tensor([1, 2, -100, 0, 6])
Z = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 4
T = torch.rand(5, 7, generator=torch.Generator().manual_seed(1))
LOSSES = {
    "cross_entropy": lambda z, m=fused, **k: m.cross_entropy(z, Y, **k),
    "soft": lambda z, m=fused, **k: m.cross_entropy(z, T, label_smoothing=0.1, **k),
    "bce": lambda z, m=fused, **k: m.binary_cross_entropy_with_logits(z, T, pos_weight=T[0], **k),
    "probabilities": lambda z, m=fused, **k: m.binary_cross_entropy(z.sigmoid(), T, **k),
    "focal": lambda z, m=fused, **k: m.sigmoid_focal_loss(z, T, **k),
    "softmax focal": lambda z, m=fused, **k: m.softmax_focal_loss(z, Y, **k),
}
MODULES = {
    "CrossEntropyLoss": lambda z, m=fused, **k: m.CrossEntropyLoss(T[0], **k)(z, Y),
    "BCEWithLogitsLoss": lambda z, m=fused, **k: m.BCEWithLogitsLoss(T[0], **k)(z, T),
    "BCELoss": lambda z, m=fused, **k: m.BCELoss(**k)(z.sigmoid(), T),
    "FocalLoss": lambda z, m=fused, **k: m.FocalLoss(0.3, 1.5, **k)(z, T),
    "SoftmaxFocalLoss": lambda z, m=fused, **k: m.SoftmaxFocalLoss(T[0], **k)(z, Y),
}
ALL = LOSSES | MODULES
each_loss = pytest.mark.parametrize("name", LOSSES)
each = pytest.mark.parametrize("name", ALL)

# Runs in another process, because the import changes settings of torch and hypothesis. expecttest
# does not come with torch; only its base class of tests is needed, so a stub replaces it.
SAMPLES = """
    import sys, types, unittest, torch
    sys.modules.setdefault("expecttest", types.SimpleNamespace(TestCase=unittest.TestCase))
    from torch.testing._internal.common_methods_invocations import op_db
    torch.manual_seed(0)
    found = {}
    for op in op_db:
        name = op.name.removeprefix("nn.functional.")
        if name in sys.argv[2:]:
            found[name] = [
                (s.input.detach(), s.args[0].detach(), s.kwargs)
                for s in op.sample_inputs("cpu", torch.float64, requires_grad=False)
            ]
    torch.save(found, sys.argv[1])
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Fixture: for each operator the samples (input, target, options)."""
    path = tmp_path_factory.mktemp("samples") / "samples.pt"
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SAMPLES), str(path), *OPS]
    subprocess.run(command, check=True, timeout=300)
    found = torch.load(path)
    assert {op: len(found[op]) > 9 for op in OPS} == dict.fromkeys(OPS, True)
    return found


def leaf(z=Z):
    return z.detach().clone().requires_grad_()


def spread(x):
    """The same numbers with a stride of 2 along the last axis."""
    return torch.stack([x, x + 1], -1)[..., 0]


def upstream(loss, seed=2):
    return torch.randn(loss.shape, generator=torch.Generator().manual_seed(seed), dtype=loss.dtype)


def torchs(op, z, y, options, up=None):
    """(loss, gradient) by torch's loss and its autograd."""
    z = leaf(z)
    loss = getattr(F, op)(z, y, **options)
    return loss.detach(), torch.autograd.grad(loss, z, upstream(loss) if up is None else up)[0]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


# --------------------------------------------------------------------- functorch's test_ops


@each_op
def test_vjp(op, samples):
    """The function that vjp returns gives torch's gradients when it is called afterwards.

    Also for strided logits and upstream gradients.
    """
    for z, y, options in samples[op]:
        want, want_grad = torchs(op, z, y, options)
        for x in (z, spread(z)):
            loss, pull = torch.func.vjp(lambda x: getattr(fused, op)(x, y, **options), x)  # noqa: B023
            close(loss, want)
            for up in (upstream(loss), spread(upstream(loss))):
                close(pull(up)[0], want_grad)
        z = leaf(z)
        loss = getattr(fused, op)(z, y, **options)
        close(torch.autograd.grad(loss, z, upstream(loss), create_graph=True)[0], want_grad)


@each_op
def test_grad(op, samples):
    for z, y, options in samples[op]:
        loss = lambda z, y=y, options=options: getattr(fused, op)(z, y, **options).sum()  # noqa: E731
        want = torchs(op, z, y, options, torch.ones_like(getattr(F, op)(z, y, **options)))
        for x in (z, spread(z)):
            close(torch.func.grad(loss)(x), want[1])
            close(torch.func.grad_and_value(loss)(x), (want[1], want[0].sum()))


def some(samples, op):
    """Every fourth sample, of nll_loss every 20th: nll_loss is torch's own function."""
    return samples[op][:: 20 if op == "nll_loss" else 4]


def batches(tensors):
    """For each choice of the batched tensors: (in_dims, arguments, members of the batch).

    The batch axis is the first or the last one.
    """
    for which in itertools.product((None, 0, -1), repeat=len(tensors)):
        if all(d is None for d in which):
            continue
        members = [
            [x] * 3 if d is None else [x, x.flip(0) if x.ndim else x, x.roll(1)]
            for d, x in zip(which, tensors, strict=True)
        ]
        batch = [
            x if d is None else torch.stack(m, d)
            for d, x, m in zip(which, tensors, members, strict=True)
        ]
        yield which, batch, list(zip(*members, strict=True))


def parts(z, y, options):
    """The tensors of a sample, and a function of them that calls a loss."""
    names = [k for k, v in options.items() if torch.is_tensor(v)]

    def call(m, op, z, y, *weights):
        return getattr(m, op)(z, y, **options | dict(zip(names, weights, strict=True)))

    return (z, y, *(options[k] for k in names)), call


@each_op
def test_vmap(op, samples):
    """vmap over any of logits, targets and weights agrees with torch."""
    for z, y, options in some(samples, op):
        tensors, call = parts(z, y, options)
        for dims, batch, members in batches(tensors):
            got = torch.func.vmap(lambda *x, call=call: call(fused, op, *x), dims)(*batch)
            close(got, torch.stack([call(F, op, *m) for m in members]))


@each_op
def test_vmap_of_vjp(op, samples):
    """vmap of vjp over any of logits, targets and upstream gradients agrees with torch."""
    for z, y, options in some(samples, op):
        up = upstream(getattr(F, op)(z, y, **options))
        for dims, batch, members in batches((z, y, up)):

            def pulled(z, y, up, options=options):
                return torch.func.vjp(lambda z: getattr(fused, op)(z, y, **options), z)[1](up)[0]

            want = [torchs(op, z, y, options, up)[1] for z, y, up in members]
            close(torch.func.vmap(pulled, dims)(*batch), torch.stack(want))


@each_op
def test_vjp_of_vmap(op, samples):
    for z, y, options in some(samples, op):
        for dims, batch, members in batches((z, y)):
            if dims[0] is None:
                continue
            many = torch.func.vmap(lambda z, y, o=options: getattr(fused, op)(z, y, **o), dims)
            loss, pull = torch.func.vjp(lambda z, y=batch[1], many=many: many(z, y), batch[0])
            up = upstream(loss)
            want = [torchs(op, z, y, options, u)[1] for (z, y), u in zip(members, up, strict=True)]
            close(pull(up)[0], torch.stack(want, dims[0]))


@each_op
def test_gradcheck(op, samples):
    """First derivatives, also with batched upstream gradients, agree with finite differences."""
    for z, y, options in samples[op][::2]:
        assert torch.autograd.gradcheck(
            lambda z, y=y, options=options: getattr(fused, op)(z, y, **options), leaf(z),
            check_batched_grad=True,
        )  # fmt: skip


# --------------------------------------------------------------------- other reverse-mode tools


def reference(name, reduction, z=Z, up=None):
    """(loss, gradient) of torch; of focal losses our own, which other tests check."""
    z = leaf(z)
    own = "focal" in name.lower()
    loss = ALL[name](z, fused if own or name in MODULES else F, reduction=reduction)
    if name in ("CrossEntropyLoss", "BCEWithLogitsLoss", "BCELoss"):
        loss = ALL[name](z, torch.nn, reduction=reduction)
    return loss, torch.autograd.grad(loss, z, torch.ones_like(loss) if up is None else up)[0]


@each
@each_reduction
def test_ways_to_a_first_derivative(name, reduction):
    loss_of = lambda z: ALL[name](z, reduction=reduction)  # noqa: E731
    loss, want = reference(name, reduction)
    up = torch.ones_like(loss)
    near = {"rtol": 2e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.func.vjp(loss_of, Z)[1](up)[0], want, **near)
    torch.testing.assert_close(torch.func.grad(lambda z: loss_of(z).sum())(Z), want, **near)
    rows = torch.func.jacrev(loss_of)(Z)
    assert rows.shape == (*loss.shape, 5, 7)
    torch.testing.assert_close(rows.reshape(-1, 5, 7).sum(0), want, **near)
    torch.testing.assert_close(torch.func.jacrev(loss_of, chunk_size=2)(Z), rows)
    torch.testing.assert_close(torch.autograd.functional.vjp(loss_of, Z, up)[1], want, **near)
    for vectorize in (False, True):
        again = torch.autograd.functional.jacobian(loss_of, Z, vectorize=vectorize)
        torch.testing.assert_close(again, rows, **near)
    z = leaf()
    one, two = loss_of(z * 1), loss_of(z * 2)  # several outputs, once with create_graph
    both = torch.autograd.grad((one, two), z, (up, up), retain_graph=True)[0]
    graph = torch.autograd.grad((one, two), z, (up, up), create_graph=True)[0]
    assert graph.requires_grad
    torch.testing.assert_close(graph.detach(), both, rtol=1e-6, atol=1e-7)
    two_want = reference(name, reduction, 2 * Z)[1]
    torch.testing.assert_close(both, want + 2 * two_want, rtol=2e-5, atol=2e-6)


@each
def test_functional_call_of_a_model(name):
    model = torch.nn.Linear(7, 7)
    params = dict(model.named_parameters())

    def loss(params, x):
        return ALL[name](torch.func.functional_call(model, params, x), reduction="sum")

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, torch.stack([Z, Z / 2]))
    for k, x in enumerate((Z, Z / 2)):
        model.zero_grad()
        ALL[name](model(x), reduction="sum").backward()
        torch.testing.assert_close(per_sample["weight"][k], model.weight.grad, rtol=1e-5, atol=1e-5)


@each_loss
@each_reduction
def test_hooks_of_gradients(name, reduction):
    """A tensor hook, a post-accumulate hook and a node hook are each called with the gradient."""
    z = leaf()
    logits = z * 1
    seen = []
    logits.register_hook(lambda g: seen.append(g) or g * 2)
    z.register_post_accumulate_grad_hook(lambda z: seen.append(z.grad))
    loss = LOSSES[name](logits, reduction=reduction)
    loss.grad_fn.register_hook(lambda grads, ups: seen.append(grads[1] if len(grads) > 1 else None))
    loss.sum().backward()
    assert len(seen) == 3
    torch.testing.assert_close(z.grad, 2 * seen[1])
    torch.testing.assert_close(z.grad, 2 * reference(name, reduction)[1], rtol=2e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
@each_loss
def test_one_graph_for_first_derivatives_of_both_kinds(name):
    """create_graph=True and False give the same gradient, in any order."""
    z = leaf()
    loss = LOSSES[name](z, reduction="mean")
    want = torch.autograd.grad(loss, z, retain_graph=True)[0]
    for create in (True, False, True):
        got = torch.autograd.grad(loss, z, retain_graph=True, create_graph=create)[0]
        assert got.requires_grad is create
        torch.testing.assert_close(got.detach(), want, rtol=1e-6, atol=1e-8)
    z.grad = None
    loss.backward(create_graph=True)
    torch.testing.assert_close(z.grad.detach(), want, rtol=1e-6, atol=1e-8)


# --------------------------------------------------------------------- not supported


@each_loss
@each_reduction
def test_second_derivatives_are_refused_where_they_are_taken(name, reduction):
    loss_of = lambda z: LOSSES[name](z, reduction=reduction).sum()  # noqa: E731
    z, scale = leaf(), torch.tensor(0.3, requires_grad=True)
    (first,) = torch.autograd.grad(loss_of(z) * scale, z, create_graph=True)
    for of in (z, scale):
        with pytest.raises(RuntimeError, match="first derivatives"):
            torch.autograd.grad(first.square().sum(), of, retain_graph=True)
    for taken in (
        lambda: torch.func.grad(lambda z: torch.func.grad(loss_of)(z).square().sum())(Z),
        lambda: torch.func.jacrev(torch.func.jacrev(loss_of))(Z),
        lambda: torch.autograd.functional.hessian(loss_of, Z),
        lambda: torch.autograd.functional.hvp(loss_of, Z, Z),
    ):
        with pytest.raises(RuntimeError, match="first derivatives"):
            taken()


def test_second_derivatives_in_place():
    """With inplace=True, create_graph=True raises an error: the logits are overwritten."""
    z = leaf()
    loss = fused.cross_entropy(z * 1, Y, inplace=True)
    with pytest.raises(RuntimeError, match="first derivatives"):
        torch.autograd.grad(loss, z, create_graph=True)


def dual(function):
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        return function(forward.make_dual(Z, Z))


FORWARD = {
    "jvp": lambda f: torch.func.jvp(f, (Z,), (Z,)),
    "jacfwd": lambda f: torch.func.jacfwd(f)(Z),
    "hessian": lambda f: torch.func.hessian(f)(Z),
    "linearize": lambda f: torch.func.linearize(f, Z),
    "dual": dual,
    "vmap of jvp": lambda f: torch.func.vmap(lambda z: torch.func.jvp(f, (z,), (z,)))(Z[None]),
    "jacobian": lambda f: torch.autograd.functional.jacobian(
        f, Z, strategy="forward-mode", vectorize=True
    ),
}


@pytest.mark.parametrize("mode", FORWARD)
@each_loss
def test_forward_mode_is_refused(name, mode):
    """Forward mode raises an error that says what to use instead."""
    with pytest.raises(RuntimeError, match=r"no forward-mode derivatives.*take torch\.func\.vjp"):
        FORWARD[mode](lambda z: LOSSES[name](z, reduction="mean"))


def test_forward_mode_by_targets_and_by_upstream_gradients_is_refused():
    """Tangents of targets and of upstream gradients raise an error and are not omitted."""
    forward = torch.autograd.forward_ad
    with pytest.raises(RuntimeError, match="no forward-mode"):
        dual(lambda t: fused.binary_cross_entropy_with_logits(Z, t))
    for create in (False, True):
        for loss in (fused.cross_entropy(z := leaf(), Y), fused.cross_entropy(z, Y) * 0.5):
            with forward.dual_level():
                up = forward.make_dual(torch.tensor(1.0), torch.tensor(2.0))
                with pytest.raises(RuntimeError, match="no forward-mode"):
                    torch.autograd.grad(loss, z, up, create_graph=create)


def test_tangents_of_others_are_no_error():
    """In forward mode, a loss without tangents and a backward pass work."""
    value, tangent = torch.func.jvp(lambda x: x.sum() + fused.cross_entropy(Z, Y), (Z,), (Z,))
    torch.testing.assert_close(value, Z.sum() + F.cross_entropy(Z, Y))
    torch.testing.assert_close(tangent, Z.sum())
    with torch.autograd.forward_ad.dual_level():
        z = leaf()
        fused.cross_entropy(z, Y).backward()
    torch.testing.assert_close(z.grad, reference("cross_entropy", "mean")[1])


@pytest.mark.parametrize("mode", ["jvp", "dual"])
def test_forward_mode_of_traced_code_is_refused(mode):
    """Forward mode of compiled or exported code raises; an operator would give a tangent of 0."""

    class Model(torch.nn.Module):
        def forward(self, z):
            return fused.cross_entropy(z, Y)

    torch._dynamo.reset()
    exported = torch.export.export(Model(), (Z,)).module()
    inside = torch.compile(lambda z: fused.cross_entropy(z, Y), backend="aot_eager")
    inside(Z)
    for traced in (exported, inside):
        with pytest.raises(Exception, match="no forward-mode derivatives"):
            FORWARD[mode](traced)
    if mode == "jvp":
        around = torch.compile(
            lambda z: torch.func.jvp(lambda z: fused.cross_entropy(z, Y), (z,), (z,)),
            backend="aot_eager",
        )
        with pytest.raises(Exception, match="no forward-mode derivatives"):
            around(Z)
    z = leaf()
    (first,) = torch.autograd.grad(exported(z), z, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives"):
        torch.autograd.grad(first.sum(), z)


# --------------------------------------------------------------------- compiled autograd

# torch raises this warning itself, because compiled autograd reads .grad of every input.
of_compiled_autograd = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
SCALED = {"mean": [1.0, 0.3], "sum": [-2.0], "none": [1.0, 0.3]}


@of_compiled_autograd
@each_loss
@each_reduction
def test_compiled_autograd_of_an_eager_forward_pass(name, reduction, monkeypatch):
    """One graph without breaks for any upstream gradient; later calls compile no new graph."""
    from torch._dynamo.testing import CompileCounterWithBackend

    monkeypatch.setattr(operators, "_ones", {})
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    graphs = []
    for scale in SCALED[reduction] * 4:
        z = leaf()
        loss = LOSSES[name](z, reduction=reduction)
        up = torch.full_like(loss, scale)
        compiler = torch.compile(backend=counter, fullgraph=True)
        with torch._dynamo.compiled_autograd._enable(compiler):
            loss.backward(up)
        want = reference(name, reduction, up=up)[1]
        torch.testing.assert_close(z.grad, want, rtol=2e-5, atol=1e-6)
        graphs.append(counter.frame_count)
    assert graphs[-1] == graphs[len(graphs) // 2]


@of_compiled_autograd
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_compiled_autograd_of_a_step(scale, inplace, monkeypatch):
    """With compiled_autograd set in torch, eager, compiled and in-place steps agree with torch."""
    monkeypatch.setattr(operators, "_ones", {})
    torch._dynamo.reset()

    def step(z):
        (fused.cross_entropy(z * 2, Y, inplace=inplace) * scale).backward()

    want = leaf()
    (F.cross_entropy(want * 2, Y) * scale).backward()
    with torch._dynamo.config.patch(compiled_autograd=True):
        for run in [step] if inplace else [step, torch.compile(step, backend="aot_eager")]:
            z = leaf()
            with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
                run(z)
            torch.testing.assert_close(z.grad, want.grad, rtol=2e-5, atol=1e-6)
