"""Kernels written in PTX by hand, for the tests of the emulator; the assembler accepts them too."""

from __future__ import annotations

import numpy as np
import pytest

from fusedce.kernels.cuda import compile as compiler
from tests.emulator import machine, programs
from tests.emulator.translate import to_c

HEAD = (
    ".version 8.7\n.target sm_{target}\n.address_size 64\n.extern .shared .align 16 .b8 memory[];\n"
)
ENTRY = HEAD + "{before}\n.visible .entry k(.param .u64 pa, .param .u64 pb)\n{{\n{body}\nret;\n}}\n"
# In thread i, %i is i, %at is 4 * i, and %a and %b are the addresses of element i of the arrays.
START = """
.reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .f64 %d<8>;
.reg .b64 %rd<32>; .reg .b32 %i, %at, %n, %rank; .reg .b64 %a, %b, %offset;
ld.param.u64 %a, [pa]; ld.param.u64 %b, [pb]; mov.u32 %i, %tid.x; mov.u32 %n, %ntid.x;
mov.u32 %rank, %ctaid.x; mad.lo.s32 %i, %rank, %n, %i; shl.b32 %at, %i, 2;
mul.wide.u32 %offset, %i, 4; add.s64 %a, %a, %offset; add.s64 %b, %b, %offset;
"""


def ptx(body, before="", target=90):
    return ENTRY.format(body=START + body, before=before, target=target)


def run(body, a=None, b=None, *, before="", assemble=True, blocks=1, threads=32, shared=0,
        cluster=1, order="forward", seed=1, complete=True, target=90):  # fmt: skip
    """Assemble and emulate a kernel that reads ``a`` and writes ``b``."""
    text = ptx(body, before, target)
    if assemble:
        compiler._assembled(text, (target // 10, target % 10))
    memory = machine.Memory()
    memory.add("a", a, written=True)
    memory.add("b", b, output=True)
    where = [0 if x is None else x.ctypes.data for x in (a, b)]
    marks = [machine.marks_of(r) for r in memory.regions]
    kernel = programs.loaded(to_c(text)).kernel
    grid, turns = machine.Grid(blocks, threads, shared, cluster), machine.Turns(order, seed)
    said = machine.execute(kernel, np.array(where, np.uint64), memory.regions, marks, grid, turns)
    if said:
        raise machine.Fault(said)
    if complete:
        memory.complete()
    return memory


def fails(match, body, *args, **options):
    with pytest.raises(machine.Fault, match=match):
        run(body, *args, **options)


def singles(n=64):
    return np.arange(n, dtype=np.float32)
