"""A pytest plugin that ends a session before the stage's time limit, so that a summary is printed.

STAGE_SECONDS: the time that the whole run may take. With pytest-xdist, a timer interrupts the main
process, whatever the workers are doing; without it, no further test is started.
"""

import os
import signal
import time

import pytest

LEAVE = 15  # seconds for the current test (or 10 s for the workers to end) and for the summary
START = time.monotonic()
SAID = "no time left"


class Deadline:
    """Stops a session ``LEAVE`` seconds before the process has run for ``seconds``."""

    def __init__(self, seconds):
        self.end, self.session = START + seconds - LEAVE, None

    def pytest_sessionstart(self, session):
        self.session = session
        if session.config.getoption("numprocesses", None):
            signal.signal(signal.SIGALRM, self.interrupt)
            signal.setitimer(signal.ITIMER_REAL, max(0.1, self.end - time.monotonic()))

    def interrupt(self, *_):
        raise pytest.Session.Interrupted(SAID)

    def pytest_runtest_logreport(self, report):
        if time.monotonic() > self.end:
            self.session.shouldstop = SAID


def pytest_configure(config):
    seconds = os.environ.get("STAGE_SECONDS")
    if seconds and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Deadline(float(seconds)))
