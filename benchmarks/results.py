"""The result of a run as JSON (figures, machine, versions, commit, date), and two runs compared."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "results"  # the results that the pages show
RUNS = ROOT / "benchmarks" / "runs"  # the results of the last runs; git ignores the folder
SCHEMA = 1
DISTRIBUTIONS = (
    "fusedce", "numba", "llvmlite", "numpy", "ml_dtypes", "scikit-learn", "torch", "jax", "optax",
)  # fmt: skip
SHOWN = "python", "numba", "numpy", "scikit-learn", "torch", "jax", "optax"  # in a caption
MARGIN = 1.05  # a run is slower if it exceeds this factor and the spread of both runs


def processor() -> str:
    """The processor's name where the system reports it."""
    info = Path("/proc/cpuinfo")
    found = info.exists() and re.search(r"model name\s*:\s*(.+)", info.read_text())
    return found[1] if found else platform.processor() or platform.machine()


def caches() -> dict[str, str]:
    """The data caches of the first core, where the system reports them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (index / name for name in ("level", "type", "size"))
        if kind.read_text().strip() != "Instruction":
            found[f"L{level.read_text().strip()}"] = size.read_text().strip()
    return found


def vector_bits() -> int:
    """The width of the vectors that Numba's compiler uses."""
    features = llvm.get_host_cpu_features()
    return 512 if features.get("avx512f") else 256 if features.get("avx2") else 128


def machine() -> Record:
    """The machine that was measured, without the name of the host or any path."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": numba.get_num_threads(),
        "caches": caches(),
        "vector_bits": vector_bits(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(names: tuple[str, ...] = DISTRIBUTIONS) -> dict[str, str]:
    """The versions of Python and of those of the distributions that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit, marked if the code of fusedce/ or kernels/ differs from it; None without git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "fusedce", "kernels", ":!*.md")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory() -> float | None:
    """The largest memory this process has held, in GB, where the system reports it."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 1)


def origin(names: tuple[str, ...] = DISTRIBUTIONS) -> Record:
    """Where and when a result was measured, and with which versions."""
    return {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(names),
    }


def document(records: list[Record], missing: dict[str, str], settings: Record) -> Record:
    """The result of a run over cases."""
    return origin() | {
        "settings": settings,
        "peak_memory_gb": peak_memory(),
        "missing_rivals": missing,
        "cases": records,
    }


def write(result: Record, path: Path) -> None:
    """Write a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> Record:
    """Read a result, or end with a line that says what is wrong with it."""
    try:
        result: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path.name} is no result of a benchmark: {error}") from error
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise SystemExit(f"{path.name} is no result of this benchmark (schema {SCHEMA})")
    return dict(result)


def caption(result: Record, place: str | None = None, names: Iterable[str] = SHOWN) -> str:
    """Where the figures come from, in one line."""
    where = result["machine"]
    if place is None:
        place = f"{where['processor']}, {where['threads']} threads of {where['cores']} cores"
        place += "".join(f", {level} {size}" for level, size in where["caches"].items())
        place += f", {where['vector_bits']}-bit vectors"
    used = ", ".join(f"{n} {result['versions'][n]}" for n in names if n in result["versions"])
    return f"{place}; {used}; {result['date']}, commit {result['commit'] or 'unknown'}"


def destination(out: Path | None, partial: bool, name: str) -> Path | None:
    """Where a result is written; that of a partial run only where ``--out`` says."""
    return out or (None if partial else RUNS / name)


def latest(name: str) -> Path:
    """The result of the last run; without one, the result that the pages show."""
    run = RUNS / name
    return run if run.exists() else FOLDER / name


def shown(path: Path, name: str) -> Record:
    """Read a result and make it the one that the pages show."""
    result = read(path)
    if path.resolve() != FOLDER.joinpath(name).resolve():
        write(result, FOLDER / name)
    return result


def incomparable(past: Record | None, record: Record) -> str | None:
    """Why a case of this run cannot be compared with the other run; None where it can."""
    if past is None:
        return "the other result lacks it"
    if "ms" not in record or "ms" not in past:
        return "it was left out"
    if past["shape"] != record["shape"]:
        sizes = (" × ".join(f"{n:,}" for n in r["shape"]) for r in (record, past))
        return "{} here, {} there".format(*sizes)
    mine, theirs = record.get("ratio"), past.get("ratio")
    if not mine or not theirs:
        return "no reference for its time was timed in the same run"
    same = mine["of"] == theirs["of"]
    return None if same else f"relative to {mine['of']} here, to {theirs['of']} there"


def comparable(
    old: Record, new: Record
) -> tuple[list[tuple[Record, Record]], list[tuple[str, str]]]:
    """The cases that both runs measured in the same way, and the others with the reasons.

    Compared are ratios of times: to the loop that moves the same bytes, to another call of fusedce,
    or to NumPy.
    """
    before = {record["case"]: record for record in old["cases"]}
    pairs, others = [], []
    for record in new["cases"]:
        past = before.get(record["case"])
        why = incomparable(past, record)
        if past is None or why is not None:
            others.append((record["title"], str(why)))
        else:
            pairs.append((past, record))
    return pairs, others


def regressions(old: Record, new: Record) -> list[Record]:
    """The cases that became slower by more than the spread of the two runs.

    Compared are ratios of times taken in one run, because everything is slower on a slower machine.
    The 20th percentile of the new run must exceed the 80th percentile of the old one by MARGIN.
    """
    found = []
    for past, record in comparable(old, new)[0]:
        before, now = past["ratio"], record["ratio"]
        if now["p20"] > MARGIN * before["p80"]:
            line = {"case": record["case"], "title": record["title"], "of": now["of"]}
            found.append(line | {"before": before["value"], "now": now["value"]})
    return found
