"""Break the code in one place at a time, and show that a test then fails.

It works on a copy in a temporary folder. Each mutation names the test that
must fail; all of these tests must first pass on the unchanged copy. The exit
status is 1 if a test passes despite its mutation.

Writes: nothing that stays.
Takes:  about five minutes on two cores.

For example:
  python -m tests.house.mutation
      all mutations, with a table at the end
  python -m tests.house.mutation gamma nan
      those whose name contains one of the words
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

from fusedce.tools.command_line import Parser

ROOT = Path(__file__).resolve().parents[2]
LOSSES, TRAPS = "tests/core/test_losses.py::", "tests/core/test_traps"


def option(case):
    return LOSSES + f"test_every_option[{case}]"


INDEX = option("cross_entropy-softmax-index-float64")
SOFT = option("cross_entropy-softmax-soft-float64")
BINARY = option("cross_entropy-sigmoid-int-float64")
FOCAL = option("focal-sigmoid-int-float64")
IGNORED = LOSSES + "test_ignored_and_spoilt_rows[cross_entropy-softmax]"
WIDE_ROWS = LOSSES + "test_ragged_shapes[softmax-index-1000-float32]"
RANGE = "tests/core/test_errors.py::test_class_indices_out_of_range[mean-softmax-cross_entropy]"
PADDING = TRAPS + ".py::test_padding_is_no_class[float32-97]"
NAN_APART = "tests/core/test_accuracy.py::test_a_nan_beside_the_target_spoils_its_row"
Z_LOSS = TRAPS + "_numerics.py::test_z_loss_is_not_weighted"
SIZES = "tests/core/test_sizes.py::"
STREAMS, VECTORS = (f"tests/cpu/test_{name}.py::" for name in ("streams", "vector"))
LONG_ROWS = SIZES + "test_long_rows_do_not_mix[float32]"
ROWS_OF_BLOCKS = SIZES + "test_blocks[index-float32]"
TARGETS = "tests/core/test_targets.py::"
MISSING = TARGETS + "test_missing_numbers[-100-shape1-float32-sigmoid]"
WRONG = TARGETS + "test_numbers_that_are_no_labels[shape0-1.5]"
OVER = TARGETS + "test_missing_numbers_in_place_after_a_call_with_a_buffer[elements]"
PARTLY = TARGETS + "test_distributions_ignored_in_part"
ORDERS = STREAMS + "test_orders_of_logits_and_gradients[float32-few classes]"


class Mutation(NamedTuple):
    """A text whose occurrences in a file are replaced, and the test that must then fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


