"""Measure forward and backward pass of fusedce's adapters for PyTorch and JAX.

They are compared with torch's own losses, with torch.compile and with optax
under jax.jit. No call is timed before its results agree with NumPy's in
float64. The logits are the output of another layer: a view of a leaf, whose
gradient torch.autograd.grad returns. Each call has its results in new memory,
as users have it. The first write into new memory can take longer than the
arithmetic: NumPy asks Linux for huge pages, XLA does not, torch only with
THP_MEM_ALLOC_ENABLE=1. "new copy" is NumPy's copy of the logits into new
memory.

Writes: benchmarks/runs/frameworks.json. A run of a part (--quick, --case,
        --shrink) writes only where --out says. --readme writes the tables of
        benchmarks/README.md.
Takes:  four minutes on two cores, with --quick under a minute.

For example:
  python -m benchmarks.frameworks --quick
      a sixteenth of the rows, without torch.compile and without memory
  python -m benchmarks.frameworks --case focal
      the cases with "focal" in their name
"""

import argparse
import gc
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np

from benchmarks import (
    data,
    floor,
    frameworks_table,
    measure,
    oracle,
    program,
    results,
    rivals,
    screen,
)
from benchmarks.cases import CE, IMAGENET, QUICK, Arrays, Case, Loss, picked
from benchmarks.data import Problem
from benchmarks.frameworks_table import COMPARED, COPY, OURS, OURS_COMPILED, OURS_JAX, WEIGHED
from benchmarks.measure import Contender, Effort
from benchmarks.results import Record
from benchmarks.rivals import Call, Read, Rival
from benchmarks.screen import Tell

SCALE = 65536.0  # factor of the loss, as a gradient scaler applies it


SOFTMAX = {"torch": 4.0, "torch.compile": 2.5, "optax": 2.0}
ELEMENTS = {"torch": 3.0, "torch.compile": 3.0, "optax": 2.0}
FOCAL = Loss("sigmoid", gamma=2.0, alpha=0.25)  # torchvision's defaults
CASES = tuple(
    Case(name + end, title + mark, arrays, loss, upstream=upstream, bars=bars, level=QUICK)
    for name, title, arrays, loss, bars in (
        ("softmax-4096x32000", "softmax 4,096 × 32,000", Arrays((4096, 32_000)), CE, SOFTMAX),
        ("softmax-65536x1000", "softmax 65,536 × 1,000", Arrays(IMAGENET), CE, SOFTMAX),
        ("focal", "sigmoid focal 16 M", Arrays((200_000, 80), "float32"), FOCAL, ELEMENTS),
        ("bfloat16", "bfloat16 65,536 × 1,000", Arrays(IMAGENET, dtype="bfloat16"), CE, {}),
    )
    for upstream, end, mark in ((1.0, "", ""), (SCALE, "-scaled", ", × 2¹⁶"))
)


# --------------------------------------------------------------------- who is timed


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


def torch_focal(loss: Loss, reduction: str = "mean") -> Callable[[Any, Any], Any]:
    """torchvision's focal loss in torch's operations."""
    torch: Any = importlib.import_module("torch")
    alpha, gamma = loss.alpha or 0.0, loss.gamma

    def focal(z: Any, t: Any) -> Any:
        p = torch.sigmoid(z)
        values = torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")
        values = values * (1 - (p * t + (1 - p) * (1 - t))) ** gamma
        values = (alpha * t + (1 - alpha) * (1 - t)) * values
        return getattr(values, reduction)()

    return focal


def prepare_torch(problem: Problem, *, ours: bool, compiled: bool = False) -> tuple[Call, Read]:
    """Forward and backward pass by autograd."""
    torch = rivals.torch_with(numba.get_num_threads())
    loss, upstream = torch_loss(problem.case.loss, ours), problem.case.upstream
    if compiled:
        loss = torch.compile(loss, fullgraph=True, dynamic=False)
    leaf = rivals.as_torch(problem.logits).requires_grad_()
    t = rivals.as_torch(problem.targets)

    def call() -> Any:
        z = leaf.view_as(leaf)
        value = loss(z, t)
        scaled = value if upstream == 1 else value * upstream
        return value.detach(), torch.autograd.grad(scaled, z)[0]

    return call, lambda got: (float(got[0]), got[1].float().numpy())


