"""The machine code of every kernel that a usual call launches, compiled without a GPU.

It must have no spills, no stack, no float64 in float32 kernels and no calls. It must have as many
16-byte loads and stores as designed, barriers, and no more registers than were requested.
"""

from __future__ import annotations

import ast
import functools
import re
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

import fusedce
from tests.core.test_rule import Branching, Tempered
from tests.cuda import calls, slots

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
from fusedce.kernels.cuda import compile as compiler
from fusedce.kernels.cuda.dtypes import CHUNK, SIZE, dtype_tag
from fusedce.kernels.cuda.elementwise_flat import elementwise_flat
from fusedce.kernels.cuda.elementwise_rows import elementwise_rows
from fusedce.kernels.cuda.logit_transform import Full
from fusedce.kernels.cuda.reduce import Block, Cluster
from fusedce.kernels.cuda.row_cache import Reload
from fusedce.kernels.cuda.rows import Vectorized
from fusedce.kernels.rule import RULES
from fusedce.kernels.vector import Wide
from tests.cpu.test_threads import ROOT
from tests.cuda.machine_code import instructions, listing, nvdisasm
from tests.emulator import programs
from tests.emulator.extent import part

pytestmark = pytest.mark.slow(reason="two seconds of compilation for each kernel")

# Kernels that sum one number per label or per block, in float64 by design.
DOUBLE = {"label_pass", "distribution_pass", "combine_label_stats", "reduce_losses"}
# Subroutines that the compiler may call for what no single instruction does: 64-bit division, once
# per thread, for the position of a row with an inner axis (``unravel_row``) and of a block's first
# element; exact division of very large or small floats; before sm_90, shuffles in a diverged warp.
CALLED = (
    r"(\$\w+\$)?__cuda_sm(20_(div|rem)_[su]64|\w+_(div|rcp|dblrcp)_rn_\w+|70_(shfl|warp)sync\w*)"
)
# The conversion for a loss that is stored as float64, which is decided at run time.
ANY_LOSS = "F2F.F64.F32"


class Code(NamedTuple):
    """What is known of a kernel; instructions are None without a disassembler."""

    made: compiler.Compiled
    registers: int
    spills: list[int]  # bytes of stack, stores, loads
    instructions: list[str] | None
    calls: list[str]


@functools.cache
def code(kernel, threads, capability):
    """A kernel, compiled and disassembled; its PTX is shared with the emulator."""
    with mock.patch.object(compiler, "_ptx", programs.ptx):
        made = compiler.cubin(kernel, threads, capability)
    registers = max(int(n) for n in re.findall(r"Used (\d+) registers", made.log))
    spills = [
        int(n)
        for n in re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", made.log)
    ]
    if nvdisasm() is None:
        return Code(made, registers, spills, None, [])
    found = instructions(listing(made.code))
    calls = [rest.strip(" `();") for op, rest in found if op.startswith("CALL")]
    return Code(made, registers, spills, [op for op, _ in found], calls)


