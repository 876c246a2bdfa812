"""Compare the machine code of kernels at two revisions.

A change that only moves files or renames things compiles to the same machine
code. The kernels of a list of calls are compiled at both revisions, and hashes
are compared. On the CPU: of each function that Numba compiles for some public
calls, after the names of symbols have been replaced by numbers and constants
by their values; other data is not compared. On the GPU: of the cubins for
sm_90, byte by byte; no GPU is needed. The exit status is 1 if a call differs.

Writes: nothing but what --json names.
Takes:  about a minute for the CPU of each revision, several for the GPU

For example:
  python -m tests.house.same_code --against HEAD~1
      this tree and the revision before it
  python -m tests.house.same_code --half cpu focal
      count the CPU functions of calls with "focal" in their name
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HALVES = ("cpu", "cuda")
CALLS = ("tests.cuda.calls", "tests.cuda_calls")  # where a revision has its list of GPU calls

# (function, options, dtype, targets, shape): CPU kernels, beside those of each listed loss.
_ROWS = (
    ("cross_entropy", {}, "f4", "index", (4, 100)),
    ("cross_entropy", {}, "f2", "index", (4, 100)),
    ("cross_entropy", {"z_loss": 1e-3, "softcap": 3.0, "return_hessian": True}, "f8", "index",
     (4, 5000)),
    ("cross_entropy", {"weight": 1}, "f4", "index", (3, 300000)),
    ("focal", {"activation": "softmax"}, "f4", "index", (4, 100)),
    ("poly1", {}, "f4", "index", (40, 10)),
    ("cross_entropy", {"z_loss": 1e-3, "return_hessian": True}, "f8", "index", (40, 10)),
    ("cross_entropy", {"axis": 0}, "f4", "index", (70, 40)),
    ("cross_entropy", {"label_smoothing": 0.1, "return_hessian": True}, "f4", "index", (4, 100)),
    ("focal", {"activation": "softmax", "normalize_targets": True}, "f8", "float", (4, 3000)),
    ("cross_entropy", {"weight": 1, "return_hessian": True}, "f4", "float", (40, 10)),
    ("generalized_cross_entropy", {"label_smoothing": 0.1}, "f8", "index", (40, 10)),
    ("cross_entropy", {"activation": None}, "f4", "index", (4, 100)),
)  # fmt: skip
_ELEMENTS = (
    ("focal", {}, "f4", "float", (40, 10)),
    ("focal", {"gamma": 1.5, "return_hessian": True}, "f4", "bool", (40, 10)),
    ("binary_cross_entropy", {"pos_weight": 1, "sample_weight": 1}, "f8", "i1", (40, 10)),
    ("focal", {"softcap": 3.0}, "f2", "index", (40, 10)),
    ("asymmetric", {"gamma_neg": 2.5}, "f4", "i4", (40, 10)),
    ("focal", {"soft_labels": "torchvision"}, "f4", "float", (40, 10)),
    ("poly1", {"activation": None, "return_hessian": True}, "f4", "float", (40, 10)),
)
_FUNCTIONS = ("softmax", "log_softmax", "sigmoid", "log_sigmoid")


def _listed() -> Iterator[tuple[str, Any, str, str, tuple[int, int]]]:
    """Each loss of the package's list, with each of its activations."""
    with contextlib.suppress(ImportError):  # revisions before the list
        from fusedce.losses import LOSSES

        for loss in LOSSES.values():
            for activation in loss.activations:
                yield loss.name, {"activation": activation}, "f4", "float", (40, 10)