CALL, REPLAY, LINK = "fusedce/call.py", "fusedce/backends/cpu_replay.py", "kernels/link.py"
COLUMNS, MASSES = "kernels/cpu/index_columns.py", "kernels/cpu/distribution_columns.py"
ROWS, INDEX_ROWS, TILES = (f"kernels/cpu/{name}.py" for name in ("rows", "index_rows", "columns"))
ELEMENTS, LOOPS = "kernels/cpu/elementwise.py", "kernels/cpu/vector_loops.py"
ELEMENT_LOSSES, GRADIENTS = "kernels/cpu/element_losses.py", "kernels/cpu/row_gradients.py"
DRIVER, LABELS, MOVERS = (f"kernels/cpu/{n}.py" for n in ("runtime", "labels", "packing"))
DISTRIBUTION = "kernels/cpu/distribution_rows.py"
PYTHON = (CALL, REPLAY)  # files whose functions are not compiled
MUTATIONS = [
    Mutation("mean denominator counts rows, not weights", "fusedce/backends/cpu.py",
             "elements = -1.0 if call.by_row", "elements = 1.0 if call.by_row", INDEX),
    Mutation("smoothing by eps / (C - 1)", CALL,
             "smoothing / call.classes", "smoothing / max(1, call.classes - 1)", INDEX),
    Mutation("neg_label read as 0/1", CALL, "return 0.5 * keep, 0.5 * keep + 0.5",
             "return keep, 0.5", option("cross_entropy-sigmoid-signed-float64")),
    Mutation("pos_weight ignored", REPLAY, "both * pos_weight", "both", BINARY),
    Mutation("alpha swapped", REPLAY, "pos * alpha, both * (1.0 - alpha)",
             "pos * (1.0 - alpha), both * alpha", FOCAL),
    Mutation("denominator= ignored", REPLAY, "denominator or 0.0", "0.0", INDEX),
    Mutation("sign of the gradient", LINK,
             "product = slope - term * f1", "product = slope + term * f1", WIDE_ROWS),
    Mutation("target's gradient by 1 - p", LINK,
             "softmax_rest(e, sum_exp_minus_1, total)\n    first", "total - e\n    first",
             WIDE_ROWS),
    Mutation("no rescaling at a new maximum", ROWS,
             "(sum_below_max + n_at_max) * factor, 0", "sum_below_max + n_at_max, 0",
             LONG_ROWS),
    Mutation("strips keep their own maximum", ROWS, "if strip_max != row_max:",
             "if strip_max > row_max:",
             SIZES + "test_classes_of_another_rule[soft]"),
    Mutation("strips keep their own maximum, gradient alone", GRADIENTS,
             "grad_factor * rescale_factor(T, strip_max, row_max)",
             "grad_factor", LONG_ROWS),
    Mutation("long rows share a block", "kernels/tuning.py",
             "1 if classes > STRIP else max(1,", "max(1,", LONG_ROWS),
    Mutation("a row is read with its neighbour's maximum", INDEX_ROWS,
             "STATS.max * stride + r * lane_bytes(T), T)\n            below",
             "STATS.max * stride + (r ^ 1) * lane_bytes(T), T)\n            below",
             ROWS_OF_BLOCKS),
    Mutation("softcap's slope dropped", LOOPS,
             "where(first == N(0), N(0), first * slope)", "first", INDEX),
    Mutation("padding counts as classes", LOOPS,
             "masked_load(logits + whole * step, rest, low)",
             "masked_load(logits + whole * step, rest, N(0))", PADDING),
    Mutation("NaN is no class", LOOPS, "where(at_max, sum_below_max, sum_below_max + e)",
             "where(d < type(d)(0), sum_below_max + e, sum_below_max)", NAN_APART + "[200]"),
    Mutation("the maximum counted twice", ROWS, "(n_at_max - 1.0)", "n_at_max", PADDING),
    Mutation("class weight dropped", COLUMNS, "N(peek(here, T))", "N(1)", INDEX),
    Mutation("class weight dropped, rows", INDEX_ROWS, "r, sample * weight)", "r, sample)",
             ROWS_OF_BLOCKS),
    Mutation("sample_weight not in the gradient", LINK,
             "term, ridge = weight * scale,", "term, ridge = weight / sample * scale,", INDEX),
    Mutation("z_loss times the class weight", LINK,
             "zeta = sample * z_loss", "zeta = weight * z_loss", Z_LOSS),
    Mutation("ties of the maximum dropped", TILES,
             "sum_below_max + (n_at_max - N(1))",
             "sum_below_max",
             LOSSES + "test_large_logits[cross_entropy-softmax-float64]"),
    Mutation("a row of -inf or NaN is no NaN", TILES,
             "where(n_at_max > N(0), sum_exp_minus_1, N(np.nan))",
             "where(n_at_max > N(0), sum_exp_minus_1, N(0))",
             IGNORED),
    Mutation("ignored row keeps its gradient", COLUMNS, "where(keep, g, N(0))", "g", IGNORED),
    Mutation("an ignored row is not written", GRADIENTS,
             "store_zeros(T, args, out, strip.grad)", "pass",
             SIZES + "test_every_row_ignored[float32]"),
    Mutation("last lane of a tile skipped", COLUMNS, "min(rows.n, r + FLUSH",
             "min(rows.n - 1, r + FLUSH",
             ROWS_OF_BLOCKS),
    Mutation("normalized by C, not M", MASSES,
             "T(args.label_factor) / found", "N(args.label_factor) / N(args.classes)", SOFT),
    Mutation("ignored element counts", ELEMENT_LOSSES,
             "loss = where(keep, loss, N(0))",
             "loss = loss", BINARY),
    Mutation("soft labels taken for yes or no", ELEMENT_LOSSES,
             "whole if not_binary == 0 else 0",
             "whole",
             SIZES + "test_small_patches[float32]"),
    Mutation("background is class C - 1", ELEMENTS, "labels[j] == cls", "labels[j] >= cls",
             LOSSES + "test_axes_and_strides[index-sigmoid-shape0-1-float64]"),
    Mutation("1 - p by subtraction", LINK, "smaller = e * larger", "smaller = T(1) - larger",
             option("cross_entropy-sigmoid-int-float32")),
    Mutation("a term of the Hessian dropped", LINK,
             "mass * f2 * slope * slope + a * bend", "a * bend", FOCAL),
    Mutation("gamma for gamma - 1", "fusedce/losses/focal.py",
             "q * q * -logp, q * (pl - q)", "q * q * -logp, pl - q", FOCAL),
    Mutation("epsilon of the wrong sign", "fusedce/losses/poly1.py",
             "params.epsilon * q,", "-params.epsilon * q,", option("poly1-sigmoid-int-float64")),
    Mutation("label C allowed", LABELS,
             "(label >= args.highest)", "(label > args.highest)", RANGE),
    Mutation("bfloat16 cut off, not rounded", "kernels/intrinsics.py",
             "rounded = builder.add(bits, builder.add(odd, ir.Constant(i32, 0x7FFF)))",
             "rounded = bits", option("cross_entropy-sigmoid-int-bfloat16")),
    Mutation("bfloat16 cut off, vectors", "kernels/cpu/dtypes.py",
             "rounded = builder.add(bits, builder.add(odd, _constant_vector(I32, n, 0x7FFF)))",
             "rounded = bits", VECTORS + "test_rounding_to_a_half[bfloat16]"),
    Mutation("max of a NaN", "kernels/vector.py",
             'b.select(b.fcmp_ordered(">", y, x), y, x)',
             'b.select(b.fcmp_unordered(">", y, x), y, x)',
             VECTORS + "test_arithmetic[float32]"),
    Mutation("streaming begins a number early", LOOPS,
             "head = min(n, (-target % BYTES) // lane_bytes(N))",
             "head = min(n, (-target % BYTES) // lane_bytes(N) - 1)",
             STREAMS + "test_streamed_sizes[softmax-float32]"),
    Mutation("the last square lacks a column", MOVERS,
             "rows - i, columns - j,\n                    Lines(target",
             "rows - i, columns - j - 1,\n                    Lines(target", ORDERS),
    Mutation("squares spill beside the gradient", MOVERS,
             "tight = rows >= width(N) or step == rows * size", "tight = True",
             ORDERS),
    Mutation("squares spill behind the gradient", MOVERS,
             "return end <= (columns - 1) * step + rows * size", "return True",
             STREAMS + "test_no_number_beside_the_arrays"),
    Mutation("ignored numbers count in the mean", DRIVER,
             "divisor - (ignored if again else 0)", "divisor", MISSING),
    Mutation("numbers ignored are not found", LABELS, "kept = label != N(ignore_value)",
             "kept = label == label", MISSING),
    Mutation("numbers outside of [0, 1] pass", LABELS,
             "n_invalid += count_true(other & ~inside)", "n_invalid += 0", WRONG),
    Mutation("numbers are not read ahead of logits that are replaced", REPLAY,
             "in_place = value is logits", "in_place = False", OVER),
    Mutation("rows ignored in part pass",
             MASSES, "n_partly_ignored += count_true((n_ignored > N(0)) & ~whole)",
             "n_partly_ignored += 0", PARTLY),
    Mutation("rows of padding are computed", MASSES, "keep = keep & (n_ignored != N(args.classes))",
             "keep = keep", TARGETS + "test_missing_distributions[float32-shape0-float32]"),
    Mutation("long rows of padding are computed", DISTRIBUTION, "if n_ignored == args.classes:",
             "if n_ignored < 0:", TARGETS + "test_missing_distributions[float32-shape1-float32]"),
    Mutation("the z-loss is averaged by class weights", DRIVER, "* (divisor / rows)", "* 1.0",
             TARGETS + "test_the_mean_of_the_z_loss"),
    Mutation("an ignored logit of NaN through a softcap", LOOPS,
             "where(first == N(0), N(0), first * slope)", "first * slope",
             TARGETS + "test_ignored_logits_of_nan_through_a_softcap[sigmoid]"),
]  # fmt: skip