def chunks(kernel):
    """(loads, stores): the fewest accesses of 16 bytes that the design of the kernel has."""
    lanes = next((t.lanes for t in kernel.types if hasattr(t, "lanes")), 0)
    if not lanes:
        return 0, 0
    stored = kernel.types[2] if kernel.types[0] in RULES else kernel.types[1]
    visit = lanes * SIZE[stored] // CHUNK
    name = kernel.factory.__name__
    if name == "elementwise_flat":
        labels, loss = kernel.types[3], kernel.types[4]
        size = visit * CHUNK // SIZE[stored]
        read, stored_losses = (size * SIZE.get(f, 0) // CHUNK for f in (labels, loss))
        written = visit * (2 if Full in kernel.types else 1)
        whole = [n if n >= visit else 0 for n in (read, stored_losses)]
        return visit + whole[0], written + whole[1]
    if name == "elementwise_rows":
        return visit, visit * (2 if Full in kernel.types else 1)
    if name not in ("index_rows", "distribution_rows", "softmax_rows"):
        return 0, 0
    passes = 3 if name == "distribution_rows" else 2
    again = Reload in kernel.types
    written = 2 if Full in kernel.types else 1
    return visit * (passes if again else 1), visit * written if Vectorized in kernel.types else 0


def wide(instructions, what):
    """How many of the instructions that begin with ``what`` move 16 bytes."""
    return sum(op.startswith(what) and "128" in op.split(".") for op in instructions)


def check(kernel, threads, capability):
    """Check all rules for one kernel."""
    found = code(kernel, threads, capability)
    where = f"{found.made.name}, {threads} threads\n{found.made.log}"
    assert not any(found.spills), where
    blocks = max(1, compiler.REGISTERS // (threads * kernel.registers))
    assert -(-found.registers // 8) * 8 * threads * blocks <= compiler.REGISTERS, where
    assert (Wide in kernel.types) == found.made.name.endswith("Wide)"), where
    if found.instructions is not None:
        check_instructions(kernel, found, where)


def check_instructions(kernel, found, where):
    """Check the rules that need the disassembler."""
    ops = found.instructions
    assert len(ops) > 30
    assert not [op for op in ops if op.startswith(("LDL", "STL"))], where
    # Jumps within the kernel are written as calls too.
    allowed = CALLED + r"|\.L_x_\d+"
    if np.float64 not in kernel.types and kernel.factory.__name__ not in DOUBLE:
        double = r"D(ADD|MUL|FMA|SETP|MNMX)|\S*F64|MUFU\S*64"
        assert not [op for op in ops if re.match(double, op) and op != ANY_LOSS], where
        assert ops.count(ANY_LOSS) <= 2, where
    assert not [c for c in found.calls if not re.fullmatch(allowed, c)], where
    loads, stores = chunks(kernel)
    assert wide(ops, "LDG") >= loads, where
    assert wide(ops, "STG") >= stores, where
    if {Block, Cluster} & set(kernel.types) or kernel.factory in (
        elementwise_flat,
        elementwise_rows,
    ):
        assert [op for op in ops if op.startswith("BAR")], where
    if Cluster in kernel.types:
        assert [op for op in ops if op.startswith(("UCGABAR", "BAR.ARV.CLUSTER"))], where


CALLS = {call.name: call for call in calls.calls()}


@pytest.mark.parametrize("name", part(CALLS, *calls.covering()))
def test_kernels(name):
    """On the architecture that the sizes of kernels/tuning.py are tuned for."""
    for one in calls.launched(CALLS[name]):
        check(one.kernel, one.threads, (9, 0))


@pytest.mark.parametrize("architecture", part([75, 80, 89, 100, 120], 75, 89, 120))
@pytest.mark.parametrize("name", calls.SELECTED)
def test_other_architectures(name, architecture):
    capability = divmod(architecture, 10)
    for one in calls.launched(CALLS[name], capability):
        check(one.kernel, one.threads, capability)


@pytest.mark.skipif(nvdisasm() is None, reason="nvdisasm is not installed")
@pytest.mark.parametrize("name", ["cross_entropy-float32-1000-plain",
                                  "focal-bfloat16-sigmoid-same-plain"])  # fmt: skip
def test_ir_is_shared(name):
    """The emulator uses one LLVM IR for all architectures; its code equals that of Numba's IR."""
    for one in calls.launched(CALLS[name]):
        programs.ptx(one.kernel, one.threads, (9, 0))
        shared, own = (
            instructions(listing(compiler._assembled(made, (8, 9))[0]))
            for made in (
                programs._ptx(one.kernel, one.threads, (8, 9)),
                compiler._ptx(one.kernel, one.threads, (8, 9)),
            )
        )
        assert shared == own


@pytest.mark.parametrize("dtype", part(["float32", "float16"], "float32"))
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("rule", [Tempered(), Branching(1.0)], ids=str)
def test_rules_that_take_no_vectors(rule, activation, dtype):
    """Scalar rules have no spills: the lanes of a vector stay in registers."""
    z, y = (calls.array((64, 80), calls.DTYPES[dtype]) for _ in range(2))
    launched = calls.launched(lambda: fusedce.apply(rule, z, y, activation=activation))
    one = next(one for one in launched if type(rule) in one.kernel.types)
    found = code(one.kernel, one.threads, (9, 0))
    assert found.made.name.endswith("Single)")
    assert not any(found.spills), found.made.log


def kernels(names):
    """The kernels that these calls launch."""
    return {one.kernel for name in names for one in calls.launched(CALLS[name])}


def factories():
    """The names of all kernel factories: functions that contain a function of the same name."""
    for path in (ROOT / "kernels" / "cuda").glob("*.py"):
        for outer in ast.parse(path.read_text()).body:
            inner = getattr(outer, "body", [])
            if any(getattr(f, "name", "") == getattr(outer, "name", None) for f in inner):
                yield outer.name


@pytest.mark.parametrize("names", [tuple(CALLS), calls.SELECTED], ids=["all", "selected"])
def test_nothing_is_left_out(names):
    """The calls launch kernels of every factory of the package and of every dtype."""
    found = kernels(names)
    print(len(found), "kernels")
    assert {kernel.factory.__name__ for kernel in found} == set(factories())
    forms = {dtype_tag(np.dtype(kind)) for kind in calls.DTYPES.values()}
    assert forms <= {t for kernel in found for t in kernel.types}


def kernel_of(name):
    """(kernel, threads) that computes the losses of a call."""
    return next((one.kernel, one.threads) for one in calls.launched(CALLS[name])
                if one.kernel.factory.__name__ not in DOUBLE)  # fmt: skip


@pytest.mark.skipif(nvdisasm() is None, reason="nvdisasm is not installed")
def test_what_is_found(monkeypatch):
    """``check`` fails when any one of its rules is broken."""
    kernel, threads = kernel_of("cross_entropy-float32-4096-plain")
    with pytest.raises(AssertionError, match="spill stores"):
        check(kernel._replace(registers=24), 1024, (9, 0))
    check(kernel, threads, (9, 0))
    found = code(kernel, threads, (9, 0))
    ops = found.instructions
    for broken in (
        found._replace(registers=found.registers + 64),
        found._replace(made=found.made._replace(name="kernel(float32, Wide)")),
        found._replace(instructions=[*ops, "LDL.64"]),
        found._replace(instructions=[*ops, "DFMA"]),
        found._replace(instructions=[*ops, "F2F.F32.F64"]),
        found._replace(instructions=[op for op in ops if not op.startswith("BAR")]),
        found._replace(instructions=[op.replace("128", "64") for op in ops]),
        found._replace(calls=["somebody"]),
    ):
        monkeypatch.setattr(f"{__name__}.code", lambda *job, one=broken: one)
        with pytest.raises(AssertionError):
            check(kernel, threads, (9, 0))


# The most issue slots per logit, see tests/cuda/slots.py.
SLOTS = {
    "cross_entropy softmax float32 1000": 29,
    "cross_entropy softmax float32 32000": 29,
    "cross_entropy softmax bfloat16 1000": 25,
    "cross_entropy softmax bfloat16 32000": 25,
    "focal sigmoid float32, float32 labels": 60,
    "focal sigmoid bfloat16, bfloat16 labels": 45,
    "focal sigmoid bfloat16, bool labels": 45,
    "focal sigmoid float32, index labels": 61,
    "focal sigmoid float32, index labels weight": 71,
    "focal sigmoid float32, bool labels sample_weight": 62,
}


@pytest.mark.skipif(nvdisasm() is None, reason="nvdisasm is not installed")
@pytest.mark.parametrize("name", SLOTS)
def test_slots(name):
    call = next(call for call in slots.calls() if call.name == name)
    assert slots.counted(slots.main_launch(call)).slots <= SLOTS[name]
