"""C for PTX that computes: moves, bit operations, comparisons, arithmetic, conversions.

Each function takes the registers, the parts of the operation's name and the operands.
"""

from __future__ import annotations

from tests.emulator.ptx import Instruction, Unknown
from tests.emulator.registers import BITS, FLOATS, Registers, integer, plain

COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
           "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}  # fmt: skip
OPERANDS = {"fma": 4, "mad": 4, "selp": 4, "setp": 4, "shf": 4, "bfe": 4, "prmt": 4, "bfi": 5,
            "lop3": 5}  # the most operands, result included; 3 for all others  # fmt: skip
UNORDERED = {"equ": "==", "neu": "!=", "ltu": "<", "leu": "<=", "gtu": ">", "geu": ">="}
ROUND_TO_INTEGER = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
INTEGER_BINARY = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
FLOAT_BINARY = {"add": "+", "sub": "-", "mul": "*"}
# (operation, whether approximate) of one float32
UNITS = {
    ("ex2", True): "exp2_approx", ("lg2", True): "log2_approx", ("rcp", True): "reciprocal_approx",
    ("sqrt", True): "sqrt_approx", ("rsqrt", True): "rsqrt_approx", ("tanh", True): "tanh_approx",
}  # fmt: skip


def known_only(parts: list[str], *allowed: str) -> None:
    """Raise ``Unknown`` for a modifier that would be ignored."""
    if left := [p for p in parts[1:-1] if p not in allowed]:
        raise Unknown(f"modifier {left[0]}")


def arithmetic(r: Registers, one: Instruction) -> str:
    """C for an instruction that neither branches nor involves memory or other threads."""
    if len(one.operands) > OPERANDS.get(one.parts[0], 3):
        raise Unknown("more operands than are known")
    for translated in (logic, numbers):
        if (found := translated(r, one.parts[0], one.parts, one.operands)) is not None:
            return found
    raise Unknown(one.op)


