"""PTX to C: each function of a kernel becomes a C function, each instruction a statement.

A register is an unsigned integer of the same width that holds the bits. Instructions that involve
memory or other threads call functions of runtime.h. An unknown modifier raises ``Unknown``.
"""

from __future__ import annotations

import re

from tests.emulator.arithmetic import arithmetic, known_only
from tests.emulator.ptx import Function, Instruction, Unknown, functions, instruction, statements
from tests.emulator.ptx import operands as split
from tests.emulator.registers import BITS, Registers, integer, plain

# Modifiers of loads and stores that concern caches and ordering, not the value; they are ignored.
CACHING = (
    "cs", "cg", "ca", "lu", "cv", "wb", "wt", "nc", "volatile", "relaxed", "weak", "gpu", "cta",
)  # fmt: skip
ARRIVALS = [f"barrier.cluster.arrive{how}" for how in ("", ".release", ".relaxed")]
SPACES = ("param", "global", "shared", "local")
# The first architecture that has operations with this part in their name.
SINCE = {
    "bf16": 80, "bf16x2": 80, "cp": 80, "NaN": 80, "mapa": 90, "cluster": 90,
    "shared::cluster": 90, "f32x2": 100,
}  # fmt: skip
TARGET = re.compile(r"\.target\s+sm_(\d+)")
SHARED = re.compile(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[\]")


def to_c(ptx: str) -> str:
    """The C source of a file of PTX; its entry is ``kernel``."""
    found = functions(ptx)
    heads = [_head(f) + ";" for f in found if not f.entry]
    bodies = [_Translator(f, {g.name: g for g in found}, ptx).translated() for f in found]
    return "\n".join(['#include "runtime.h"', *heads, *bodies])


def _head(function: Function) -> str:
    if function.entry:
        return "void kernel(Thread *t, const u64 *parameters)"
    given = [f", u8 *{plain(name)}" for name, _ in (*function.returns, *function.params)]
    return f"static void {plain(function.name)}(Thread *t{''.join(given)})"


class _Translator:
    """The translation of one function."""

    def __init__(self, function: Function, known: dict[str, Function], text: str):
        self.function, self.known = function, known
        self.target = int(TARGET.findall(text)[0])
        self.r = Registers(frozenset(SHARED.findall(text)))
        self.line = 0  # of the function's body

    def translated(self) -> str:
        lines = [_head(self.function), "{"]
        for line, text in statements(self.function):
            self.line = line
            if text == "{":
                self.r.enter()
                lines.append("{")
            elif text == "}":
                self.r.leave()
                lines.append("}")
            elif text.endswith(":"):
                lines.append(f"{plain(text[:-1])}: ;")
            else:
                lines.append(self.statement(text))
        return "\n".join([*lines, "}"])

    # ------------------------------------------------------------------------ statements

    def statement(self, text: str) -> str:
        if text.startswith("."):
            return self.r.declare(text)
        one = instruction(text)
        try:
            code = self.code(one)
        except (KeyError, IndexError, Unknown) as error:
            raise Unknown(f"line {self.line}: {text} ({error})") from error
        if one.predicate:
            return f"if ({'!' if one.negated else ''}({plain(one.predicate)} & 1)) {{ {code} }}"
        return code

    def code(self, one: Instruction) -> str:
        name = one.parts[0]
        if (since := max(SINCE.get(part, 0) for part in one.parts)) > self.target:
            raise Unknown(f"needs sm_{since}")
        for translated in (self.control, self.memory, self.threads):
            if (found := translated(name, one.parts, one.operands)) is not None:
                return found
        return arithmetic(self.r, one)

    def control(self, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
        if name == "bra":
            return f"goto {plain(o[0])};"
        if name in ("ret", "exit"):
            return "return;"
        if name == "trap":
            return f"trap(t, {self.line});"
        if name == "call":
            given = [x for operand in o for x in self._called(operand)]
            callee = next((self.known[x] for x in given if x in self.known), None)
            if callee is None:
                raise Unknown("a call of a function that is not there")
            buffers = "".join(f", {plain(x)}" for x in given if x != callee.name)
            return f"{plain(callee.name)}(t{buffers});"
        return None

    @staticmethod
    def _called(operand: str) -> list[str]:
        return split(operand[1:-1]) if operand.startswith("(") else [operand]

    # ------------------------------------------------------------------------ memory

    def memory(self, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
        if name in ("ld", "st"):
            return self.load_or_store(name, parts, o)
        if name == "mapa":
            mapped = f"map_shared_rank(t, {self.r.bits(o[1])}, {self.r.bits(o[2])})"
            return self.r.put(o[0], "u32", mapped)
        if name == "cvta":
            return self.r.put(o[0], parts[-1], self.r.bits(o[1]))
        if parts[:3] == ["cp", "async", "cg"] and o[2:] == ("16",):
            return f"copy_async(t, {self.r.address(o[0])}, {self.r.address(o[1])});"
        if parts == ["cp", "async", "wait_all"]:
            return "copies_wait(t);"
        return None

    def load_or_store(self, name: str, parts: list[str], o: tuple[str, ...]) -> str:
        spaces = [p for p in parts[1:-1] if p.split("::")[0] in SPACES]
        space = spaces[0].split("::")[0] if spaces else "generic"
        if spaces == ["shared::cluster"]:
            space = "cluster"
        count = next((int(p[1]) for p in parts if p in ("v2", "v4")), 1)
        known_only(parts, *spaces, "v2", "v4", *CACHING,
                        *(p for p in parts if p.startswith(("L1::", "L2::"))))  # fmt: skip
        kind = parts[-1]
        size = BITS[kind] // 8
        where, registers = (o[1], o[0]) if name == "ld" else (o[0], o[1])
        if space == "param":
            pointer = self.parameter(where)
        else:
            what = f"{self.r.address(where)}, {size * count}, {int(name == 'st')}"
            pointer = f"{space}_access(t, {what})"
        bits = f"u{BITS[kind]}"
        code = [f"{bits} *m = (void *)({pointer});"]
        for k, register in enumerate(self.r.vector(registers)):
            if name == "st":
                code.append(f"m[{k}] = ({bits})({self.r.bits(register)});")
            elif register != "_":
                wide = f"({'s' if kind[0] == 's' else 'u'}64)({integer(kind)})m[{k}]"
                code.append(f"{plain(register)} = (u{self.r.width(register)}){wide};")
        return f"{{ {' '.join(code)} }}"

    def parameter(self, where: str) -> str:
        """A pointer to a parameter: a kernel's has 8 bytes, a device function's is a buffer."""
        m = re.fullmatch(r"\[\s*([\w$]+)\s*(?:\+\s*(\d+))?\s*\]", where)
        if not m:
            raise Unknown(where)
        names = [name for name, _ in self.function.params]
        if self.function.entry and m[1] in names:
            if m[2] not in (None, "0") or max(n for _, n in self.function.params) > 8:
                raise Unknown("a parameter of more than 8 bytes")
            return f"parameters + {names.index(m[1])}"
        return f"{plain(m[1])} + {m[2] or 0}"

    # ------------------------------------------------------------------------ other threads

    def threads(self, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
        op = ".".join(parts)
        if op == "bar.sync" and o == ("0",):
            return f"barrier(t, {self.line});"
        if op == "bar.warp.sync" and o == ("-1",):
            return f"warp_barrier(t, {self.line});"
        if op in ARRIVALS:
            return f"cluster_arrive(t, {self.line}, {int('relaxed' in parts)});"
        if op in ("barrier.cluster.wait", "barrier.cluster.wait.acquire"):
            return f"cluster_wait(t, {self.line});"
        if parts[:2] == ["shfl", "sync"]:
            lane = {"bfly": "t->tid % WARP ^ {}", "idx": "{}"}[parts[2]].format(self.r.bits(o[2]))
            target, *valid = o[0].split("|")
            value, clamp, mask = (self.r.bits(o[k]) for k in (1, 3, 4))
            call = f"shuffle(t, {value}, {lane}, {clamp}, {mask}, {self.line})"
            code = self.r.put(target, "u32", call)
            return code + "".join(f" {plain(v)} = 1;" for v in valid)
        if name in ("membar", "fence"):
            return ";"
        return None
