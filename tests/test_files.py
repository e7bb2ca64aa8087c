"""Files that are whole or absent, and locks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from threading import Timer

import pytest

from mfql.errors import UserError
from mfql.files import InUse, holder, locked, read_json, write_json, write_whole

# Holds a lock on this host, and lives no longer.
DEAD = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 0.0}


def write_whole_text(path, text):
    with write_whole(path) as file:
        file.write(text)


def _write_and_fail(file):
    file.write("half")
    raise RuntimeError


def test_a_failing_writer_leaves_the_earlier_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(RuntimeError), write_whole(path) as file:
        _write_and_fail(file)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_said(tmp_path):
    with pytest.raises(UserError, match="No space left"), write_whole(tmp_path / "file") as file:
        raise OSError(28, os.strerror(28))
    assert not list(tmp_path.iterdir())
    assert file.closed


def test_json_keeps_numbers_that_json_lacks_as_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), 1.5, float("inf")]})
    assert read_json(tmp_path / "a.json") == {"a": [None, 1.5, None]}


@pytest.mark.parametrize("text", [None, "{", "\udcff"])
def test_absent_and_broken_json_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"a\.json"):
        read_json(path)


def test_a_lock_is_exclusive_and_released(tmp_path):
    path = tmp_path / "run" / "lock"
    with locked(path):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"), locked(path):
            raise AssertionError
        assert path.exists()
    assert not path.exists()


def test_a_lock_may_be_waited_for(tmp_path):
    path = tmp_path / "lock"
    with locked(path):
        release = Timer(0.2, path.unlink)
        release.start()
        with locked(path, wait=10.0):
            assert not release.is_alive()


def test_of_two_that_find_a_dead_processs_lock_the_slower_leaves_the_faster_ones(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.write_text(json.dumps(DEAD))
    rename, faster = os.rename, json.dumps(DEAD | {"host": "faster"})

    def taken_meanwhile(old, new):
        monkeypatch.undo()
        path.write_text(faster)
        rename(old, new)

    monkeypatch.setattr("mfql.files.os.rename", taken_meanwhile)
    began = time.monotonic()
    Timer(1.0, path.unlink).start()
    with locked(path):
        assert time.monotonic() - began > 0.9
    assert list(tmp_path.iterdir()) == []


def test_a_dead_processs_lock_is_taken_over_at_once(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps(DEAD))
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("place", [{"host": "elsewhere"}, {"processes": "pid:[1]"}])
def test_a_lock_from_elsewhere_is_respected_while_it_is_renewed_and_else_taken_over(tmp_path, monkeypatch, place):
    monkeypatch.setattr("mfql.files._LEASE", 1.5)
    path = tmp_path / "lock"
    path.write_text(json.dumps(DEAD | place))
    renewal = Timer(0.3, os.utime, [path])
    renewal.start()
    with pytest.raises(InUse, match=rf"in use by process {DEAD['pid']} on"), locked(path):
        raise AssertionError
    began = time.monotonic()
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert time.monotonic() - began > 1.5


def test_a_dead_jobs_locks_of_all_its_seeds_cost_one_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("mfql.files._LEASE", 1.0)
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        path.write_text(json.dumps(DEAD | {"host": "elsewhere", "started": 2.0}))
    with locked(paths[0]):
        began = time.monotonic()
        with locked(paths[1]):
            assert time.monotonic() - began < 0.9


def test_a_lock_cut_off_in_the_middle_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("mfql.files._LEASE", 0.2)
    path = tmp_path / "lock"
    path.write_text('{"host"')
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_holder_renews_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("mfql.files._BEAT", 0.05)
    path = tmp_path / "lock"
    with locked(path):
        os.utime(path, (0, 0))
        time.sleep(0.5)
        assert path.stat().st_mtime > 0


def test_a_process_that_stood_still_and_lost_its_lock_ends_without_writing_more(tmp_path):
    program = f"""
import time
from mfql import files
files._BEAT = 0.05
with files.locked({str(tmp_path / "lock")!r}):
    print("holds it", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "holds it\n"
        taken = json.dumps(DEAD | {"host": "elsewhere"})
        write_whole_text(tmp_path / "lock", taken)
        assert process.wait(30) == 75
        assert "another's now" in process.stderr.read()
    assert (tmp_path / "lock").read_text() == taken


def test_a_reused_process_number_is_not_the_locks_holder(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}))
    with locked(path):
        assert path.exists()


def test_a_locks_holder_is_told_without_taking_it(tmp_path):
    path = tmp_path / "lock"
    assert holder(path) is None
    with locked(path):
        assert holder(path) == json.loads(path.read_text())
    path.write_text(json.dumps(DEAD))
    assert holder(path) is None
    path.write_text(json.dumps(DEAD | {"host": "elsewhere"}))
    assert holder(path) == DEAD | {"host": "elsewhere"}
    os.utime(path, (0, time.time() - 1000))
    assert holder(path) is None
    assert path.exists()
