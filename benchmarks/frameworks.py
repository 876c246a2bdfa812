"""The adapters against what their users would call instead: loss and gradient, both passes.

python -m benchmarks.frameworks             every case, some four minutes
python -m benchmarks.frameworks --quick     a sixteenth of the rows, no torch.compile, no memory
python -m benchmarks.frameworks --case focal
python -m benchmarks.frameworks --readme    no measurement: the README's table from the last result

Every case leaves a result in benchmarks/runs; a part leaves one only with --out.

The logits are what another layer puts out: a view of a leaf, and ``torch.autograd.grad`` asks for
their gradient. So nobody copies it into ``.grad``, which torch may do for a leaf. Each call has its
results in new memory, as users have it, and to write there for the first time can cost more than
the arithmetic: NumPy asks Linux for huge pages, XLA does not, torch only with
THP_MEM_ALLOC_ENABLE=1. "new copy" is a copy of the logits into new memory of NumPy's.
"""

import argparse
import gc
import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from rich.console import Console

from benchmarks import data, floor, frameworks_table, measure, oracle, results, rivals, screen
from benchmarks.cases import CE, IMAGENET, Arrays, Case, Loss, selected
from benchmarks.data import Problem
from benchmarks.frameworks_table import COMPARED, COPY, OURS, OURS_COMPILED, OURS_JAX, WEIGHED
from benchmarks.measure import Call, Contender, Effort
from benchmarks.rivals import Read
from benchmarks.screen import say

Record = dict[str, Any]
RESULT = "frameworks.json"
SCALE = 65536.0  # of the loss, as a gradient scaler has it


@dataclass(frozen=True)
class Task:
    """A case, the upstream gradient of its loss, and how many times faster than others to be."""

    case: Case
    upstream: float = 1.0
    bars: dict[str, float] = field(default_factory=dict)  # by the name of the other

    @property
    def name(self) -> str:
        """As it is chosen."""
        return self.case.name + ("" if self.upstream == 1 else "-scaled")

    @property
    def title(self) -> str:
        """As it is shown."""
        return self.case.title + ("" if self.upstream == 1 else ", × 2¹⁶")


SOFTMAX = {"torch": 4.0, "torch.compile": 2.5, "optax": 2.0}
ELEMENTS = {"torch": 3.0, "torch.compile": 3.0, "optax": 2.0}
FOCAL = Loss("sigmoid", gamma=2.0, alpha=0.25)  # torchvision's defaults
TASKS = tuple(
    Task(Case(name, title, arrays, loss), upstream, bars)
    for name, title, arrays, loss, bars in (
        ("softmax-4096x32000", "softmax 4,096 × 32,000", Arrays((4096, 32_000)), CE, SOFTMAX),
        ("softmax-65536x1000", "softmax 65,536 × 1,000", Arrays(IMAGENET), CE, SOFTMAX),
        ("focal", "sigmoid focal 16 M", Arrays((200_000, 80), "float32"), FOCAL, ELEMENTS),
        ("bfloat16", "bfloat16 65,536 × 1,000", Arrays(IMAGENET, dtype="bfloat16"), CE, {}),
    )
    for upstream in (1.0, SCALE)
)


# --------------------------------------------------------------------- who is timed


@dataclass(frozen=True)
class Way:
    """Someone who computes a mean loss and its gradient under a framework."""

    name: str
    modules: tuple[str, ...]  # without which there is nothing to measure
    prepare: Callable[[Task, Problem], tuple[Call, Read]]
    ours: bool = False
    compiled: bool = False  # by torch.compile

    def missing(self) -> str | None:
        """Why it cannot be measured here."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                return f"not installed: {error.name}"
        return rivals.no_compiler() if self.compiled else None


def torch_loss(loss: Loss, ours: bool) -> Callable[[Any, Any], Any]:
    """The mean loss: torch's own (focal: torchvision's definition), or the adapter's."""
    torch: Any = importlib.import_module("torch")
    if not ours:
        entropy = torch.nn.functional.cross_entropy
        return torch_focal(loss) if loss.gamma else lambda z, t: entropy(z, t)
    adapter: Any = importlib.import_module("fusedce.adapters.torch")
    if not loss.gamma:
        return lambda z, t: adapter.cross_entropy(z, t)
    focal, options = adapter.sigmoid_focal_loss, {"alpha": loss.alpha, "gamma": loss.gamma}
    return lambda z, t: focal(z, t, **options, reduction="mean")


def torch_focal(loss: Loss) -> Callable[[Any, Any], Any]:
    """torchvision's focal loss in torch's operations."""
    torch: Any = importlib.import_module("torch")
    alpha, gamma = loss.alpha or 0.0, loss.gamma

    def focal(z: Any, t: Any) -> Any:
        p = torch.sigmoid(z)
        values = torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")
        values = values * (1 - (p * t + (1 - p) * (1 - t))) ** gamma
        return ((alpha * t + (1 - alpha) * (1 - t)) * values).mean()

    return focal


