"""A pytest plugin: no test begins when the stage is about to end, so that a summary is printed.

STAGE_SECONDS: what the whole run may take. With pytest-xdist it is the first process that decides.
"""

import os
import time

LEAVE = 8  # seconds for the tests under way and the summary
START = time.monotonic()


class Deadline:
    """Stops a session between two tests."""

    def __init__(self, seconds):
        self.end, self.session = START + seconds - LEAVE, None

    def pytest_sessionstart(self, session):
        self.session = session

    def pytest_runtest_logreport(self, report):
        if time.monotonic() > self.end:
            self.session.shouldstop = "no time left"


def pytest_configure(config):
    seconds = os.environ.get("STAGE_SECONDS")
    if seconds and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Deadline(float(seconds)))
