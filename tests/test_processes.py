"""What tests start ends with them."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from tests.support.processes import run, started, until

# A process with a child, which both go on for ever.
FAMILY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(10**6)"])
print(child.pid, flush=True)
child.wait()
"""


def wait_for_the_end_of(*pids: int) -> None:
    """An orphan's end is noticed by whoever takes it in, sooner or later; that of a process that lives never is."""
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)


def test_a_test_that_fails_leaves_no_process_and_no_child_of_one() -> None:
    def fail() -> None:
        with started([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, encoding="utf-8") as process:
            found.extend([process.pid, int(process.stdout.readline())])
            assert all(map(psutil.pid_exists, found))
            raise AssertionError("planted")

    found: list[int] = []
    with pytest.raises(AssertionError, match="planted"):
        fail()
    assert len(found) == 2
    wait_for_the_end_of(*found)


def test_so_does_one_whose_process_ended_before_its_child() -> None:
    orphaning = FAMILY.replace("child.wait()", "")
    printed = run([sys.executable, "-c", orphaning], stdout=subprocess.DEVNULL)
    assert printed.returncode == 0
    with started([sys.executable, "-c", orphaning], stdout=subprocess.PIPE, encoding="utf-8") as process:
        child = int(process.stdout.readline())
        process.wait()
        assert psutil.Process(child).is_running()
    wait_for_the_end_of(child)


def test_what_waits_for_a_process_that_ended_fails_with_what_it_said() -> None:
    with (
        started([sys.executable, "-c", "print('gone')"], stdout=subprocess.PIPE, encoding="utf-8") as process,
        pytest.raises(AssertionError, match="gone"),
    ):
        until(lambda: False, process, process.stdout.read)
