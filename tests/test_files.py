"""Files that are whole or absent, and locks."""

from __future__ import annotations

import json
import os
import socket
from threading import Timer

import pytest

from mfql.errors import UserError
from mfql.files import InUse, holder, locked, read_json, write_json, write_whole


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


def test_a_lock_released_and_taken_by_a_third_meanwhile_is_respected(tmp_path, monkeypatch):
    path = tmp_path / "lock"

    def gone_and_taken_again(_):
        path.unlink()
        path.write_text("the third's")

    path.write_text("")
    monkeypatch.setattr("mfql.files._read_holder", gone_and_taken_again)
    with pytest.raises(InUse, match="another process"), locked(path):
        raise AssertionError
    assert path.read_text() == "the third's"


def test_a_dead_processs_lock_is_taken_over_and_another_hosts_respected(tmp_path):
    path = tmp_path / "lock"
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 0.0}
    path.write_text(json.dumps(dead))
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    path.write_text(json.dumps(dead | {"host": "elsewhere"}))
    with pytest.raises(UserError, match="elsewhere"), locked(path):
        raise AssertionError


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
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 0.0}
    path.write_text(json.dumps(dead))
    assert holder(path) is None
    path.write_text(json.dumps(dead | {"host": "elsewhere"}))
    assert holder(path) == dead | {"host": "elsewhere"}
    assert path.exists()
