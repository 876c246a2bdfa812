"""Count the issue slots per logit in the machine code of GPU kernels for sm_90.

issued: the instructions of one thread divided by its logits, on the shortest
path from the entry of its kernel to the end that does all loads, reads of
shared memory, exponentials and stores of a thread (machine_code.shortest).
Work that a thread does once per row is included, divided by its logits; rare
branches (soft labels, exact division of very large numbers) are not. An
instruction whose predicate is false is issued, and counts.

slots: the same, but an instruction of the special-function unit counts as 4.
Bounds are given in this number: a scheduler issues one instruction of a warp
per cycle, and a warp keeps that unit busy for 8 cycles, half of which are
assumed to be filled by other instructions.

Two more columns are for units of sm_90, in cycles of a scheduler per logit,
from the table of throughputs in the CUDA programming guide (results per cycle
of a multiprocessor, which has four schedulers):

- alu: integers, logic, comparisons, minima, selections, packed conversions:
  64, so 2 cycles;
- xu: ex2, lg2, rcp, rsq, and conversions between integers and floats: 16, so 8
  cycles.

The largest of issued, alu and xu is the least time of a kernel's arithmetic.

Writes: nothing but what --json names.
Takes:  about a minute, longer if the kernels are not in the cache folder yet

For example:
  python -m tests.cuda.slots --json before.json
  python -m tests.cuda.slots --against before.json
      after a change: the table beside the earlier one
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

import numpy as np

from fusedce.kernels.cuda import compile as compiler
from fusedce.kernels.cuda.dtypes import CHUNK, SIZE
from fusedce.kernels.cuda.kernel_args import SLOT, Launch
from fusedce.kernels.cuda.row_cache import Reload, Smem, SmemAsync
from fusedce.kernels.rule import RULES
from fusedce.kernels.tuning import GPU_SPAN
from fusedce.tools.command_line import Parser
from tests.cuda import machine_code
from tests.cuda.calls import DTYPES, HALVES, Array, Call, launched

# Kernels that read rows in chunks -> how many times each reads a row, from wherever it is kept.
PASSES = {"index_rows": 2, "distribution_rows": 3, "softmax_rows": 2}
ALU = re.compile(
    r"(IADD|LOP|ISETP|SHF|SEL|FSEL|FSETP|FSET|FMNMX|IMNMX|VIMNMX|VIADD|PRMT|LEA|MOV|F2FP|I2FP|PLOP|"
    r"P2R|R2P|BMSK|SGXT|IABS|POPC|FCHK|ICMP|FCMP)"
)
XU = re.compile(r"(MUFU|I2F|F2I|F2F|FRND)(\.|$)")


class Counted(NamedTuple):
    """Issue slots, instructions and cycles of units per logit; see the module's docstring."""

    slots: float
    issued: float
    alu: float
    xu: float


def _softmax(loss: str, dtype: str, classes: int, **options: object) -> Call:
    name = f"{loss} softmax {dtype} {classes}"
    z, index = ((4096, classes), DTYPES[dtype]), ((4096,), np.int64)
    return Call(name, loss, z, index, activation="softmax", **options)


def _sigmoid(loss: str, dtype: str, labels: str, **options: object) -> Call:
    z = (4096, 80), DTYPES[dtype]
    kind = DTYPES.get(labels) or np.dtype("int64" if labels == "index" else labels)
    targets = (4096,) if labels == "index" else z[0]
    more = "".join(f" {name}" for name in options)
    name = f"{loss} sigmoid {dtype}, {labels} labels{more}"
    return Call(name, loss, z, (targets, kind), activation="sigmoid", **options)


def calls() -> list[Call]:
    """The calls of the table."""
    three = ("float32", *HALVES)
    found = [_softmax("cross_entropy", d, c) for c in (1000, 4096, 32000, 128256) for d in three]
    found += [_softmax("focal", d, 1000) for d in ("float32", "bfloat16")]
    for dtype in three:
        found += [_sigmoid("focal", dtype, labels) for labels in (dtype, "bool")]
    found += [_sigmoid("focal", "float32", "int64"), _sigmoid("focal", "bfloat16", "float32")]
    found += [_sigmoid(loss, d, "bool") for loss in ("cross_entropy", "asymmetric")
              for d in ("float32", "bfloat16")]  # fmt: skip
    found += [_sigmoid("focal 3.7", "float32", "bool")]
    found += [_sigmoid("focal", d, "index") for d in three]
    weights = {"weight": Array((80,), np.float32)}
    samples = {"sample_weight": Array((4096, 1), np.float32)}
    found += [_sigmoid("focal", "float32", "index", **some) for some in (weights, samples)]
    found += [_sigmoid("focal", "float32", "bool", **some) for some in (weights, samples)]
    for dtype in ("float32", "bfloat16"):
        found.append(Call(f"softmax {dtype} 1000", "softmax", ((4096, 1000), DTYPES[dtype]), None))
    return found