def prepare_jax(problem: Problem, *, module: str) -> tuple[Call, Read]:
    """``jax.jit(jax.value_and_grad(loss))`` on JAX's CPU device."""
    jax = rivals.jax_with(numba.get_num_threads())
    losses: Any = importlib.import_module(module)
    loss, t, upstream = problem.case.loss, problem.targets, problem.case.upstream
    if loss.activation == "softmax":
        function = losses.softmax_cross_entropy_with_integer_labels
        t = t.astype(np.int32)  # JAX has no int64 by default
    else:
        function = partial(losses.sigmoid_focal_loss, alpha=loss.alpha, gamma=loss.gamma)
    call, read = rivals.jax_call(
        jax, lambda z, t: upstream * function(z, t).mean(),
        jax.numpy.asarray(problem.logits), jax.numpy.asarray(t),
    )  # fmt: skip

    def unscaled(got: Any) -> Any:
        value, grad = read(got)
        return value / upstream, grad

    return call, unscaled


def _way(name: str, modules: str, prepare: Callable[..., Any], **more: Any) -> Rival:
    """A way to compute a mean loss and its gradient under a framework."""
    install = rivals.TORCH if modules.startswith("torch") else ""
    if more.get("compiles"):
        more["needs"] = rivals.no_compiler
    ours = "fusedce" in modules
    return Rival(name, tuple(modules.split()), prepare, install=install, ours=ours, **more)


TORCH, JAX = "torch fusedce.adapters.torch", "jax fusedce.adapters.jax"
WAYS: tuple[Rival, ...] = (
    _way(OURS, TORCH, partial(prepare_torch, ours=True)),
    _way("torch", "torch", partial(prepare_torch, ours=False)),
    _way(OURS_COMPILED, TORCH, partial(prepare_torch, ours=True, compiled=True), compiles=True),
    _way("torch.compile", "torch", partial(prepare_torch, ours=False, compiled=True),
         compiles=True),
    _way(OURS_JAX, JAX, partial(prepare_jax, module="fusedce.adapters.jax")),
    _way("optax", "jax optax", partial(prepare_jax, module="optax")),
)  # fmt: skip


# --------------------------------------------------------------------- time


def timed(case: Case, ways: list[Rival], effort: Effort, tell: Tell) -> Record:
    """One row of the table, without the memory; an adapter that is wrong ends the run."""
    tell("arrays and oracle")
    problem = data.make(case.divided(effort.shrink))
    expected = oracle.answer(problem)
    source, threads = floor.words(problem.logits), numba.get_num_threads()
    copy = Contender(COPY, lambda: floor.library_copy(source, np.empty_like(source), threads))
    if any(way.compiles for way in ways):  # torch compiles a function for a few shapes only
        importlib.import_module("torch._dynamo").reset()

    def enter(way: Rival) -> Contender:
        call, read = way.prepare(problem)
        return measure.enter(way.name, call, read, problem, expected)

    contenders, skipped = measure.admit(ways, enter, tell)
    for way in ways:
        if way.ours and way.name in skipped:
            raise SystemExit(f"{way.name}, {case.name}: {skipped[way.name]}")
    contenders.insert(0, copy.enter())
    measure.take_turns(contenders, effort)
    return {
        "case": case.name, "title": case.title, "upstream": case.upstream,
        "shape": list(problem.logits.shape), "dtype": case.arrays.dtype,
        "ms": {c.name: c.summary() for c in contenders},
        "ratios": ratios(case, {c.name: c.times for c in contenders}),
        "skipped": skipped,
    }  # fmt: skip


def ratios(case: Case, times: dict[str, list[float]]) -> list[Record]:
    """The ratios of the others' times to ours, by medians, and their spread."""
    found = []
    for ours, theirs, _ in COMPARED:
        if ours not in times or theirs not in times:
            continue
        mine, other = times[ours], times[theirs]
        low, high = np.percentile(1 / measure.by_round(mine, other), (20, 80))
        value, bar = np.median(other) / np.median(mine), case.bars.get(theirs)
        figures = {"value": value, "p20": low, "p80": high}
        line: Record = {"ours": ours, "theirs": theirs}
        line |= {key: float(f"{figure:.4g}") for key, figure in figures.items()}
        found.append(line | {"bar": bar, "met": None if bar is None else bool(value >= bar)})
    return found


