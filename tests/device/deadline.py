"""A pytest plugin that ends a session before its stage ends, so that a summary is printed.

STAGE_SECONDS: what the whole run may take. With pytest-xdist a timer interrupts the first process,
whatever the workers are at; else no test is begun any more.
"""

import os
import signal
import time

import pytest

LEAVE = 15  # seconds for the test under way or, 10 of them, the end of the workers; the summary
START = time.monotonic()
SAID = "no time left"


class Deadline:
    """Stops a session so many seconds after the start of the process."""

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