def main_launch(call: Call) -> Launch:
    """The launch that writes the gradients."""
    first = ("elementwise_flat", "elementwise_rows", "elementwise_strided", *PASSES)
    return next(one for one in launched(call) if one.kernel.factory.__name__ in first)


class Work(NamedTuple):
    """The work that a path must contain, at least; the number of stores is exact."""

    bits: str  # of an access, or "" for any
    logits: int
    loads: int
    waits: int  # reads of shared memory, in which the row is kept
    powers: int  # of two
    stores: int


def _work(one: Launch) -> Work:
    types, name, args = one.kernel.types, one.kernel.factory.__name__, one.args
    stored = types[2] if types[0] in RULES else types[1]
    per = CHUNK // SIZE[stored]
    visit = next((t.lanes // per for t in types if hasattr(t, "lanes")), 0)
    if not visit:
        each = GPU_SPAN // one.threads
        weights = sum(
            SLOT[name] in dict(one.bound) for name in ("weight", "pos_weight", "sample_weight")
        )
        return Work("", each, (2 + weights) * each, 0, each, each)
    if name not in PASSES:
        return Work("128", visit * per, visit, 0, visit * per, visit)
    lanes = 1 << args.group
    chunks = -(-args.classes // per // lanes)
    chunks = visit * -(-chunks // visit)
    again = PASSES[name] if Reload in types else 1
    waits = PASSES[name] if SmemAsync in types else PASSES[name] - 1 if Smem in types else 0
    logits = chunks * per
    return Work("128", logits, chunks * again, chunks * waits, logits, chunks)


def _kind(bits: str):  # type: ignore[no-untyped-def]
    """The kind of work of an instruction: its position after ``logits`` in ``Work``."""

    def kind(this: machine_code.Instruction) -> int | None:
        words = this.op.split(".")
        if this.op == "MUFU.EX2":
            return 2
        if bits and bits not in words:
            return None
        for k, names in ((0, ("LDG", "LDGSTS")), (1, ("LDS",)), (3, ("STG",))):
            if words[0] in names and (bits or k != 1):
                return k
        return None

    return kind


def counted(one: Launch) -> Counted:
    """The cost of a launch per logit."""
    made = compiler.cubin(one.kernel, one.threads, (9, 0))
    code, labels = machine_code.entry(machine_code.listing(made.code), compiler.ENTRY)
    work = _work(one)
    exact = (False, False, False, True)
    way = machine_code.shortest(code, labels, _kind(work.bits), tuple(work[2:]), exact)
    alu = sum(bool(ALU.match(i.op)) for i in way)
    xu = sum(bool(XU.match(i.op)) for i in way)
    return Counted(*(n / work.logits for n in (len(way) + 3 * xu, len(way), 2 * alu, 8 * xu)))


def table(found: dict[str, Counted], before: dict[str, list[float]]) -> str:
    """The table as text, with the slots of an earlier table."""
    names = "".join(f"{name:>8}" for name in Counted._fields)
    lines = [f"{'':48}{names}" + ("   slots before" if before else "")]
    for name, now in found.items():
        old = f"{before[name][0]:15.1f}" if name in before else ""
        lines.append(f"{name:48}" + "".join(f"{n:8.1f}" for n in now) + old)
    return "\n".join(lines)


def parser() -> Parser:
    """The command line."""
    found = Parser("python -m tests.cuda.slots", __doc__, "[options] [WORD ...]")
    text = "count only calls whose name contains all of the words (default: all calls)"
    found.add_argument("words", nargs="*", metavar="WORD", help=text)
    found.add_argument("--json", metavar="FILE", help="write the table into this file")
    text = "show an earlier table, which --json wrote, beside this one"
    found.add_argument("--against", metavar="FILE", help=text)
    return found


def main() -> None:
    """Print the table."""
    given = parser().parse_args()
    before: dict[str, list[float]] = {}
    if given.against:
        with open(given.against) as file:
            before = json.load(file)["slots"]
    chosen = [call for call in calls() if all(word in call.name for word in given.words)]
    found = {call.name: counted(main_launch(call)) for call in chosen}
    print(table(found, before))
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"slots": found}, file, indent=1)


if __name__ == "__main__":
    main()
