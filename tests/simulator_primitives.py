"""Twins of what a thread can ask for: see kernels/cuda/{device,stored,memory,params}.py."""

from __future__ import annotations

import importlib
import pathlib

import numpy as np

from fusedce.kernels import cuda
from fusedce.kernels.cuda import forms
from fusedce.kernels.cuda import memory as chunks
from tests import simulator_memory as watched
from tests.simulator_memory import Fault
from tests.simulator_numbers import TWINS, Int32, Lanes, Mask, dtype_of, number, values_of, width_of
from tests.simulator_threads import WARP, Now, meet


def barrier():
    block = Now.thread.block
    meet(block.waiting, len(block.threads), "a barrier", lambda _: block.settle())


def warp_barrier():
    warp = Now.thread.warp
    meet(warp.waiting, WARP, "a barrier of the warp", lambda _: warp.settle())


def cluster_barrier():
    cluster = Now.cluster

    def act(_):
        cluster.settle()
        cluster.remote = None

    meet(cluster.waiting, len(cluster.threads), "a barrier of the cluster", act)


def cluster_arrive():
    """Half a barrier, which orders no memory: this thread will read no other block again."""
    if Now.thread.arrived:
        raise Fault(f"{Now.thread} arrives twice")
    Now.thread.arrived = True


def cluster_wait():
    cluster = Now.cluster
    if not Now.thread.arrived:
        raise Fault(f"{Now.thread} waits for its cluster and has not arrived")

    def act(together):
        cluster.remote = None
        for thread in together:
            thread.arrived = False

    meet(cluster.waiting, len(cluster.threads), "a wait for the cluster", act)


def shuffle_xor(x, mask):
    thread = Now.thread
    warp = thread.warp
    if isinstance(x, Lanes) or not isinstance(x, int | np.floating) or isinstance(x, bool):
        raise TypeError(f"{type(x).__name__} cannot be shuffled")

    def act(together):
        values = [None] * WARP
        for t in together:
            values[t.lane] = t.brings
        kinds = {(int if isinstance(v, int) else type(v), m) for v, m in values}
        if len(kinds) > 1:
            raise Fault(f"lanes of a warp bring different things to a shuffle: {values}")
        warp.values = [v for v, _ in values]

    thread.brings = x, int(mask)
    meet(warp.waiting, WARP, "a shuffle", act)
    return warp.values[thread.lane ^ mask]


def get(offset, dtype):
    thread = Now.thread
    data = thread.block.shared.read(thread, Int32(offset), watched.size_of(dtype))
    return watched.unpacked(dtype, data)


def put(offset, x):
    thread = Now.thread
    thread.block.shared.write(thread, Int32(offset), watched.packed(x))


def get_remote(offset, rank, dtype):
    thread, blocks = Now.thread, Now.cluster.blocks
    if not 0 <= rank < len(blocks):
        raise Fault(f"block {rank} of a cluster of {len(blocks)}")
    if thread.arrived:
        raise Fault(f"{thread} reads a block that may have ended: it has arrived already")
    if rank != thread.block.rank:
        Now.cluster.remote = thread
    data = blocks[rank].shared.read(thread, Int32(offset), watched.size_of(dtype))
    return watched.unpacked(dtype, data)


# --------------------------------------------------------------------------------- global memory


def peek(address, dtype):
    return watched.unpacked(dtype, Now.memory.read(Now.thread, address, watched.size_of(dtype)))


def poke(address, x):
    Now.memory.write(Now.thread, address, watched.packed(x))


def float_of(dtype, bits):
    size = watched.size_of(dtype)
    data = (int(bits) & (1 << 8 * size) - 1).to_bytes(size, "little")
    return watched.unpacked(dtype, data)


def number_at(dtype, form, address):
    data = Now.memory.read(Now.thread, address, forms.BYTES[type(form)])
    return watched.decoded(dtype, type(form), data)


def put_number(form, address, x):
    Now.memory.write(Now.thread, address, watched.encoded(type(form), x))


def integer_at(form, address):
    data = Now.memory.read(Now.thread, address, forms.BYTES[type(form)])
    return watched.integer(type(form), data)


# --------------------------------------------------------------------------------- chunks


