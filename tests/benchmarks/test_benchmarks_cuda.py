"""The GPU benchmark without a GPU: NumPy replaces CuPy, and the host's clock the CUDA events."""

import dataclasses
import sys
import time
import types

import ml_dtypes
import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import cases as shared
from benchmarks import oracle
from benchmarks.cases import LISTED
from benchmarks.cuda import cases, data, device, measure, rivals
from benchmarks.measure import OURS, Effort

FEW = Effort(rounds=3, budget=0.01, least=1, shrink=1 << 14)
FACTS = {"gpu": "Made Up", "memory_gb": 1.0, "l2_mb": 1.0, "processors": 1, "capability": "9.0",
         "driver": None, "cuda": {}}  # fmt: skip
COPY = {"gb_per_s": 4000.0, "way": "copyto", "bytes": 4 << 30, "ways": {}}


class Host:
    """The part of ``device.Device`` that the rest of the benchmark uses, in NumPy."""

    xp = np

    def __init__(self, room=1e12):
        self.room = room
        self.log = []

    def put(self, a):
        return np.array(a)

    def double(self, a):
        return a.astype(np.float64)

    def to_torch(self, a):
        torch = sys.modules["torch"]
        if a.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(a)

    def from_torch(self, tensor):
        torch = sys.modules["torch"]
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    def release(self):
        pass

    def free(self):
        return self.room

    def poison(self, size):
        self.log.append(size)

    def memory(self, call):
        call()
        return 1 << 20

    def first(self, call):
        return 0.5, call()

    def seconds(self, call, before):
        before()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start, 1e-5

    def copies(self, source, target):
        return {"copyto": lambda: np.copyto(target, source)}

    def facts(self):
        return FACTS


def case(name):
    return next(c for c in cases.CASES if c.name == name)


def small(name):
    """A case with few rows."""
    return cases.divided(case(name), 1 << 14)


# --------------------------------------------------------------------- cases


def test_cases():
    names = [c.name for c in cases.CASES]
    assert len(set(names)) == len(names) == (8 * 3 + len(LISTED)) * 3
    assert all(len(c.title) <= 28 for c in cases.CASES)
    assert [c.name for c in shared.chosen(1, ["focal-float32-loss"], cases.CASES)] == [
        "focal-float32-loss"
    ]
    quick = shared.chosen(0, [], cases.CASES)
    assert {c.arrays.dtype for c in quick} == {"bfloat16"}
    assert {c.group for c in quick} == {"gradient"}
    groups = cases.by_problem(shared.chosen(1, [], cases.CASES))
    assert len(groups) == 24 + len(LISTED)
    assert all([c.group for c in group] == list(cases.MODES) for group in groups)


def test_bytes():
    """Logits are read and written, or only read for the loss alone; dense labels are read too."""
    n = 16_384 * 32_000
    for dtype, size in (("float32", 4), ("bfloat16", 2), ("float16", 2)):
        asked = [case(f"16384x32000-{dtype}-{mode}") for mode in cases.MODES]
        assert [c.bytes_read for c in asked] == [n * size + 16_384 * 8] * 3
        assert [c.bytes_written for c in asked] == [n * size, n * size, 0]
        dense = case(f"focal-{dtype}-gradient")
        assert dense.bytes_read + dense.bytes_written == 3 * size * 100_000_000


def test_bars():
    wide, chip = case("8192x128256-bfloat16-gradient"), case("16384x32000-float32-gradient")
    assert cases.bars(wide) == {"torch": 1.0, "copy": 0.75, "Liger-Kernel": 1.3,
                                "torch.compile": 1.4}  # fmt: skip
    assert cases.bars(chip) == {"torch": 1.0, "copy": 0.9}
    assert cases.bars(case("8192x128256-float32-gradient")) == {"torch": 1.0, "copy": 0.75}
    assert cases.bars(case("images-float16-upstream")) == {"torch": 1.0, "copy": 0.9}
    assert cases.bars(case("focal-float16-gradient")) == {"torch": 1.0, "copy": 0.85}
    assert cases.bars(case("bce-float16-gradient")) == {"torch": 1.0}
    assert cases.bars(case("4096x4096-float16-loss")) == {"torch": 1.0}


