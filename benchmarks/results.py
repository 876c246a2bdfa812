"""A run as JSON: figures, machine, versions, commit, date; and one run against another."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "results"  # what the README shows
RUNS = ROOT / "benchmarks" / "runs"  # what the last runs left behind; git ignores it
RESULT = "throughput.json"
SCHEMA = 1
DISTRIBUTIONS = (
    "fusedce", "numba", "llvmlite", "numpy", "ml_dtypes", "scikit-learn", "torch", "jax", "optax",
)  # fmt: skip
MARGIN = 1.05  # what a slower run must exceed beside the spread of both runs


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = info.exists() and re.search(r"model name\s*:\s*(.+)", info.read_text())
    return found[1] if found else platform.processor() or platform.machine()


def caches() -> dict[str, str]:
    """The data caches of the first core, where the system tells them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            index.joinpath(n).read_text().strip() for n in ("level", "type", "size")
        )
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def vector_bits() -> int:
    """The width of the vectors that the compiler uses."""
    features = llvm.get_host_cpu_features()
    return 512 if features.get("avx512f") else 256 if features.get("avx2") else 128


def machine() -> Record:
    """Where the figures were taken; no name of a host, no path."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": numba.get_num_threads(),
        "caches": caches(),
        "vector_bits": vector_bits(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(names: tuple[str, ...] = DISTRIBUTIONS) -> dict[str, str]:
    """Of Python and of what is installed of everything that is timed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, marked where the engine differs from it; None without git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "fusedce", "kernels")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory() -> float | None:
    """The most memory this process held, in GB, where the system tells it."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 1)


def document(records: list[Record], missing: dict[str, str], settings: Record) -> Record:
    """Everything that a run leaves behind."""
    return {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
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
    """Read a result, or say what is wrong with it."""
    try:
        result: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path.name} is no result of a benchmark: {error}") from error
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise SystemExit(f"{path.name} is no result of this benchmark (schema {SCHEMA})")
    return dict(result)


def caption(result: Record) -> str:
    """Where the figures come from, in one line."""
    where = result["machine"]
    names = ("python", "numba", "numpy", "scikit-learn", "torch", "jax", "optax")
    place = f"{where['processor']}, {where['threads']} threads of {where['cores']} cores"
    place += "".join(f", {level} {size}" for level, size in where["caches"].items())
    used = ", ".join(f"{n} {result['versions'][n]}" for n in names if n in result["versions"])
    commit = result["commit"] or "unknown"
    return f"{place}, {where['vector_bits']}-bit vectors; {used}; {result['date']}, commit {commit}"


def destination(options: argparse.Namespace, name: str) -> Path | None:
    """Where a result goes; what is no full run leaves one only where asked."""
    parts = options.quick, options.case, options.rival, options.shrink, options.shape
    return options.out or (None if any(parts) else RUNS / name)


def latest(name: str) -> Path:
    """The result of the last run, or where there is none, that of the README."""
    run = RUNS / name
    return run if run.exists() else FOLDER / name


def shown(path: Path, name: str) -> Record:
    """A result that from now on is the one of the README."""
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
        return "nothing that it could be measured by was timed beside it"
    same = mine["of"] == theirs["of"]
    return None if same else f"measured by {mine['of']} here, by {theirs['of']} there"


def comparable(
    old: Record, new: Record
) -> tuple[list[tuple[Record, Record]], list[tuple[str, str]]]:
    """The cases that both runs measured in the same way, before and now; titles and whys of others.

    What is compared is the ratio to the loop of the same bytes, to another call, or to NumPy.
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
    """What became slower by more than the spread of the two runs.

    Compared are ratios to the floor, for a slower machine has a slower floor: nearly all rounds of
    the new run (its 20th percentile) must lie above nearly all of the old (its 80th), by MARGIN.
    """
    found = []
    for past, record in comparable(old, new)[0]:
        before, now = past["ratio"], record["ratio"]
        if now["p20"] > MARGIN * before["p80"]:
            line = {"case": record["case"], "title": record["title"], "of": now["of"]}
            found.append(line | {"before": before["value"], "now": now["value"]})
    return found