def logic(r: Registers, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
    kind = parts[-1]
    if name == "mov":
        return move(r, kind, o)
    if name == "setp":
        return compare(r, parts, o)
    if name == "selp":
        a, b, which = map(r.bits, o[1:4])
        return f"{plain(o[0])} = ({which} & 1) ? {a} : {b};"
    if name in ("and", "or", "xor"):
        return f"{plain(o[0])} = {r.bits(o[1])} {INTEGER_BINARY[name]} {r.bits(o[2])};"
    if name == "not":
        return f"{plain(o[0])} = {'!' if kind == 'pred' else '~'}{r.bits(o[1])};"
    if name in ("shl", "shr"):
        a, n, width = r.value(o[1], kind), r.value(o[2], "u32"), BITS[kind]
        beyond = f"({a} < 0 ? -1 : 0)" if name == "shr" and kind[0] == "s" else "0"
        sign = "<<" if name == "shl" else ">>"
        return r.put(o[0], kind, f"{n} >= {width} ? {beyond} : {a} {sign} {n}")
    if name == "shf":
        return funnel(r, parts, o)
    field = f"bits_extracted({{}}, {{}}, {{}}, {BITS.get(kind, 0)}, {int(kind[0] == 's')})"
    calls = {
        "bfi": ("bits_inserted({}, {}, {}, {})", (2, 1, 3, 4)),
        "bfe": (field, (1, 2, 3)),
        "prmt": ("bytes_permuted({}, {}, {})", (1, 2, 3)),
        "lop3": ("logic3({}, {}, {}, {})", (1, 2, 3, 4)),
        "popc": ("__builtin_popcountll({})", (1,)),
    }  # fmt: skip
    if name in calls:
        known_only(parts if kind in BITS else [*parts, ""])
        text, places = calls[name]
        return f"{plain(o[0])} = {text.format(*(r.bits(o[k]) for k in places))};"
    if name == "clz":
        x = r.value(o[1], kind)
        return f"{plain(o[0])} = {x} ? __builtin_clzll({x}) - {64 - BITS[kind]} : {BITS[kind]};"
    return None


def move(r: Registers, kind: str, o: tuple[str, ...]) -> str:
    """A move between registers, or between a register and the parts of a vector."""
    to, source = r.vector(o[0]), r.vector(o[1])
    if len(to) > 1:
        each = BITS[kind] // len(to)
        value = r.bits(o[1])
        return " ".join(
            f"{plain(x)} = (u{each})((u64)({value}) >> {each * k});"
            for k, x in enumerate(to) if x != "_"
        )  # fmt: skip
    if len(source) > 1:
        each = BITS[kind] // len(source)
        parts = (f"(u64)(u{each}){r.bits(x)} << {each * k}" for k, x in enumerate(source))
        return f"{plain(o[0])} = {' | '.join(parts)};"
    return f"{plain(o[0])} = {r.bits(o[1])}{' & 1' if kind == 'pred' else ''};"


def compare(r: Registers, parts: list[str], o: tuple[str, ...]) -> str:
    kind, how = parts[-1], parts[1]
    known_only(parts, how, "and", "or", "xor", "ftz")
    a, b = (r.value(x, kind, "ftz" in parts) for x in o[1:3])
    unordered = f"({a} != {a} || {b} != {b})"
    if kind in FLOATS and how in UNORDERED:
        expression = f"({unordered} || {a} {UNORDERED[how]} {b})"
    elif kind in FLOATS and how in ("num", "nan"):
        expression = unordered if how == "nan" else f"!{unordered}"
    elif kind in FLOATS and how == "ne":
        expression = f"({a} < {b} || {a} > {b})"
    else:
        expression = f"({a} {COMPARE[how]} {b})"
    target, *other = o[0].split("|")
    combine = next((p for p in parts[2:-1] if p in ("and", "or", "xor")), None)
    tail = f" {INTEGER_BINARY[combine]} c" if combine else ""
    begin = f"u1 c = {r.value(o[3], 'pred')}; " if combine else ""
    code = "".join(f" {plain(x)} = !found{tail};" for x in other)
    return f"{{ {begin}u1 found = {expression}; {plain(target)} = found{tail};{code} }}"


def funnel(r: Registers, parts: list[str], o: tuple[str, ...]) -> str:
    """shf: 32 bits of a shifted 64-bit pair of registers."""
    low, high, n = (r.value(x, "u32") for x in o[1:4])
    n = f"({n} & 31)" if "wrap" in parts else f"({n} > 32 ? 32 : {n})"
    pair = f"((u64){high} << 32 | {low})"
    shifted = f"{pair} << {n} >> 32" if parts[1] == "l" else f"{pair} >> {n}"
    return r.put(o[0], "u32", shifted)


def numbers(r: Registers, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
    kind = parts[-1]
    if name == "cvt":
        return convert(r, parts, o)
    if name == "rcp" and parts[1:] == ["approx", "ftz", "f64"]:
        return r.put(o[0], kind, f"reciprocal_gross({r.value(o[1], kind)})")
    if kind in ("f32", "f64"):
        return floats(r, name, parts, o)
    if kind == "f32x2":
        return pairs(r, name, parts, o)
    if kind in ("f16x2", "bf16x2"):
        return halves(r, name, parts, o)
    if kind[0] in "sub" and kind[1:].isdigit():
        return integers(r, name, parts, o)
    return None


def floats(r: Registers, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
    kind, flush = parts[-1], "ftz" in parts
    single = kind == "f32"
    known_only(parts, "rn", "ftz", "approx", "full", "sat", "NaN")
    if name in ("neg", "abs"):
        known_only(parts)
        x, sign = r.bits(o[1]), "0x80000000u" if single else "(1ull << 63)"
        return f"{plain(o[0])} = {x} {'^ ' if name == 'neg' else '& ~'}{sign};"
    suffix, approx = "f" if single else "", "approx" in parts
    a, *more = (r.value(x, kind, flush) for x in o[1:])
    if name in FLOAT_BINARY:
        found = f"{a} {FLOAT_BINARY[name]} {more[0]}"
    elif name == "fma":
        found = f"fma{suffix}({a}, {more[0]}, {more[1]})"
    elif name in ("min", "max"):
        found = f"{'least' if name == 'min' else 'greatest'}{BITS[kind]}({a}, {more[0]})"
        if "NaN" in parts:
            found = f"({a} != {a} || {more[0]} != {more[0]} ? NAN : {found})"
    elif name == "div":
        ways = {"approx": "divide_approx({}, {})", "full": "divide_full({}, {})"}
        way = next((ways[p] for p in parts if p in ways), "{} / {}")
        found = way.format(a, more[0])
    elif (name, approx) in UNITS and single:
        found = f"{UNITS[name, approx]}({a})"
    elif name in ("rcp", "sqrt") and not approx:
        found = f"1 / {a}" if name == "rcp" else f"sqrt{suffix}({a})"
    else:
        return None
    if "sat" in parts:
        found = f"saturated({found})"
    return r.put(o[0], kind, f"flushed({found})" if flush else found)


def pairs(r: Registers, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
    """Two float32 in 64 bits, from sm_100 on."""
    known_only(parts, "rn", "ftz")
    wrap = "flushed({})" if "ftz" in parts else "{}"
    halves = []
    for shift in (0, 32):
        a, b, *c = (wrap.format(f"F((u32)((u64){r.bits(x)} >> {shift}))") for x in o[1:])
        if name != "fma" and name not in FLOAT_BINARY:
            return None
        found = f"fmaf({a}, {b}, {c[0]})" if name == "fma" else f"{a} {FLOAT_BINARY[name]} {b}"
        halves.append(f"(u64)bits32({wrap.format(found)}) << {shift}")
    return f"{plain(o[0])} = {' | '.join(halves)};"


def halves(r: Registers, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
    """Two numbers of half precision in 32 bits."""
    known_only(parts, *(["rn"] if name == "fma" else []))
    if name == "neg":
        return f"{plain(o[0])} = {r.bits(o[1])} ^ 0x80008000u;"
    if name != "fma":
        return None
    half, encode = ("half", "half_bits") if parts[-1] == "f16x2" else ("bfloat", "bfloat_bits")
    found = []
    for shift in (0, 16):
        a, b, c = (f"{half}_value((u16)({r.bits(x)} >> {shift}))" for x in o[1:])
        found.append(f"(u32){encode}(fma_to_odd({a}, {b}, {c})) << {shift}")
    return f"{plain(o[0])} = {' | '.join(found)};"


def integers(r: Registers, name: str, parts: list[str], o: tuple[str, ...]) -> str | None:
    kind = parts[-1]
    known_only(parts, "lo", "hi", "wide")
    a, *more = (r.value(x, kind) for x in o[1:3])
    if name == "neg":
        return r.put(o[0], kind, f"0 - (u64){a}")
    if name == "abs":
        return r.put(o[0], kind, f"{a} < 0 ? 0 - (u64){a} : (u64){a}")
    if name in ("add", "sub"):
        return r.put(o[0], kind, f"(u64){a} {INTEGER_BINARY[name]} (u64){more[0]}")
    if name in ("mul", "mad"):
        return product(r, name, parts, o, a, more[0])
    if name in ("div", "rem"):
        call = "quotient" if name == "div" else "remainder"
        return r.put(o[0], kind, f"{call}_{kind[0]}({a}, {more[0]})")
    if name in ("min", "max"):
        sign = "<" if name == "min" else ">"
        return r.put(o[0], kind, f"{a} {sign} {more[0]} ? {a} : {more[0]}")
    return None


def product(r: Registers, name: str, parts: list[str], o: tuple[str, ...], a: str, b: str) -> str:
    kind = parts[-1]
    sign, width = kind[0], BITS[kind]
    if "wide" in parts:
        wide = f"{sign}{2 * width}"
        tail = f" + (u64){r.value(o[3], wide)}" if name == "mad" else ""
        return r.put(o[0], wide, f"(u64)(({sign}64){a} * ({sign}64){b}){tail}")
    tail = f" + (u64){r.value(o[3], kind)}" if name == "mad" else ""
    if "hi" in parts:
        big = "__int128" if sign == "s" else "unsigned __int128"
        return r.put(o[0], kind, f"(u64)((({big}){a} * ({big}){b}) >> {width}){tail}")
    return r.put(o[0], kind, f"(u64){a} * (u64){b}{tail}")


def convert(r: Registers, parts: list[str], o: tuple[str, ...]) -> str:
    kinds = [p for p in parts[1:] if p in BITS]
    to, source = kinds
    rounding = [p for p in parts[1:] if p not in kinds]
    if left := set(rounding) - {"rn", "ftz", "sat", *ROUND_TO_INTEGER}:
        raise Unknown(f"modifier {left.pop()}")
    if to == "bf16" and source not in ("f32", "f16", "bf16"):
        raise Unknown("two roundings")
    if to in ("f16x2", "bf16x2"):
        encode = "half_bits" if to == "f16x2" else "bfloat_bits"
        high, low = (f"(u32){encode}({r.value(x, 'f32')})" for x in o[1:3])
        return f"{plain(o[0])} = {high} << 16 | {low};"
    x = r.value(o[1], source, "ftz" in rounding)
    whole = next((ROUND_TO_INTEGER[p] for p in rounding if p in ROUND_TO_INTEGER), None)
    if to in FLOATS:
        c = "double" if "f64" in (to, source) and to != "f32" else "float"
        found = f"({c}){whole}((double){x})" if whole else f"({c}){x}"
        if "sat" in rounding:
            found = f"saturated({found})"
        flush = "ftz" in rounding and to == "f32"
        return r.put(o[0], to, f"flushed({found})" if flush else found)
    if source in FLOATS:
        wide = source == "f64" or BITS[to] == 64  # else NaN is 0
        nan = f"({integer(to)})(1ull << {BITS[to] - 1})" if wide else "0"
        return r.put(o[0], to, f"{x} != {x} ? {nan} : to_{integer(to)}({whole}((double){x}))")
    if "sat" in rounding:
        raise Unknown("saturation of integers")
    return r.put(o[0], to, x)