def cpu_calls() -> Iterator[tuple[str, Any]]:
    """(name, call) of each public call whose kernels are compared on the CPU."""
    import numpy as np

    import fusedce

    def made(name: str, options: Any, dtype: str, kind: str, shape: tuple[int, int]) -> Any:
        rows, classes = shape[::-1] if options.get("axis") == 0 else shape
        arrays = {"weight": (classes,), "pos_weight": (classes,), "sample_weight": (rows, 1)}
        given = {k: np.ones(arrays[k], dtype) if k in arrays else v for k, v in options.items()}
        targets = np.zeros(rows, np.int64) if kind == "index" else np.full(shape, 0.5).astype(kind)
        logits = np.full(shape, 0.5, dtype)
        return lambda: getattr(fusedce, name)(logits, targets, **given)

    for name, options, dtype, kind, shape in (*_ROWS, *_ELEMENTS, *_listed()):
        words = " ".join(f"{k}={v}" for k, v in options.items())
        yield (
            f"{name} {dtype} {kind} {shape} {words}".rstrip(),
            made(name, options, dtype, kind, shape),
        )
    for name in _FUNCTIONS:
        logits = np.full((4, 100), 0.5, np.float32)
        yield f"{name} f4", lambda name=name, logits=logits: getattr(fusedce, name)(logits)