def prepare_torch(
    task: Task, problem: Problem, *, ours: bool, compiled: bool = False
) -> tuple[Call, Read]:
    """Forward and backward pass by autograd."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool that outlives the case
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(numba.get_num_threads())
    loss = torch_loss(problem.case.loss, ours)
    if compiled:
        loss = torch.compile(loss, fullgraph=True, dynamic=False)
    leaf = rivals.as_torch(problem.logits).requires_grad_()
    t = rivals.as_torch(problem.targets)

    def call() -> Any:
        z = leaf.view_as(leaf)
        value = loss(z, t)
        scaled = value if task.upstream == 1 else value * task.upstream
        return value.detach(), torch.autograd.grad(scaled, z)[0]

    return call, lambda got: (float(got[0]), got[1].float().numpy())


def prepare_jax(task: Task, problem: Problem, *, module: str) -> tuple[Call, Read]:
    """``jax.jit(jax.value_and_grad(loss))`` on jax's CPU device."""
    os.environ.setdefault("NPROC", str(numba.get_num_threads()))  # read at the first import
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax: Any = importlib.import_module("jax")
    losses: Any = importlib.import_module(module)
    loss, t = problem.case.loss, problem.targets
    if loss.activation == "softmax":
        function = losses.softmax_cross_entropy_with_integer_labels
        t = t.astype(np.int32)  # jax has no others unless told
    else:
        function = partial(losses.sigmoid_focal_loss, alpha=loss.alpha, gamma=loss.gamma)
    both = jax.jit(jax.value_and_grad(lambda z, t: task.upstream * function(z, t).mean()))
    z, t = jax.numpy.asarray(problem.logits), jax.numpy.asarray(t)
    return (
        lambda: jax.block_until_ready(both(z, t)),
        lambda got: (float(got[0]) / task.upstream, np.asarray(got[1])),
    )


TORCH, JAX = ("torch", "fusedce.adapters.torch"), ("jax", "optax", "fusedce.adapters.jax")
WAYS: tuple[Way, ...] = (
    Way(OURS, TORCH, partial(prepare_torch, ours=True), ours=True),
    Way("torch", TORCH[:1], partial(prepare_torch, ours=False)),
    Way(OURS_COMPILED, TORCH, partial(prepare_torch, ours=True, compiled=True), True, True),
    Way("torch.compile", TORCH[:1], partial(prepare_torch, ours=False, compiled=True),
        compiled=True),
    Way(OURS_JAX, JAX[::2], partial(prepare_jax, module=JAX[2]), ours=True),
    Way("optax", JAX[:2], partial(prepare_jax, module=JAX[1])),
)  # fmt: skip


# --------------------------------------------------------------------- time


def make(task: Task, shrink: int) -> tuple[Problem, oracle.Answer]:
    """The arrays of a task, and what is right in float64: the gradient of loss times upstream."""
    problem = data.make(task.case.divided(shrink))
    right = oracle.answer(problem)
    return problem, replace(right, grad=right.grad * task.upstream)


def enter(way: Way, task: Task, problem: Problem, right: oracle.Answer) -> Contender | str:
    """Someone who agrees, or why they are not timed; an adapter that does not ends the run."""
    try:
        call, read = way.prepare(task, problem)
        contender = measure.enter(way.name, call, read, problem, right)
    except Exception as error:
        wrong = isinstance(error, oracle.Disagreement)
        what = "does not agree" if wrong else type(error).__name__
        why = f"{what}: {(str(error).strip() or '?').splitlines()[0]}"
        if way.ours:
            raise SystemExit(f"{way.name}, {task.name}: {why}") from error
        return why
    contender.rival = not way.ours
    return contender


def timed(task: Task, ways: list[Way], how: Effort, tell: Callable[[str], None]) -> Record:
    """One row of the table, memory left out."""
    tell("arrays and oracle")
    problem, right = make(task, how.shrink)
    source, threads = floor.words(problem.logits), numba.get_num_threads()
    copy: Call = lambda: floor.library_copy(source, np.empty_like(source), threads)  # noqa: E731
    contenders = [Contender(COPY, copy, measure.clock(copy)[0], measure.clock(copy)[0])]
    skipped = {}
    if any(way.compiled for way in ways):  # a function is compiled for a few shapes, then no more
        importlib.import_module("torch._dynamo").reset()
    for way in ways:
        tell(f"{way.name}: first call")
        entered = enter(way, task, problem, right)
        if isinstance(entered, str):
            skipped[way.name] = entered
        else:
            contenders.append(entered)
    tell("taking turns")
    measure.take_turns(contenders, how)
    return {
        "case": task.name, "title": task.title, "upstream": task.upstream,
        "shape": list(problem.logits.shape), "dtype": problem.case.arrays.dtype,
        "ms": {c.name: c.summary() for c in contenders},
        "ratios": ratios(task, {c.name: c.times for c in contenders}),
        "skipped": skipped,
    }  # fmt: skip


