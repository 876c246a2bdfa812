"""fusedce.adapters.jax under signals, at exit, in forked processes and after a second import."""

from __future__ import annotations

import pytest

from tests.cpu.test_threads import needs_fork, run_script

pytest.importorskip("jax")


BUSY = """
    import jax, jax.numpy as jnp
    from fusedce.adapters import jax as ours
    z, k = jnp.zeros((600, 600)), jnp.zeros(600, int)
    def step(z, _):
        loss = ours.softmax_cross_entropy_with_integer_labels(z, k)
        return jnp.tanh(z @ z) + loss[:, None] * 1e-3, None
    f = jax.jit(lambda z: jax.lax.scan(step, z, None, length=100_000)[0])
    f = f.lower(z).compile()
"""


@pytest.mark.parametrize("kept", [True, False])
def test_python_ends_while_xla_computes(kept):
    """The interpreter can exit while XLA computes: the process ends normally and does not hang."""
    run_script(BUSY + ("    r = f(z)" if kept else "    f(z)") + "\n    print(1)\n")


@needs_fork
def test_a_forked_child_ends():
    run_script(
        BUSY
        + """
    import os, sys, warnings
    warnings.simplefilter("ignore")
    r = f(z)
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
    else:
        from fusedce.adapters import jax_operators
        jax_operators._HANDLERS["cpu"].guard.close()
        os._exit(0)
    """
    )


ALARMS = """
    import gc, os, queue, random, signal, sys, threading, time
    import jax, jax.numpy as jnp, numpy as np
    from fusedce.adapters import jax as ours
    gc.disable()  # JAX has a Python function that is called before: what is raised in it is lost
    random.seed(0)
    lost, raised, arrived = [], [], []
    sys.unraisablehook = lambda event: lost.append(event.exc_value)
    z, k = jnp.ones((32, 10)), jnp.arange(32) % 10
    def loss(z):
        return ours.softmax_cross_entropy_with_integer_labels(z, k).mean()
    step = jax.value_and_grad(loss)
    def scan(z):
        return jax.lax.scan(lambda z, _: (z - step(z)[1], loss(z)), z, None, length=5)
    def bits(f):
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(f(z))]
    calls = [jax.jit(f) for f in (step, scan, lambda z: step(z + step(z)[1]))]
    calls = [(f, bits(f)) for f in calls]
    class Told(TimeoutError):
        pass
    def ring(signum, frame):
        raised.append(Told("told"))
        raise raised[-1]
    signal.signal(signal.SIGALRM, ring)
    signal.signal(signal.SIGUSR1, ring)
    ready = queue.SimpleQueue()  # of C: an interrupt finds it whole
    def press():
        while True:
            for number in ready.get():
                time.sleep(random.random() * 1e-3)
                os.kill(os.getpid(), number)
    threading.Thread(target=press, daemon=True).start()
    def collect(numbers, f, right, count, level=3):
        "Call f until so many exceptions have arrived, each wherever those before are handled."
        late = time.monotonic() + 20
        try:
            if level:
                collect(numbers, f, right, count, level - 1)
            else:
                ready.put(numbers)
            while len(arrived) < count and time.monotonic() < late:
                assert bits(f) == right
        except BaseException as error:
            arrived.append(error)
"""


@pytest.mark.parametrize("dispatch", ["true", "false"])
def test_alarms(dispatch):
    """Every exception that a signal handler raises arrives in the caller exactly once.

    The signals come at random moments; no other exception arrives and none is lost.
    """
    script = """
    for n in range(300):
        numbers = [signal.SIGALRM] + [signal.SIGUSR1] * (n % 10 == 0)  # two, maybe in one call
        collect(numbers, *calls[n % 3], len(arrived) + len(numbers))
    time.sleep(0.1)
    assert len(raised) == 330 and not lost, (len(raised), lost)
    assert {id(e) for e in arrived} == {id(e) for e in raised} and len(arrived) == 330, arrived
    """
    run_script(ALARMS + script, JAX_CPU_ENABLE_ASYNC_DISPATCH=dispatch)


def test_other_signals():
    """Exceptions of other handlers arrive with their type and arguments, and no others.

    Ctrl-C, a SIGTERM handler that calls sys.exit, and a handler written in C.
    """
    script = """
    import functools, operator
    cases = [
        (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt, ()),
        (signal.SIGTERM, lambda signum, frame: sys.exit(143), SystemExit, (143,)),
        (signal.SIGUSR1, functools.partial(operator.getitem, []), TypeError, None),  # no frame
    ]
    for number, handler, kind, args in cases:
        signal.signal(number, handler)
        for n in range(60):
            arrived.clear()
            collect([number], *calls[n % 3], 1)
            (error,) = arrived
            assert type(error) is kind and args in (None, error.args), error
    assert not lost, lost
    """
    run_script(ALARMS + script)