@pytest.mark.parametrize("name", [c.name for c in cases.CASES if c.group == "gradient"])
def test_arrays(name):
    question = small(name)
    problem = data.make(question, Host())
    assert problem.logits.shape == question.arrays.shape == problem.grad.shape
    assert problem.logits.dtype == problem.grad.dtype == question.arrays.dtype
    assert problem.logits.nbytes + problem.targets.nbytes == question.bytes_read
    if question.loss.activation == "softmax":
        assert problem.targets.shape == tuple(np.delete(question.arrays.shape, problem.axis))


def test_rows_repeat():
    problem = data.make(cases.divided(case("1000000x80-bfloat16-gradient"), 16), Host())
    block, labels = problem.block
    rows = np.arange(62_500) % len(block)
    assert len(block) == (1 << 20) // 80
    assert np.array_equal(problem.logits, block[rows])
    assert np.array_equal(problem.targets, labels[rows])


# --------------------------------------------------------------------- who may be timed


def record_of(name, others=(), host=None, **more):
    found = measure.measured([case(name)], list(others), FEW, host or Host(), **more)
    return next(iter(found))


def named(name):
    return next(r for r in rivals.RIVALS if r.name == name)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [("4096x4096", "bfloat16"), ("1000000x80", "float16"), ("images", "float32"),
     ("images", "bfloat16"), ("focal", "float32"), ("focal", "float16"), ("bce", "bfloat16")],
)  # fmt: skip
def test_rivals_agree(shape, dtype):
    """Torch and the plain array expressions agree with the oracle in each of the three modes."""
    pytest.importorskip("torch")
    questions = [case(f"{shape}-{dtype}-{mode}") for mode in cases.MODES]
    others = [named("torch"), named("CuPy")]
    for record in measure.measured(questions, others, FEW, Host()):
        assert record["skipped"] == {}
        assert set(record["ms"]) == {OURS, "copy", "torch", "CuPy"}


def liar(spoil):
    """A rival with plain array expressions, whose result is changed by ``spoil``."""

    def prepare(problem, gpu):
        entries = rivals.prepare_cupy(problem, gpu)

        def entry(question):
            honest = entries(question)
            return dataclasses.replace(honest, read=lambda got: spoil(*honest.read(got)))

        return entry

    return dataclasses.replace(named("CuPy"), name="liar", prepare=prepare)


@pytest.mark.parametrize("mode", ["gradient", "upstream"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda loss, grad: (2 * loss, grad),
        lambda loss, grad: (loss, -grad),
        lambda loss, grad: (loss, grad * 1024),
        lambda loss, grad: (loss, grad / 1024),
        lambda loss, grad: (loss, np.full_like(grad, np.nan)),
    ],
)
def test_who_disagrees_is_not_timed(spoil, mode):
    record = record_of(f"4096x4096-float32-{mode}", [liar(spoil)])
    assert "does not agree" in record["skipped"]["liar"]
    assert set(record["ms"]) == {OURS, "copy"}


def test_fusedce_must_agree_too(monkeypatch, capsys):
    """If fusedce is wrong in a case, the status is 1 and the other cases are still measured."""
    true = cases.Loss.__call__

    def spoilt(loss, z, *args, **options):
        found = true(loss, z, *args, **options)
        return (1.0, found[1]) if z.dtype == np.float32 else found

    monkeypatch.setattr(cases.Loss, "__call__", spoilt)
    monkeypatch.setattr(device, "find", Host)
    monkeypatch.setattr(device, "bandwidth", lambda gpu: COPY)
    for dtypes, status in (("float32", "float16"), 1), (("float16",), 0):
        names = [f"--case=4096x4096-{dtype}-gradient" for dtype in dtypes]
        words = ["--device", "cuda", *names, "--rival", "none", "--shrink", "4096"]
        assert program.main(words) == status
        text = capsys.readouterr().out
        assert ("4,096 × 4,096 float32: fusedce is wrong: loss" in text) == bool(status)
        assert "4,096 × 4,096 float16 gradient: " in text