def copied(folder):
    """A copy of the sources and tests of this checkout in a folder."""
    tree = Path(folder) / "tree"
    tree.mkdir()
    for name in ("fusedce", "kernels", "tests"):
        ignore = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def verdict(tree, tests, cache=None):
    """Run tests in a copy; "green" if all pass, "red" if one fails or crashes, and the output.

    Any other exit status of pytest raises a RuntimeError.
    """
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    if cache is not None:
        env["NUMBA_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    said = done.stdout + done.stderr
    if done.returncode in (0, 1) or done.returncode < 0:  # < 0: the process crashed
        return "red" if done.returncode else "green", said
    raise RuntimeError(said)


def mutated(tree, mutation, cache=None):
    """Apply a mutation to a copy, run its test there and undo the mutation."""
    path = tree / mutation.file
    before = path.read_text()
    if mutation.old not in before:
        raise LookupError(f"{mutation.name}: {mutation.file} holds no {mutation.old!r}")
    path.write_text(before.replace(mutation.old, mutation.new))
    try:
        # A mutation of compiled code needs a cache of its own.
        own = cache if mutation.file not in PYTHON else None
        return verdict(tree, [mutation.test], own)
    finally:
        path.write_text(before)


def parser():
    found = Parser("python -m tests.house.mutation", __doc__, "[WORD ...]")
    text = "try only mutations whose name contains one of the words (default: all)"
    found.add_argument("words", nargs="*", metavar="WORD", help=text)
    return found


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
    sys.exit(main(parser().parse_args().words))