def _hash(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


_SYMBOL = re.compile(r"\.L[\w.$]+|_Z[\w.$]+|\.const\.[\w.$]+|__gufunc__[\w.$]*|\bcfunc\.[\w.$]+")
_IGNORED = (".file", ".type", ".size", ".globl", ".weak", ".comm", ".section", ".cfi", ".ident")


def functions(assembly: str) -> list[str]:
    """A hash for each function of a listing, in an order that does not depend on names."""
    blocks: dict[str, list[str]] = {"": []}
    current = blocks[""]
    for line in assembly.splitlines():
        text = line.split("#")[0].rstrip()
        label = re.fullmatch(r'"?([\w.$]+)"?:', text)
        if label and (label[1].startswith(".LCPI") or not label[1].startswith(".L")):
            current = blocks.setdefault(label[1], [])
            continue
        if text.strip() and not text.strip().startswith(_IGNORED):
            current.append(text)
    constants = {k: _hash("\n".join(v)) for k, v in blocks.items() if k.startswith(".LCPI")}
    found = []
    for lines in blocks.values():
        # Pickled messages of errors hold names of modules; data has no instruction.
        if any(re.match(r"\t[a-z]", line) for line in lines):
            found.append(_hash(_numbered("\n".join(lines), constants)))
    return sorted(found)


def _numbered(text: str, constants: dict[str, str]) -> str:
    """The text with each symbol replaced by a number, and each constant by its value."""
    numbers: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        symbol = match[0]
        return constants.get(symbol) or numbers.setdefault(symbol, f"symbol{len(numbers)}")

    return _SYMBOL.sub(named, text)


def collect_cpu(words: list[str]) -> dict[str, list[str]]:
    """For each call, the hashes of the functions that it has compiled."""
    from numba.core.codegen import JITCodeLibrary

    made: list[Any] = []
    finalize = JITCodeLibrary.finalize

    def recorded(library: Any) -> None:
        finalize(library)
        if type(library) is JITCodeLibrary:  # not what is linked into others only
            made.append(library)

    JITCodeLibrary.finalize = recorded  # type: ignore[method-assign]
    found = {}
    for name, call in cpu_calls():
        if not words or any(word in name for word in words):
            made.clear()
            call()
            listings = [
                library.get_asm_str() for library in made if "<locals>.impl" not in library.name
            ]
            found[name] = sorted(h for listing in listings for h in functions(listing))
    return found


def collect_cuda(words: list[str]) -> dict[str, list[str]]:
    """For each call, the hashes of its cubins."""
    for name in CALLS:
        with contextlib.suppress(ImportError):
            calls = importlib.import_module(name)
            break
    from fusedce.kernels.cuda.compile import cubin

    found = {}
    for call in calls.calls():
        chosen = any(word in call.name for word in words) if words else call.name in calls.SELECTED
        if chosen:
            codes = [cubin(x.kernel, x.threads, (9, 0)).code for x in calls.launched(call)]
            found[call.name] = [_hash(code) for code in codes]
    return found


def _collected(tree: Path, half: str, words: list[str], cache: str) -> subprocess.Popen[str]:
    """A process that collects one half of a tree and prints it; nothing is read from caches."""
    env = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(tree), "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, __file__, "--collect", half, *words]
    return subprocess.Popen(command, cwd=tree, env=env, stdout=subprocess.PIPE, text=True)


def collect(tree: Path, halves: list[str], words: list[str]) -> dict[str, Any]:
    """The hashes of a tree, both halves at once."""
    with tempfile.TemporaryDirectory() as cache:
        running = {half: _collected(tree, half, words, cache) for half in halves}
        found = {}
        for half, process in running.items():
            out, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"{half} of {tree}: exit status {process.returncode}")
            found[half] = json.loads(out.splitlines()[-1])
    return found


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A folder with the files of a revision."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT)]
        subprocess.run([*git, "worktree", "add", "-q", "--detach", tree, revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", tree], check=True)


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each call whose functions differ.

    On the CPU the first call that needs a function compiles it, so what a call compiles depends on
    the calls ahead of it. Where the two sides have different calls, a function differs there if no
    call compiled it before. A call that one side does not have is not compared.
    """
    lines = []
    for half, calls in after.items():
        if half not in before:
            raise SystemExit(f"there are no hashes of the {half} half to compare with")
        known = [code for hashes in before[half].values() for code in hashes]
        same_calls = half == "cuda" or calls.keys() == before[half].keys()
        for name, hashes in calls.items():
            if name not in before[half]:
                continue
            if same_calls:
                ours, theirs = Counter(hashes), Counter(before[half][name])
                differ = max((ours - theirs).total(), (theirs - ours).total())
            else:
                differ = sum(code not in known for code in hashes)
            if differ:
                lines.append(f"{half}: {name}: {differ} of {len(hashes)} functions differ")
    return lines


def parser() -> argparse.ArgumentParser:
    """The command line."""
    name = "python -m tests.house.same_code"
    found = argparse.ArgumentParser(
        prog=name, usage=f"{name} [options] [WORD ...]", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    text = "compile only calls whose name contains one of the words (default: all)"
    found.add_argument("words", nargs="*", metavar="WORD", help=text)
    text = "compile only for the cpu or for cuda (default: both)"
    found.add_argument("--half", choices=HALVES, metavar="HALF", help=text)
    text = "write the hashes of this tree into this file"
    found.add_argument("--json", type=Path, metavar="FILE", help=text)
    text = "compare with this revision, or with a file that --json wrote (default: with nothing)"
    found.add_argument("--against", metavar="REVISION", help=text)
    found.add_argument("--collect", choices=HALVES, help=argparse.SUPPRESS)
    return found


def main() -> int:
    """Compare, and say what differs."""
    args = parser().parse_args()
    if args.collect:
        collector = {"cpu": collect_cpu, "cuda": collect_cuda}[args.collect]
        print(json.dumps(collector(args.words)))
        return 0
    halves = [args.half] if args.half else list(HALVES)
    after = collect(ROOT, halves, args.words)
    if args.json:
        args.json.write_text(json.dumps(after, indent=1))
    number = sum(len(hashes) for calls in after.values() for hashes in calls.values())
    if not number:
        raise SystemExit(f"no call has a name with {' or '.join(args.words)} in it")
    if args.against is None:
        print(f"{number} functions")
        return 0
    if Path(args.against).is_file():
        before = json.loads(Path(args.against).read_text())
    else:
        with checkout(args.against) as tree:
            before = collect(tree, halves, args.words)
    lines = compared(before, after)
    alone = [(half, name) for half in after for name in after[half] if name not in before[half]]
    if alone:
        names = ", ".join(name for _, name in alone)
        print(f"not compared, because the other side has no such call: {names}")
    number -= sum(len(after[half][name]) for half, name in alone)
    print("\n".join(lines) if lines else f"the same machine code: {number} functions")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
