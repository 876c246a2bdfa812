"""Loss and gradient: fusedce against plain NumPy, and both against a copy of the same bytes.

The copy is the floor: nothing that reads logits and targets from memory and writes a gradient is
faster. The contenders alternate within one process, and NumPy's answer must agree with fusedce's
before anything is timed. Run: ``python -m benchmarks.throughput [--quick] [--readme]``.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

import fusedce
from benchmarks.rivals import Floats, blocks, copy_dense, copy_rows, focal_numpy, softmax_numpy

Array = NDArray[Any]
Record = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "throughput.json"
ROUNDS, FEW = 15, 3  # NumPy and fresh outputs are slow enough to be measured by few rounds


class Case(NamedTuple):
    """One loss at one size."""

    name: str
    shape: tuple[int, ...]
    dense: bool  # targets: one float32 a logit, or one class index a row
    fused: Callable[..., Any]  # (logits, targets, grad_out=) -> loss, grad
    plain: Callable[[Floats, Array, Floats], float]  # fills its last argument


def cases(quick: bool) -> list[Case]:
    """The sizes, and why these: each stands for one shape of real work."""
    few = 64 if quick else 1

    def softmax(rows: int, classes: int) -> Case:
        shape = rows // few, classes
        name = f"softmax {shape[0]}×{classes}"
        return Case(name, shape, False, fusedce.cross_entropy, softmax_numpy)

    size = (64 << 20) // few
    fused = partial(fusedce.focal, gamma=2.0)
    return [
        softmax(4096, 32_000),  # a language model's vocabulary: a row is larger than L1
        softmax(65_536, 1000),  # ImageNet: a row fits L1
        softmax(200_000, 80),  # COCO: a row is five cache lines
        softmax(2_000_000, 10),  # digits, pixels: a row is shorter than a vector
        Case(f"focal {size}", (size,), True, fused, focal_numpy),
    ]


def make_data(case: Case) -> tuple[Floats, Array]:
    """Draw logits of standard deviation 3; class indices, or dense labels with 5% positives."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(case.shape, dtype=np.float32)
    logits *= 3
    if not case.dense:
        return logits, rng.integers(0, case.shape[1], case.shape[0])
    targets = rng.random(case.shape, dtype=np.float32)
    return logits, np.less(targets, 0.05, out=targets)


def must_agree(case: Case, logits: Floats, targets: Array, grad: Floats) -> None:
    """Raise unless loss and every gradient component of fusedce and NumPy are the same."""
    expected = np.empty_like(grad)
    expected_loss = case.plain(logits, targets, expected)
    loss, _ = case.fused(logits, targets, grad_out=grad)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, err_msg=case.name)
    atol = 1e-6 * float(max(expected.max(), -expected.min()))
    for part in blocks(len(grad), grad[:1].size):
        np.testing.assert_allclose(grad[part], expected[part], rtol=1e-4, atol=atol)


def milliseconds(call: Callable[[], Any]) -> float:
    """Wall time of one call, after a pause in which the previous one's threads go to sleep."""
    time.sleep(0.01)
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def measure(case: Case) -> Record:
    """Check, warm up, then time the contenders in turns; milliseconds as p20, p50, p80."""
    logits, targets = make_data(case)
    grad = np.empty_like(logits)
    must_agree(case, logits, targets, grad)
    copy = copy_dense if case.dense else copy_rows
    flat = logits.reshape(-1), targets, grad.reshape(-1)
    copy(*flat)  # compiles
    contenders: dict[str, tuple[int, Callable[[], Any]]] = {
        "fusedce": (ROUNDS, lambda: case.fused(logits, targets, grad_out=grad)),
        "copy": (ROUNDS, lambda: copy(*flat)),
        "numpy": (FEW, lambda: case.plain(logits, targets, grad)),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS):
        for name, (rounds, call) in contenders.items():
            if turn < rounds:
                times[name].append(milliseconds(call))
    # In a row, as in training, so that the memory one call gave back serves the next.
    fresh = [milliseconds(lambda: case.fused(logits, targets)) for _ in range(1 + FEW)]
    times["fresh"] = fresh[1:]
    return summary(case, logits.nbytes + targets.nbytes + grad.nbytes, times)