class Words:
    """The raw bits of some chunks."""

    __slots__ = ("data",)

    def __init__(self, data):
        self.data = data

    @property
    def kind(self):
        """What tells two of these apart, as numba's type does."""
        return Words, len(self.data)

    def numba_type(self):
        """The type that numba gives it."""
        return chunks.Words(len(self.data) // 4)


def hits(T, form, start, step, wanted):
    per = forms.CHUNK // forms.BYTES[type(form)]
    places = [start + k // per * step + k % per for k in range(width_of(T))]
    return Mask(np.array(places) == wanted)


def numbered(T, start, wanted):
    if not issubclass(T, Lanes):
        return start == wanted
    return Mask(start + np.arange(T.width) == wanted)


def no_words(T, form):
    return Words(bytes(width_of(T) * forms.BYTES[type(form)]))


def _chunks(T, form):
    """How many chunks the lanes of a number fill."""
    size = width_of(T) * forms.BYTES[type(form)]
    if size % forms.CHUNK:
        raise TypeError(f"{T.__name__} as {type(form).__name__} fills no whole chunks")
    return size // forms.CHUNK


def _reader(low, shared):
    def read(T, form, start, step, count):
        thread, step, count = Now.thread, Int32(step), Int32(count)
        source = thread.block.shared if shared else Now.memory
        missing = watched.filled(type(form), low)
        found = [
            source.read(thread, start + k * step, forms.CHUNK) if k < count else missing
            for k in range(_chunks(T, form))
        ]
        return Words(b"".join(found))

    return read


def _writer(shared):
    def write(start, step, count, words):
        thread, step, count = Now.thread, Int32(step), Int32(count)
        target = thread.block.shared if shared else Now.memory
        for k in range(min(count, len(words.data) // forms.CHUNK)):
            part = words.data[k * forms.CHUNK : (k + 1) * forms.CHUNK]
            target.write(thread, start + k * step, part)

    return write


PENDING = {}  # what threads have begun to copy; a thread that does not wait finds nothing


def copy_chunk(place, address):
    data = Now.memory.read(Now.thread, address, forms.CHUNK)
    PENDING.setdefault(Now.thread, []).append((Int32(place), data))


def copied():
    thread = Now.thread
    for place, data in PENDING.pop(thread, ()):
        thread.block.shared.write(thread, place, data)


def _places(width, per, start, step, along, count):
    """Addresses of lane i of chunk k, k * step + i * along, up to chunk ``count``."""
    some = max(0, min(width, Int32(count) * per))
    return [start + lane // per * step + lane % per * along for lane in range(some)]


def _gathered(T, form, places, fill, source=None):
    """Numbers from these places, ``fill`` in the other lanes."""
    source = source or Now.memory
    if type(fill) is not dtype_of(T):
        raise TypeError(f"filled with {type(fill).__name__}, not {dtype_of(T).__name__}")
    values, size = np.full(width_of(T), fill), forms.BYTES[type(form)]
    if places:
        data = b"".join([source.read(Now.thread, place, size) for place in places])
        values[: len(places)] = watched.floats(dtype_of(T), type(form), data)
    return number(T, values)


def _scattered(form, places, x, target=None):
    """Numbers into these places."""
    target = target or Now.memory
    data, size = watched.encoded(type(form), x), forms.BYTES[type(form)]
    for lane, place in enumerate(places):
        target.write(Now.thread, place, data[lane * size : (lane + 1) * size])


def read_grid(T, form, like, start, step, along, count, fill):
    per = forms.CHUNK // forms.BYTES[type(like)]
    return _gathered(T, form, _places(width_of(T), per, start, step, along, count), fill)


def write_grid(form, start, step, along, count, x):
    per = forms.CHUNK // forms.BYTES[type(form)]
    _scattered(form, _places(len(values_of(x)), per, start, step, along, count), x)


def _beside(form, like, width, start, step, count):
    """(place, bytes) of the loads or stores beside chunks: up to 16 bytes each."""
    per = forms.CHUNK // forms.BYTES[type(like)]
    whole = per * forms.BYTES[type(form)]
    size = min(forms.CHUNK, whole)
    if whole % 4:
        raise TypeError(f"{whole} bytes beside a chunk")
    chunks_here = min(max(0, Int32(count)), width // per)
    return [start + k * step + i for k in range(chunks_here) for i in range(0, whole, size)], size


def read_beside(T, form, like, start, step, count):
    width = width_of(T)
    places, size = _beside(form, like, width, start, step, count)
    data = b"".join([Now.memory.read(Now.thread, place, size) for place in places])
    return Words(data.ljust(width * forms.BYTES[type(form)], b"\0"))


def write_beside(form, like, start, step, count, x):
    places, size = _beside(form, like, len(values_of(x)), start, step, count)
    data = watched.encoded(type(form), x)
    for k, place in enumerate(places):
        Now.memory.write(Now.thread, place, data[k * size : (k + 1) * size])


def read_lanes(T, form, start, step, count, fill):
    return _gathered(T, form, _places(width_of(T), 1, start, step, 0, count), fill)


def write_lanes(form, start, step, count, x):
    _scattered(form, _places(len(values_of(x)), 1, start, step, 0, count), x)


def get_lanes(T, start, step, count, fill):
    places = _places(width_of(T), 1, Int32(start), Int32(step), 0, count)
    return _gathered(T, FORMS[dtype_of(T)], places, fill, Now.thread.block.shared)


def put_lanes(start, step, count, x):
    places = _places(len(values_of(x)), 1, Int32(start), Int32(step), 0, count)
    _scattered(FORMS[dtype_of(type(x))], places, x, Now.thread.block.shared)


FORMS = {np.float32: forms.Float32(), np.float64: forms.Float64()}


def lane(x, k):
    return x.v[range(x.width)[_at_least_0(k)]]


def with_lane(x, k, value):
    values = x.v.copy()
    values[range(x.width)[_at_least_0(k)]] = x.raw(value)
    return x.of(values)


def _at_least_0(k):
    if k < 0:
        raise IndexError(f"lane {k}")
    return k


def params_of(plan, cls, dtype):
    found = (getattr(plan, f"p{k}") for k in range(len(cls._fields)))
    return cls(*(float_of(dtype, bits) for bits in found))


# By their names in kernels/cuda: a test says which are missing, and which stand for nothing.
PRIMITIVES = {
    "thread": lambda: Int32(Now.thread.index),
    "threads": lambda: Int32(Now.cluster.launch.threads),
    "block": lambda: Int32(Now.thread.block.number),
    "blocks": lambda: Int32(Now.cluster.launch.blocks),
    "barrier": barrier,
    "shuffle_xor": shuffle_xor,
    "copy_chunk": copy_chunk,
    "copied": copied,
    "warp_barrier": warp_barrier,
    "get": get,
    "put": put,
    "cluster_rank": lambda: Int32(Now.thread.block.rank),
    "cluster_barrier": cluster_barrier,
    "cluster_arrive": cluster_arrive,
    "cluster_wait": cluster_wait,
    "get_remote": get_remote,
    "peek": peek,
    "poke": poke,
    "float_of": float_of,
    "number_at": number_at,
    "put_number": put_number,
    "integer_at": integer_at,
    "itemsize": lambda form: Int32(forms.BYTES[type(form)]),
    "per_chunk": lambda form: Int32(forms.CHUNK // forms.BYTES[type(form)]),
    "chunks_of": lambda T, form: Int32(_chunks(T, form)),
    "read_logits": _reader(True, False),
    "get_words": _reader(True, True),
    "write_words": _writer(False),
    "put_words": _writer(True),
    "decoded": lambda T, form, words: watched.decoded(T, type(form), words.data),
    "encoded": lambda form, x: Words(watched.encoded(type(form), x)),
    "renewed": lambda words: words,
    "hits": hits,
    "numbered": numbered,
    "no_words": no_words,
    "read_grid": read_grid,
    "write_grid": write_grid,
    "read_lanes": read_lanes,
    "write_lanes": write_lanes,
    "first_lanes": watched.first_lanes,
    "get_lanes": get_lanes,
    "put_lanes": put_lanes,
    "lane": lane,
    "with_lane": with_lane,
    "params_of": params_of,
    "read_beside": read_beside,
    "write_beside": write_beside,
}


def intrinsics():
    """Each intrinsic of kernels/cuda by its name."""
    found = {}
    for file in sorted(pathlib.Path(cuda.__file__).parent.glob("*.py")):
        if file.stem not in ("__init__", "compile", "launcher", "numba_cuda"):
            module = importlib.import_module(f"{cuda.__name__}.{file.stem}")
            for name, value in vars(module).items():
                if type(value).__name__ == "_Intrinsic" and value not in SHARED_TWINS:
                    found[name] = value
    return found


SHARED_TWINS = dict(TWINS)  # those of numbers, which the CPU's kernels have too
TWINS.update({f: PRIMITIVES[name] for name, f in intrinsics().items() if name in PRIMITIVES})
