"""Registers of a PTX function in C: unsigned integers of the same width that hold the bits."""

from __future__ import annotations

import re

from tests.emulator.ptx import Unknown
from tests.emulator.ptx import operands as split

BITS = {"pred": 1, "f16x2": 32, "bf16x2": 32, "bf16": 16, "f32x2": 64} | {
    f"{kind}{bits}": bits for kind in "bfsu" for bits in (8, 16, 32, 64)
}
SPECIAL = {
    "%tid.x": "t->tid", "%ntid.x": "t->block->ntid", "%ctaid.x": "t->block->ctaid",
    "%nctaid.x": "t->block->nctaid", "%cluster_ctarank": "t->block->rank",
    "%laneid": "(t->tid % WARP)", "%tid.y": "0", "%tid.z": "0", "WARP_SZ": "WARP",
}  # fmt: skip
FLOATS = ("f16", "bf16", "f32", "f64")


def plain(name: str) -> str:
    """A valid C name; a prefix keeps registers, which begin with % in PTX, apart from others."""
    name = name.strip()
    return ("r_" if name[0] == "%" else "v_") + re.sub(r"\W", "_", name.lstrip("%"))


def integer(kind: str) -> str:
    """The C type of a PTX type that holds whole numbers or bits."""
    return f"{'s' if kind[0] == 's' else 'u'}{BITS[kind]}"


class Registers:
    """The registers in scope, and C to read and write them; ``shared``: names of shared arrays."""

    def __init__(self, shared: frozenset[str] = frozenset()):
        self.scopes: list[dict[str, int]] = [{}]
        self.shared = shared

    def enter(self) -> None:
        """Open a scope: names declared in it hide outer ones."""
        self.scopes.append({})

    def leave(self) -> None:
        """Close the innermost scope."""
        self.scopes.pop()

    def declare(self, text: str) -> str:
        """C for a declaration of registers, local variables or parameters of a call."""
        if m := re.fullmatch(r"\.reg \.(\w+) (.*)", text):
            width, code = BITS[m[1]], []
            for name in split(m[2]):
                many = re.fullmatch(r"(%[\w$]+)<(\d+)>", name)
                for one in [f"{many[1]}{k}" for k in range(int(many[2]))] if many else [name]:
                    self.scopes[-1][plain(one)] = width
                    code.append(f"u{width} {plain(one)}{'' if many else ' = 0'};")
            return " ".join(code)
        pattern = r"\.(?:local|param) (?:\.align (\d+) )?\.b(\d+) ([\w$]+)(?:\[(\d+)\])?"
        if m := re.fullmatch(pattern, text):
            size = int(m[2]) // 8 * int(m[4] or 1)
            if size > 1 << 14:
                raise Unknown("more than 16 KB of local memory")
            align = f"__attribute__((aligned({max(int(m[1] or 8), 8)})))"
            return f"u8 {plain(m[3])}[{max(size, 8)}] {align};"
        if text.startswith((".loc", ".pragma", ".file", ".branchtargets", ".callprototype")):
            return ""
        raise Unknown(text)

    def width(self, name: str) -> int:
        for scope in reversed(self.scopes):
            if (found := scope.get(plain(name))) is not None:
                return found
        raise Unknown(f"{name} is no register")

    def bits(self, operand: str) -> str:
        """An operand as bits of its own width."""
        x = operand.strip()
        if m := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", x):
            return f"0x{m[1]}u"
        if m := re.fullmatch(r"0[dD]([0-9A-Fa-f]{16})", x):
            return f"0x{m[1]}ull"
        if re.fullmatch(r"-?\d+U?", x):
            return f"(u64){int(x.rstrip('U')) % 2**64}ull"
        if re.fullmatch(r"0[xX][0-9a-fA-F]+U?", x):
            return x.rstrip("U") + "ull"
        if x in SPECIAL:
            return SPECIAL[x]
        if x in self.shared:
            return "SHARED_BASE"
        if x.startswith("__local_depot"):
            return f"(u64){plain(x)}"
        self.width(x)
        return plain(x)

    def value(self, operand: str, kind: str, flush: bool = False) -> str:
        """An operand as a C value of a PTX type."""
        x = self.bits(operand)
        if kind == "f32":
            return f"flushed(F({x}))" if flush else f"F({x})"
        wrap = {"f64": "D({})", "f16": "half_value({})", "bf16": "bfloat_value({})",
                "pred": "({} & 1)"}  # fmt: skip
        return wrap[kind].format(x) if kind in wrap else f"(({integer(kind)})({x}))"

    def put(self, register: str, kind: str, expression: str) -> str:
        """Store a C value of a PTX type in a register."""
        if register.strip() == "_":
            return ""
        encode = {"f32": "bits32({})", "f64": "bits64({})", "f16": "half_bits({})",
                  "bf16": "bfloat_bits({})", "pred": "({}) & 1"}  # fmt: skip
        if kind in encode:
            return f"{plain(register)} = {encode[kind].format(expression)};"
        width, sign = self.width(register), "s" if kind[0] == "s" else "u"
        return f"{plain(register)} = ({sign}{max(width, 8)})({integer(kind)})({expression});"

    @staticmethod
    def vector(operand: str) -> list[str]:
        """The registers of ``{a, b, ...}``, or the single register."""
        return split(operand[1:-1]) if operand.startswith("{") else [operand]

    def address(self, operand: str) -> str:
        m = re.fullmatch(r"\[\s*([^\]+-]+?)\s*(?:([+-])\s*(-?\d+))?\s*\]", operand)
        if not m:
            raise Unknown(operand)
        return f"{self.bits(m[1])}{f' {m[2]} ({m[3]})' if m[2] else ''}"