# --------------------------------------------------------------------- memory


def resident(which: str) -> int:
    """Bytes of this process in memory: VmRSS is the present, VmHWM the highest number."""
    found = re.search(rf"^{which}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    if found is None:
        raise OSError("this system does not report how much memory a process holds")
    return 1024 * int(found[1])


def high_water(call: Call) -> int:
    """The peak memory of a call in bytes, results included, beyond what is held before it.

    glibc returns arrays above 32 MB to the system when they are freed; it may keep smaller ones for
    the next call, which then seems to need less.
    """
    call()  # compiles, starts threads
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    before = resident("VmRSS")
    kept = call()
    highest = resident("VmHWM")
    del kept
    return highest - before


def weigh(record: Record, case: Case, shrink: int) -> None:
    """Add the peak memory of each way, in multiples of the logits, measured in a new process."""
    record["memory"] = {}
    for name in WEIGHED:
        if name not in record["ms"]:
            continue
        command = [sys.executable, "-m", "benchmarks.frameworks", "--peak", name]
        command += ["--case", case.name, "--shrink", str(shrink)]
        done = subprocess.run(command, cwd=results.ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            record["memory"][name] = round(float(done.stdout), 3)
        else:
            why = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
            record["skipped"][f"memory of {name}"] = why


def peak(name: str, case: Case, shrink: int) -> float:
    """The peak memory of one way in multiples of the logits, measured in this process."""
    problem = data.make(case.divided(shrink))
    (way,) = picked(WAYS, [name], "way")
    return high_water(way.prepare(problem)[0]) / problem.logits.nbytes


# --------------------------------------------------------------------- the program


class Frameworks(program.Suite):
    """``python -m benchmarks.frameworks``."""

    name = "frameworks"
    all_cases = CASES
    efforts = Effort(5, 0.1, 2, shrink=16), Effort(15, 1.0, 5)
    tables = staticmethod(frameworks_table.tables)
    page_tables = staticmethod(frameworks_table.page_tables)

    def measure(
        self, wanted: list[Case], others: list[Rival], effort: Effort, tell: Tell
    ) -> Iterator[Record]:
        """A record for each case, with the memory unless the rows are few."""
        for case in wanted:
            record = timed(case, others, effort, tell)
            gc.collect()
            if not self.options.quick:
                tell("memory")
                weigh(record, case, effort.shrink)
            yield record

    def page(self, result: Record) -> list[str]:
        """The paragraphs of benchmarks/README.md; the last one also names what was left out."""
        *parts, origin = super().page(result)
        lines = screen.skipped(result["missing_rivals"], result["cases"])
        return [*parts, origin + (f" Left out: {'; '.join(lines)}." if lines else "")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = screen.Parser("python -m benchmarks.frameworks", __doc__)
    add, names = parser.add_argument, [case.name for case in CASES]
    add("--quick", action="store_true",
        help="measure a sixteenth of the rows in fewer rounds, without torch.compile and without "
        "memory")  # fmt: skip
    add("--case", action="append", default=[], metavar="NAME",
        help="measure only the cases of this name: a whole name, a part of one, or a glob pattern, "
        f"of {', '.join(names)}; may be repeated (default: all)")  # fmt: skip
    add("--shrink", type=screen.whole, metavar="N",
        help="divide the rows of every case by N (default: 1, with --quick 16)")  # fmt: skip
    parser.add_output()
    add("--peak", choices=[way.name for way in WAYS], help=argparse.SUPPRESS)
    absent: dict[str, Any] = {"rival": [], "shape": [], "dtype": [], "loss": []}
    parser.set_defaults(list=False, all=False, against=None, **absent)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    suite = Frameworks(parse(argv), WAYS)
    if suite.options.peak:
        print(peak(suite.options.peak, suite.cases()[0], suite.options.shrink or 1))
        return 0
    return program.main(suite, screen.console())


if __name__ == "__main__":
    sys.exit(main())
