"""Locks on folders in use: held by real processes, living, dead, standing still, or elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from threading import Timer
from types import SimpleNamespace

import pytest
from filelock import SoftFileLease

from mfql.errors import UserError
from mfql.files import write_whole
from mfql.locks import InUse, holder, locked, watch

ANOTHER_START = (1 << 127 | 1) << 64 | 1


def marker(host, pid=4_194_305, *, token="0" * 32, duration=120.0, start=1):
    """What filelock 4 writes for the holder of a lease."""
    return f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken={token}\nduration={duration}\nstart={start}\n"


def this_host(folder):
    """What filelock calls this machine."""
    with SoftFileLease(folder / "probe") as lease:
        return lease.owner.hostname


@pytest.fixture
def held(tmp_path):
    """Starts a process that holds locks until it is killed."""
    processes = []

    def hold(*paths, before="pass"):
        program = f"""
import sys
from mfql import locks
{before}
with locks.locked(*{[str(path) for path in paths]!r}):
    print("holds", flush=True)
    sys.stdin.read()  # It ends with the process of the test, too.
"""
        command = [sys.executable, "-c", program]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(command, encoding="utf-8", **pipes)
        processes.append(process)
        assert process.stdout.readline() == "holds\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def test_a_lock_is_exclusive_and_released(tmp_path, held):
    path = tmp_path / "run" / "lock"
    with locked(path):
        with pytest.raises(InUse, match=f"run is in use by process {os.getpid()} on"), locked(path):
            raise AssertionError
        assert path.exists()
    assert list(path.parent.iterdir()) == []
    process = held(path)
    with pytest.raises(InUse, match=f"run is in use by process {process.pid} on"), locked(path):
        raise AssertionError


def test_a_lock_may_be_waited_for(tmp_path, held, capsys):
    path = tmp_path / "lock"
    process = held(path)

    def kill():
        process.kill()
        process.wait()

    Timer(0.5, kill).start()
    with locked(path, wait=30.0):
        assert process.returncode == -signal.SIGKILL
    assert f"is in use by process {process.pid} on" in capsys.readouterr().err


def test_the_lock_of_a_process_that_was_killed_is_taken_over_at_once(tmp_path, held):
    paths = [tmp_path / "first", tmp_path / "second"]
    process = held(*paths)
    process.kill()
    process.wait()
    assert all(path.exists() for path in paths)
    assert holder(paths[0]) is None
    with locked(*paths):
        assert holder(paths[0]).pid == holder(paths[1]).pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_reused_process_number_is_not_the_locks_holder(tmp_path):
    path = tmp_path / "lock"
    with locked(path):
        text = path.read_text(encoding="utf-8")
    path.write_text(
        "".join(line for line in text.splitlines(keepends=True) if "start=" not in line) + "start=1\n", encoding="utf-8"
    )
    with locked(path):
        assert holder(path).pid == os.getpid()


@pytest.mark.parametrize("where", ["host", "container", "host of this one's name"])
def test_a_lock_from_elsewhere_is_respected_while_it_is_renewed_and_else_taken_over(tmp_path, monkeypatch, where):
    host, start = {
        "host": ("elsewhere", 1),
        "container": (f"{os.uname().nodename}?pidns-f0000001", 1),
        "host of this one's name": (this_host(tmp_path), ANOTHER_START),
    }[where]
    monkeypatch.setattr("mfql.locks._LEASE", 1.5)
    monkeypatch.setattr("mfql.locks._BEAT", 0.5)
    path = tmp_path / "lock"
    path.write_text(marker(host, duration=1.5, start=start), encoding="utf-8")
    renewal = Timer(0.3, os.utime, [path])
    renewal.start()
    said = f"in use by process 4194305 on {host.partition('?')[0]}"
    with pytest.raises(InUse, match=said), locked(path):
        raise AssertionError
    began = time.monotonic()
    with locked(path):
        assert holder(path).pid == os.getpid()
    assert time.monotonic() - began > 1.4


def test_a_dead_jobs_locks_of_all_its_seeds_cost_one_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("mfql.locks._LEASE", 1.5)
    monkeypatch.setattr("mfql.locks._BEAT", 0.5)
    paths = [tmp_path / str(seed) for seed in range(20)]
    for path in paths:
        path.write_text(marker("elsewhere", duration=1.5), encoding="utf-8")
    began = time.monotonic()
    with locked(*paths):  # One after the other they would take 30 seconds.
        assert 1.4 < time.monotonic() - began < 20


def test_of_several_locks_none_stays_where_one_is_held(tmp_path, held):
    paths = [tmp_path / str(seed) for seed in range(3)]
    held(paths[1])
    with pytest.raises(InUse), locked(*paths):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("text", ["", "filelock/2\npid=1", '{"host": "elsewhere", "pid": 1}'])
def test_a_lock_cut_off_in_the_middle_or_of_an_earlier_version_is_taken_over(tmp_path, monkeypatch, text):
    monkeypatch.setattr("mfql.locks._LEASE", 1.0)
    monkeypatch.setattr("mfql.locks._BEAT", 0.3)
    path = tmp_path / "lock"
    path.write_text(text, encoding="utf-8")
    with locked(path):
        assert holder(path).pid == os.getpid()


def test_a_holder_renews_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("mfql.locks._BEAT", 0.05)
    path = tmp_path / "lock"
    with locked(path):
        os.utime(path, (0, 0))
        latest = time.monotonic() + 60
        while path.stat().st_mtime == 0:
            assert time.monotonic() < latest
            time.sleep(0.05)


def test_a_process_that_stood_still_and_lost_its_lock_ends_without_writing_more(tmp_path, held):
    path = tmp_path / "lock"
    process = held(path, before="locks._BEAT = 0.05")
    with write_whole(path) as file:
        file.write(marker("elsewhere"))
    assert process.wait() == 75
    assert "another's now" in process.stderr.read()
    assert path.read_text(encoding="utf-8") == marker("elsewhere")


def test_a_clock_that_was_set_makes_no_living_holder_dead(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    with locked(path):
        for step in (-3600, 3600):
            os.utime(path, (0, time.time() + step))
            assert holder(path).pid == os.getpid()
            with pytest.raises(InUse), locked(path):
                raise AssertionError


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_was_set_hides_no_holder_elsewhere_and_invents_none(tmp_path, monkeypatch, hours):
    """Neither here nor where the lock's date comes from; several take no longer than one."""
    now, seconds = time.time() - 3600 * hours, [0.0]
    paths = [tmp_path / name for name in ("living", "dead", "dead too")]
    for path in paths:
        path.write_text(marker("elsewhere"), encoding="utf-8")
        os.utime(path, (now, now))

    def sleep(pause: float) -> None:
        seconds[0] += pause
        if seconds[0] > 20.0:
            os.utime(paths[0], (now + 20.0, now + 20.0))

    clock = SimpleNamespace(time=time.time, monotonic=lambda: seconds[0], sleep=sleep)
    monkeypatch.setattr("mfql.locks.time", clock)
    watch(paths)
    assert holder(paths[0]).hostname == "elsewhere"
    assert seconds[0] < 22.0
    assert holder(paths[1]) is holder(paths[2]) is None
    assert 30.0 < seconds[0] < 32.0


def test_a_holder_on_a_machine_of_this_ones_name_is_not_looked_for_here(tmp_path):
    path = tmp_path / "lock"
    path.write_text(marker(this_host(tmp_path), start=ANOTHER_START), encoding="utf-8")
    assert holder(path).pid == 4_194_305
    path.write_text(marker(this_host(tmp_path)), encoding="utf-8")
    assert holder(path) is None


def test_a_locks_holder_is_told_without_taking_it(tmp_path, held, monkeypatch):
    monkeypatch.setattr("mfql.locks._BEAT", 0.5)
    path = tmp_path / "lock"
    assert holder(path) is None
    process = held(path)
    assert holder(path).pid == process.pid
    process.kill()
    process.wait()
    assert holder(path) is None
    path.write_text(marker("elsewhere", pid=7), encoding="utf-8")
    assert (holder(path).pid, holder(path).hostname) == (7, "elsewhere")
    os.utime(path, (0, time.time() - 1000))
    assert holder(path) is None
    assert path.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), locked(tmp_path / "file" / "lock"):
        raise AssertionError
