"""Make random calls for ten minutes: results and memory must stay the same.

Loss, shape, dtype, layout, targets and option of a call are drawn at random. A
call that is repeated must give the same bits. One call in eight has something
wrong with it and must raise an error. The exit status is 1 if the memory grows
by more than 32 MiB.

Writes: nothing.
Takes:  ten minutes, or what --seconds says, and the first compilation.

For example:
  python -m tests.house.soak --seconds 60
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np

import fusedce
from fusedce.tools.command_line import Parser

LIMIT = 32 << 20  # bytes that allocators may keep; a leak of 1 KB per call is 50 MB in a minute
SHAPES = ((1, 2), (32, 10), (3, 1000), (200, 80), (2, 3, 40, 40), (4000, 7), (2, 70_000))
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
LAYOUTS = ("as it is", "Fortran", "reversed", "every second")
LOSSES = (
    (fusedce.cross_entropy, "softmax"), (fusedce.cross_entropy, "sigmoid"),
    (fusedce.focal, "sigmoid"),
)  # fmt: skip
OPTIONS = ("", "weight", "label_smoothing", "reduction", "return_grad", "sample_weight")
WRONG = ("label", "shape", "dtype", "label_smoothing")


def resident():
    """The resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def laid(array, layout):
    """The same numbers in another layout."""
    if layout == "Fortran":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1].copy()[::-1]
    return np.repeat(array, 2, axis=0)[::2] if layout == "every second" else array


def inputs(shape, dtype, layout, dense):
    """(logits, targets), the same for the same arguments."""
    rng = np.random.default_rng(shape[1])
    logits = rng.normal(size=shape).astype(dtype)
    targets = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    if dense:
        targets = (logits == logits.max(axis=1, keepdims=True)).astype(np.float32)
    return laid(logits, layout), targets


def option(name, classes):
    """The option of this name with a value; no option for an empty name."""
    values = {
        "weight": np.linspace(0.5, 2, classes), "label_smoothing": 0.1, "reduction": "none",
        "return_grad": False, "sample_weight": np.float32(2),
    }  # fmt: skip
    return {name: values[name]} if name else {}


def bits(result):
    """A hash of all bytes of a result."""
    results = result if isinstance(result, tuple) else (result,)
    return hash(tuple(np.asarray(a).tobytes() for a in results))


def refused(wrong, logits, targets):
    """Whether a call with an invalid argument raises an error."""
    options = {"label_smoothing": 2.0} if wrong == "label_smoothing" else {}
    if wrong == "label":
        targets = np.full((len(logits), *logits.shape[2:]), logits.shape[1])
    elif wrong == "shape":
        targets = np.zeros((5, 4, 3))
    elif wrong == "dtype":
        logits = np.zeros(logits.shape, int)
    try:
        fusedce.cross_entropy(logits, targets, axis=1, **options)
    except (IndexError, TypeError, ValueError):
        return True
    return False


class Soak:
    """Calls from several threads, and the hash of the first result of each kind of call."""

    def __init__(self):
        self.seen = {}
        self.calls = 0
        self.end = 0.0
        self.failure = None

    def call(self, shape, dtype, layout, dense, loss, name):
        function, activation = loss
        logits, targets = inputs(shape, dtype, layout, dense)
        options = option(name, shape[1])
        found = bits(function(logits, targets, activation=activation, axis=1, **options))
        key = hash((shape, np.dtype(dtype).name, layout, dense, function, activation, name))
        assert self.seen.setdefault(key, found) == found, "other bits than the first time"
        self.calls += 1

    def everything_once(self):
        """Compile the kernels of all losses, shapes and dtypes before the memory is measured."""
        for words in itertools.product(SHAPES, DTYPES, LAYOUTS[:1], (True, False), LOSSES, [""]):
            self.call(*words)

    def work(self, seed):
        chance = random.Random(seed)
        try:
            while time.monotonic() < self.end and self.failure is None:
                words = [
                    chance.choice(some)
                    for some in (SHAPES, DTYPES, LAYOUTS, (True, False), LOSSES, OPTIONS)
                ]
                if chance.random() < 0.125:
                    wrong = chance.choice(WRONG)
                    assert refused(wrong, *inputs(*words[:4])), f"no error for a wrong {wrong}"
                else:
                    self.call(*words)
        except BaseException as error:
            error.add_note(f"in a call of {words}")
            self.failure = error

    def run(self, seconds, threads):
        """Run the threads; return the growth of the memory in bytes after a fifth of the time."""
        self.everything_once()
        begin = time.monotonic()
        self.end = begin + seconds
        pool = [threading.Thread(target=self.work, args=(k,), daemon=True) for k in range(threads)]
        for thread in pool:
            thread.start()
        first = None
        while any(thread.is_alive() for thread in pool):
            time.sleep(min(seconds / 10, 10))
            now = resident()
            if first is None and time.monotonic() > begin + seconds / 5:
                first = now
            passed = time.monotonic() - begin
            print(f"{passed:4.0f} s {self.calls:8} calls {now / 1e6:7.1f} MB", flush=True)
        if self.failure is not None:
            raise self.failure
        return now - first


def parser():
    found = Parser("python -m tests.house.soak", __doc__)
    text = "make calls for S seconds (default: 600)"
    found.add_argument("--seconds", type=float, default=600.0, metavar="S", help=text)
    text = "call from N threads at the same time (default: 2)"
    found.add_argument("--threads", type=int, default=2, metavar="N", help=text)
    return found


def main():
    given = parser().parse_args()
    growth = Soak().run(given.seconds, given.threads)
    print(f"memory grew by {growth / 1e6:.1f} MB; up to {LIMIT / 1e6:.0f} MB are allowed")
    return int(growth > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