def ratios(task: Task, times: dict[str, list[float]]) -> list[Record]:
    """How many times as long the others take, by medians, and the spread of it."""
    found = []
    for ours, theirs, _ in COMPARED:
        if ours not in times or theirs not in times:
            continue
        mine, other = np.asarray(times[ours]), np.asarray(times[theirs])
        same = len(mine) == len(other)
        low, high = map(
            float, np.percentile((other if same else np.median(other)) / mine, (20, 80))
        )
        value = float(np.median(other) / np.median(mine))
        line: Record = {"ours": ours, "theirs": theirs, "value": float(f"{value:.4g}")}
        line |= {"p20": float(f"{low:.4g}"), "p80": float(f"{high:.4g}")}
        bar = task.bars.get(theirs)
        found.append(line | {"bar": bar, "met": None if bar is None else bool(value >= bar)})
    return found


# --------------------------------------------------------------------- memory


def resident(which: str) -> int:
    """Bytes of this process in memory: VmRSS now, VmHWM at most."""
    found = re.search(rf"^{which}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    if found is None:
        raise OSError("this system does not tell how much memory a process holds")
    return 1024 * int(found[1])


def high_water(call: Call) -> int:
    """Bytes that a call holds at most, its results included, beside what is there before it.

    glibc gives arrays above 32 MB back when they are freed; smaller ones it may keep for the next
    call, which then seems to need less.
    """
    call()  # compiles, starts threads
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far becomes the present
    before = resident("VmRSS")
    kept = call()
    highest = resident("VmHWM")
    del kept
    return highest - before


def weigh(record: Record, task: Task, shrink: int) -> None:
    """Add the high water of each, in multiples of the logits, from a process of its own."""
    record["memory"] = {}
    for name in WEIGHED:
        if name not in record["ms"]:
            continue
        command = [sys.executable, "-m", "benchmarks.frameworks", "--peak", name]
        command += ["--case", task.name, "--shrink", str(shrink)]
        done = subprocess.run(command, cwd=results.ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            record["memory"][name] = round(float(done.stdout), 3)
        else:
            why = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
            record["skipped"][f"memory of {name}"] = why


def peak(name: str, task: Task, shrink: int) -> float:
    """What one process finds."""
    problem, _ = make(task, shrink)
    way = next(way for way in WAYS if way.name == name)
    return high_water(way.prepare(task, problem)[0]) / problem.logits.nbytes


# --------------------------------------------------------------------- the program


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = screen.Parser("python -m benchmarks.frameworks", __doc__)
    add, names = parser.add_argument, [task.name for task in TASKS]
    add("--quick", action="store_true", help="fewer rows and rounds, no compilers, no memory")
    add("--case", action="append", default=[], metavar="NAME",
        help=f"only these: a name, part of it, or glob; of {', '.join(names)}")  # fmt: skip
    add("--shrink", type=screen.whole, metavar="N", help="divide the rows of every case by N")
    add("--out", type=Path, metavar="FILE", help="where the result goes (JSON)")
    add("--readme", action="store_true",
        help="measure nothing: README.md from the last result, or that of --out")  # fmt: skip
    add("--peak", choices=[way.name for way in WAYS], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(
    console: Console, tasks: list[Task], ways: list[Way], how: Effort, weighing: bool
) -> list[Record]:
    """Measure every task."""

    def one(task: Task, tell: Callable[[str], None]) -> Record:
        record = timed(task, ways, how, tell)
        gc.collect()
        if weighing:
            tell("memory")
            weigh(record, task, how.shrink)
        return record

    def table(records: list[Record]) -> screen.Grid:
        return frameworks_table.table(records, how.shrink)

    return screen.one_by_one(console, tasks, lambda task: task.title, one, table)


def renew(path: Path) -> None:
    """The result of the README, and the README from it."""
    readme, result = results.ROOT / "README.md", results.shown(path, RESULT)
    text = frameworks_table.render(readme.read_text(encoding="utf-8"), result)
    readme.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; the exit status."""
    options, console = parse(argv), screen.console()
    if options.readme:
        path = options.out or results.latest(RESULT)
        renew(path)
        say(console, f"README.md renewed from {screen.place(path)}")
        return 0
    names = selected([task.name for task in TASKS], options.case or ["*"], "case")
    tasks = [task for task in TASKS if task.name in names]
    if options.peak:
        print(peak(options.peak, tasks[0], options.shrink or 1))
        return 0
    missing = {way.name: why for way in WAYS if (why := way.missing())}
    how = Effort(rounds=15, budget=1.0, least=5, shrink=options.shrink or 1)
    if options.quick:
        how = Effort(rounds=5, budget=0.1, least=2, shrink=options.shrink or 16)
        seldom = f"{rivals.SELDOM}; not in --quick"
        missing |= {way.name: seldom for way in WAYS if way.compiled}
    start = time.perf_counter()
    ways = [way for way in WAYS if way.name not in missing]
    records = run(console, tasks, ways, how, weighing=not options.quick)
    for line in screen.skipped(missing, records):
        say(console, f"skipped: {line}")
    settings = {"threads": numba.get_num_threads(), "seconds": round(time.perf_counter() - start)}
    result = results.document(records, missing, settings | asdict(how))
    say(console, results.caption(result), "dim")
    narrow = options.quick or options.case or options.shrink
    path = options.out or (None if narrow else results.RUNS / RESULT)
    if path:
        results.write(result, path)
        say(console, f"result: {screen.place(path)}, {settings['seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