def test_what_does_not_fit_or_has_no_time_is_left_out_by_name():
    def broken(problem, gpu):
        raise RuntimeError("no compiler\nand more")

    cupy = named("CuPy")
    others = [
        dataclasses.replace(cupy, name="large", memory=lambda c: 1e9),
        dataclasses.replace(cupy, name="slow to compile", compiles=True),
        dataclasses.replace(cupy, name="broken", prepare=broken),
        named("Liger-Kernel"),
    ]
    record = record_of("images-float32-gradient", others, late=lambda: True)
    assert record["skipped"].pop("large").startswith("needs some ")
    assert record["skipped"] == {
        "slow to compile": "no time left to compile it",
        "broken": "RuntimeError: no compiler",
        "Liger-Kernel": "takes rows in C order",
    }
    record = record_of("8192x128256-float32-gradient", host=Host(room=1e6))
    assert record["left_out"] == "needs some 0 GB"
    assert "ms" not in record


def test_a_fresh_copy_before_each_run():
    """A rival that overwrites the logits gets a new copy before each call, which is not timed."""
    order = []

    def prepare(problem, gpu):
        entries = rivals.prepare_cupy(problem, gpu)
        return lambda question: rivals.Entry(
            lambda: order.append("call") or entries(question).call(),
            entries(question).read,
            lambda: order.append("before"),
        )

    record = record_of("4096x4096-float32-gradient",
                       [dataclasses.replace(named("CuPy"), prepare=prepare)])  # fmt: skip
    assert "CuPy" in record["ms"]
    assert order == ["before", "call"] * (len(order) // 2)
    assert len(order) >= 2 * (3 + 1)


def test_oracle_is_asked_for_the_upstream_gradient():
    right = oracle.Answer(1.0, np.ones((2, 2)))
    question = case("4096x4096-float32-upstream")
    assert (measure.answer_for(right, question).grad == cases.SCALE).all()
    assert measure.answer_for(right, question).loss == 1.0


# --------------------------------------------------------------------- the clock


def cupy_of(log):
    """The part of CuPy that the clock uses; its calls are appended to ``log``."""

    class Event:
        def record(self):
            log.append("event")

        def synchronize(self):
            log.append("wait")

    class Scratch:
        nbytes = 64
        data = types.SimpleNamespace(memset_async=lambda value, size: log.append("flush"))

    runtime = types.SimpleNamespace(memGetInfo=lambda: (1 << 30, 1 << 30))
    elapsed = lambda first, last: 2.0  # noqa: E731
    cuda = types.SimpleNamespace(runtime=runtime, Event=Event, get_elapsed_time=elapsed)
    return types.SimpleNamespace(cuda=cuda, uint8=np.uint8, empty=lambda size, kind: Scratch())


def test_a_run_is_one_call_between_two_events_behind_a_flush():
    log = []
    gpu = device.Device(cupy_of(log))
    seconds, host = gpu.seconds(lambda: log.append("call"), lambda: log.append("before"))
    assert seconds == 0.002
    assert 0 <= host < 1
    assert log == ["before", "flush", "event", "call", "event", "wait"]


class There(np.ndarray):
    """A stand-in for an array on the device."""


def test_arrays_go_there():
    """put keeps scalars and bfloat16 values, and double converts any part of an array."""
    cupy = cupy_of([])
    cupy.asarray = lambda a: np.asarray(a).view(There)
    gpu = device.Device(cupy)
    number = gpu.put(np.float32(3.5))
    assert type(number) is There
    assert (number.shape, number.dtype, float(number)) == ((), np.float32, 3.5)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.int64):
        a = (np.arange(-12, 12) / 4).reshape(2, 3, 4).astype(dtype)
        there = gpu.put(a.T)
        assert there.dtype == dtype
        assert np.array_equal(there, a.T)
        part = gpu.double(np.moveaxis(there, 1, -1)[1:])
        assert part.dtype == np.float64
        assert np.array_equal(part, np.moveaxis(a.T, 1, -1)[1:].astype(float))
        assert type(part) is There


def test_bandwidth_is_that_of_the_faster_way():
    host = Host(room=8 * 8 * 1000)
    host.copies = lambda a, b: {"slow": Way(2e-6), "fast": Way(1e-6)}
    host.seconds = lambda call, before: (call.seconds, 0.0)
    found = device.bandwidth(host)
    assert found["way"] == "fast"
    assert found["bytes"] == 8000
    assert found["gb_per_s"] == pytest.approx(2 * 8000 / 1e-6 / 1e9)


@dataclasses.dataclass
class Way:
    seconds: float

    def __call__(self):
        pass