@pytest.mark.slow(reason="processes that import JAX")
def test_exit():
    """A program whose SIGTERM handler calls sys.exit(0) ends with status 0."""
    script = """
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    ready.put([signal.SIGTERM])
    late = time.monotonic() + 20
    while time.monotonic() < late:
        bits(calls[0][0])
    sys.exit("SIGTERM did not arrive")
    """
    for _ in range(3):
        run_script(ALARMS + script)


def test_errors_of_the_work_beside_alarms():
    """A label out of range still raises XLA's error while alarms arrive as exceptions too."""
    script = """
    class Told(Exception):  # what JAX shows of an error looks at files and drops any OSError
        pass
    own, wrong = [], k.at[3].set(77)
    inner = jax.jit(
        lambda k: ours.softmax_cross_entropy_with_integer_labels(z, k).mean())
    def f(z):
        try:
            np.asarray(inner(wrong))
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            assert "target 77 at position 3 is out of range" in str(error), error
            own.append(error)
        return ()
    f(z)
    for n in range(200):
        collect([signal.SIGALRM], f, [], n + 1)
    assert own and not lost, (own, lost)
    assert [id(e) for e in arrived] == [id(e) for e in raised] and len(arrived) == 200, arrived
    """
    run_script(ALARMS + script)


def test_exceptions_of_other_threads():
    """An exception set by PyThreadState_SetAsyncExc arrives in the thread it was set for."""
    script = """
    import ctypes
    def work():
        for n in range(60):
            collect([], *calls[0], n + 1)
    thread = threading.Thread(target=work)
    thread.start()
    for n in range(60):
        time.sleep(5e-4 + random.random() * 1e-3)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(Told))
        late = time.monotonic() + 20
        while len(arrived) == n and time.monotonic() < late:
            time.sleep(1e-4)
    thread.join(20)
    assert len(arrived) == 60 and {type(e) for e in arrived} == {Told} and not lost, arrived
    """
    run_script(ALARMS + script)


def test_no_frame_keeps_buffers():
    """The frames of an exception's traceback hold no arrays on buffers that XLA frees."""
    script = """
    inside = 0
    while inside < 20:
        collect([signal.SIGALRM], *calls[0], len(arrived) + 1)
        trace, seen = raised[-1].__traceback__, False
        while trace:
            frame = trace.tb_frame
            seen |= frame.f_code.co_name == "_once"
            assert not (seen and frame.f_locals), (frame, frame.f_locals)
            trace = trace.tb_next
        inside += seen
    """
    run_script(ALARMS + script)


def test_no_thread_to_be_had():
    """If no thread can be started, the exception still arrives, besides XLA's error."""
    script = """
    from fusedce.adapters import jax_operators
    handler = jax_operators._HANDLERS["cpu"]
    work = handler.work
    def told(call):
        handler.work = work
        raised.append(Told("told"))
        raise raised[-1]
    handler.work = told
    threading.stack_size(1 << 46)
    collect([], *calls[0], 2)
    threading.stack_size(0)
    assert {type(e) for e in arrived} <= {Told, ValueError, jax.errors.JaxRuntimeError}, arrived
    assert raised[0] in arrived, arrived
    assert all("can start no thread" in str(e) for e in arrived if e is not raised[0]), arrived
    assert bits(calls[0][0]) == calls[0][1]
    """
    run_script(ALARMS + script)


def test_imported_again():
    """After a reload or a new import of the modules, old and new functions both work."""
    run_script("""
        import gc, importlib, sys
        import jax, jax.numpy as jnp
        from fusedce.adapters import jax as ours, jax_operators, jax_xla
        z, k = jnp.ones((3, 4)), jnp.arange(3)
        def check(f):
            assert abs(f(z, k)[0] - 1.3862944) < 1e-6
            try:
                jax.block_until_ready(f(z, k + 3))
            except (ValueError, jax.errors.JaxRuntimeError) as error:
                assert "target 4 at position 1" in str(error)
            else:
                raise AssertionError
        def made(m):
            return jax.jit(jax.value_and_grad(
                lambda z, k: m.softmax_cross_entropy_with_integer_labels(z, k).mean()))
        kept = [made(ours)]
        check(kept[0])
        for module in (jax_xla, jax_operators, ours):
            importlib.reload(module)
            kept.append(made(ours))
        for package in ("fusedce.adapters", "fusedce"):
            for name in [n for n in sys.modules if n.startswith(package)]:
                del sys.modules[name]
            gc.collect()
            again = importlib.import_module("fusedce.adapters.jax")
            assert again is not ours
            kept.append(made(again))
        for f in kept:
            check(f)
    """)
