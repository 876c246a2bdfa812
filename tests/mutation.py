"""Break the package in many ways, one at a time, and show that each break turns the suite red.

    python -m tests.mutation            all of them, a table at the end
    python -m tests.mutation gamma nan  those whose name holds one of the words

Works on a copy in a temporary folder. The tests named by a mutation are those that must see it;
all of them first pass on the copy as it is. Exit status 1 if a mutation survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
LOSSES, TRAPS = "tests/test_losses.py::", "tests/test_traps"


def option(case):
    return LOSSES + f"test_every_option[{case}]"


INDEX = option("cross_entropy-softmax-index-float64")
SOFT = option("cross_entropy-softmax-soft-float64")
BINARY = option("cross_entropy-sigmoid-int-float64")
FOCAL = option("focal-sigmoid-int-float64")
IGNORED = LOSSES + "test_ignored_and_spoilt_rows[cross_entropy-softmax]"
WIDE_ROWS = LOSSES + "test_ragged_shapes[softmax-index-1000-float32]"
BLOCKS = "tests/test_accuracy.py::test_a_row_wider_than_the_scratch[cross_entropy]"
RANGE = "tests/test_errors.py::test_class_indices_out_of_range[mean-softmax-cross_entropy]"
PADDING = TRAPS + ".py::test_padding_is_no_class[float32-97]"
NAN_APART = "tests/test_accuracy.py::test_a_nan_beside_the_target_spoils_its_row"
Z_LOSS = TRAPS + "_numerics.py::test_z_loss_is_not_weighted"


class Mutation(NamedTuple):
    """A break: a text (all its occurrences), what it becomes, the test that must see it."""

    name: str
    file: str
    old: str
    new: str
    test: str


CALL, LINK, COLUMNS = "fusedce/call.py", "kernels/link.py", "kernels/cpu/columns.py"
LANES, MASSES = "kernels/cpu/lanes.py", "kernels/cpu/distribution_columns.py"
ROWS, ELEMENTS, BLOCK = "kernels/cpu/rows.py", "kernels/cpu/elements.py", "kernels/cpu/blocks.py"
MUTATIONS = [
    Mutation("mean denominator counts rows, not weights", CALL,
             "return weights\n", "return float(kept)\n", INDEX),
    Mutation("smoothing by eps / (C - 1)", CALL,
             "call.smoothing / call.classes", "call.smoothing / max(1, call.classes - 1)", INDEX),
    Mutation("pos_weight ignored", CALL, "both * call.pos_weight", "both", BINARY),
    Mutation("alpha swapped", CALL,
             "return up * traits.alpha, both * (1.0 - traits.alpha)",
             "return up * (1.0 - traits.alpha), both * traits.alpha", FOCAL),
    Mutation("neg_label read as 0/1", CALL, "return 0.5 * keep, 0.5 * keep + 0.5",
             "return keep, 0.5", option("cross_entropy-sigmoid-signed-float64")),
    Mutation("denominator= ignored", CALL, "denominator = call.denominator", "pass", INDEX),
    Mutation("sign of the gradient, rows", ROWS,
             "k = (slope - term * f1) * inverse", "k = (slope + term * f1) * inverse", WIDE_ROWS),
    Mutation("target's gradient by 1 - p", ROWS,
             "term * f1 * q + slope * p", "term * f1 * (T(1) - p) + slope * p", WIDE_ROWS),
    Mutation("no rescaling at a new maximum", ROWS,
             "(below + ties) * np.float64(exp_down(m - top))", "below + ties", BLOCKS),
    Mutation("softcap's slope dropped", ROWS, "g[j] = g[j] * v[j]", "g[j] = g[j]", INDEX),
    Mutation("padding counts as classes", BLOCK, "pad[j] = T(-np.inf)", "pad[j] = T(0)", PADDING),
    Mutation("NaN is no class", BLOCK,
             "d = u[j] - m\n", "d = u[j] - m if u[j] == u[j] else T(-200)\n", NAN_APART + "[200]"),
    Mutation("class weight dropped", COLUMNS,
             "weight[r] *= peek(plan.weight + labels[r] * sample.itemsize, sample.dtype)",
             "weight[r] *= sample[r] / sample[r]", INDEX),
    Mutation("sample_weight not in the gradient", COLUMNS,
             "term = weight[r] * scale", "term = weight[r] / sample[r] * scale", INDEX),
    Mutation("z_loss times the class weight", COLUMNS,
             "zeta = zeta0 * sample[r]", "zeta = zeta0 * weight[r]", Z_LOSS),
    Mutation("ties of the maximum dropped", LANES,
             "np.float64(ties[r]) - 1.0", "0.0",
             LOSSES + "test_large_logits[cross_entropy-softmax-float64]"),
    Mutation("a row of -inf or NaN is no NaN", LANES,
             "choose(ties[r] > T(0), rest, T(np.nan))", "choose(ties[r] > T(0), rest, T(0))",
             IGNORED),
    Mutation("ignored row keeps its gradient", COLUMNS,
             "silence(labels, plan.ignore_index, plan.classes, w)", "pass", IGNORED),
    Mutation("last lane of a tile skipped", COLUMNS,
             "for r in range(k.size):\n        w[r] = k[r]",
             "for r in range(k.size - 1):\n        w[r] = k[r]", INDEX),
    Mutation("normalized by C, not M", MASSES,
             "T(plan.label_factor) / factor[r] if", "T(plan.label_factor) / T(plan.classes) if",
             SOFT),
    Mutation("ignored element counts", ELEMENTS, "choose(keep, a, T(0))", "a", BINARY),
    Mutation("background is class C - 1", ELEMENTS, "labels[j] == cls", "labels[j] >= cls",
             LOSSES + "test_axes_and_strides[index-sigmoid-shape0-1-float64]"),
    Mutation("1 - p by subtraction", LINK, "smaller = e * larger", "smaller = T(1) - larger",
             option("cross_entropy-sigmoid-int-float32")),
    Mutation("a term of the Hessian dropped", LINK,
             "mass * f2 * slope * slope + a * bend", "a * bend", FOCAL),
    Mutation("gamma for gamma - 1", "fusedce/losses/focal.py",
             "whole_power(q, gamma - T(1))", "whole_power(q, gamma)", FOCAL),
    Mutation("epsilon of the wrong sign", "fusedce/losses/poly1.py",
             "params.epsilon * q,", "-params.epsilon * q,", option("poly1-sigmoid-int-float64")),
    Mutation("label C allowed", "kernels/cpu/labels.py",
             "(label >= plan.highest)", "(label > plan.highest)", RANGE),
    Mutation("bfloat16 cut off, not rounded", "kernels/cpu/machine.py",
             "rounded = builder.add(bits, builder.add(odd, ir.Constant(i32, 0x7FFF)))",
             "rounded = bits", option("cross_entropy-sigmoid-int-bfloat16")),
]  # fmt: skip


def copied(folder):
    """The sources and tests of this checkout, elsewhere."""
    tree = Path(folder) / "tree"
    tree.mkdir()
    for name in ("fusedce", "kernels", "tests"):
        ignore = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def verdict(tree, tests, cache=None):
    """Run tests in a copy: "green" or "red", and what was said; anything else is an error."""
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    if cache is not None:
        env["NUMBA_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    said = done.stdout + done.stderr
    if done.returncode in (0, 1) or done.returncode < 0:  # < 0: the break crashed the process
        return "red" if done.returncode else "green", said
    raise RuntimeError(said)


def mutated(tree, mutation, cache=None):
    """Apply a mutation to a copy, run its test there, take the mutation back."""
    path = tree / mutation.file
    before = path.read_text()
    if mutation.old not in before:
        raise LookupError(f"{mutation.name}: {mutation.file} holds no {mutation.old!r}")
    path.write_text(before.replace(mutation.old, mutation.new))
    try:
        # What is not compiled needs no cache of its own.
        own = cache if mutation.file != CALL else None
        return verdict(tree, [mutation.test], own)
    finally:
        path.write_text(before)


def main(words):
    console = Console()
    chosen = [m for m in MUTATIONS if not words or any(w in m.name for w in words)]
    table = Table("mutation", "file", "suite", "s")
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(folder)
        said, text = verdict(tree, sorted({m.test for m in chosen}))
        if said != "green":
            console.print(text, markup=False)
            console.print("the tests fail without any mutation")
            return 1
        for mutation in track(chosen, "breaking", console=console, transient=True):
            start = time.perf_counter()
            said, _ = mutated(tree, mutation, Path(folder) / "cache")
            colour = "red" if said == "red" else "bold green"
            seconds = f"{time.perf_counter() - start:.0f}"
            console.print(f"{said:6} {mutation.name}")
            table.add_row(mutation.name, mutation.file, f"[{colour}]{said}", seconds)
            if said == "green":
                survivors.append(mutation.name)
    console.print(table)
    console.print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations turn the suite red")
    for name in survivors:
        console.print(f"survived: {name}", style="bold")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