def summary(case: Case, moved: int, times: dict[str, list[float]]) -> Record:
    """Percentiles of each contender and the ratios of their medians."""
    quantiles = {k: np.percentile(v, (20, 50, 80)).round(3).tolist() for k, v in times.items()}
    median = {k: v[1] for k, v in quantiles.items()}
    return {
        "case": case.name,
        "shape": case.shape,
        "bytes": moved,
        "ms_p20_p50_p80": quantiles,
        "rounds": {k: len(v) for k, v in times.items()},
        "fusedce_over_copy": round(median["fusedce"] / median["copy"], 2),
        "numpy_over_fusedce": round(median["numpy"] / median["fusedce"], 1),
        "fusedce_gb_per_s": round(moved / median["fusedce"] / 1e6, 1),
    }


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = info.exists() and re.search(r"model name\s*:\s*(.+)", info.read_text())
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> str | None:
    """The checkout's commit, marked where the engine differs from it; None without git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "fusedce", "kernels")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance() -> Record:
    """Where, with what and when the figures were taken."""
    names = ("fusedce", "numba", "numpy")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": numba.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
    }


TITLE = "cross-entropy (softmax) and focal loss (sigmoid, γ = 2) with gradient, float32"
HEADINGS = (
    "ms",
    "fusedce",
    "p20-p80",
    "new output",
    "copy",
    "NumPy",
    "fusedce ÷ copy",
    "NumPy ÷ fusedce",
)


def row(record: Record) -> list[str]:
    """One line of the table: medians and, for fusedce, the spread."""
    ms = record["ms_p20_p50_p80"]
    low, median, high = ms["fusedce"]
    return [
        record["case"],
        f"{median:.1f}",
        f"{low:.1f}-{high:.1f}",
        *(
            f"{ms[name][1]:.{places}f}"
            for name, places in (("fresh", 1), ("copy", 1), ("numpy", 0))
        ),
        f"{record['fusedce_over_copy']:.2f}",
        f"{record['numpy_over_fusedce']:.1f}",
    ]


def caption(where: Record) -> str:
    """One line that says where the figures come from."""
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
    place = f"{where['processor']}, {where['threads']} threads of {where['cores']} cores"
    return f"{place}; {versions}; {where['date']}, commit {where['commit'] or 'unknown'}"


def write_readme(result: Record) -> None:
    """Replace the table between the two markers of README.md."""
    rule = ["---", *["---:"] * (len(HEADINGS) - 1)]
    lines = [list(HEADINGS), rule, *map(row, result["cases"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    source = caption(result["where"])
    text = f"<!-- throughput -->\n{TITLE}:\n\n{table}\n\n{source}\n<!-- /throughput -->"
    path = ROOT / "README.md"
    marked = re.compile("<!-- throughput -->.*<!-- /throughput -->", re.DOTALL)
    path.write_text(marked.sub(lambda _: text, path.read_text()))


def main() -> None:
    """Measure every case, print the table; full runs also write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="1/64 of every size; writes nothing")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md too")
    options = parser.parse_args()

    console = Console()
    records = []
    with console.status("measuring") as status:
        for case in cases(options.quick):
            status.update(case.name)
            records.append(measure(case))
    result: Record = {"where": provenance(), "cases": records}

    table = Table(
        title=TITLE, caption=caption(result["where"]), box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.collapse_padding, table.pad_edge = True, False
    for k, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if k else "left", no_wrap=k < 3)
    for record in records:
        table.add_row(*row(record))
    console.print(table)
    if not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
        if options.readme:
            write_readme(result)


if __name__ == "__main__":
    main()
