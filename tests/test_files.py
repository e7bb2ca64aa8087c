"""Files that are whole or absent."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from mfql.errors import UserError
from mfql.files import CannotRead, move, read_json, sha256, write_json, write_whole
from tests.support.forbidden import forbidden


def _write_and_fail(file):
    file.write("half")
    raise RuntimeError


def test_a_failing_writer_leaves_the_earlier_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(RuntimeError), write_whole(path) as file:
        _write_and_fail(file)
    assert path.read_text(encoding="utf-8") == "before"
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


def test_a_folder_of_which_a_part_cannot_be_seen_has_no_hash(tmp_path):
    (tmp_path / "episode").mkdir()
    (tmp_path / "episode" / "steps").write_text("1", encoding="utf-8")
    before = sha256(tmp_path)
    with forbidden(tmp_path / "episode"), pytest.raises(CannotRead, match="episode"):
        sha256(tmp_path)
    assert sha256(tmp_path) == before


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_ones_stays(tmp_path):
    path = tmp_path / "file"
    script = (
        "import os, sys; from mfql.files import write_whole\nwith write_whole(sys.argv[1]): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.file\.[0-9a-f]{16}\.part", left.name)
    other, foreign = tmp_path / left.name.replace("file", "other"), tmp_path / ".file.mine.part"
    for one in (other, foreign):
        one.touch()
    with write_whole(path) as first, write_whole(path) as second:
        assert not left.exists()
        first.write("first")
        second.write("second")
        assert len(list(tmp_path.iterdir())) == 4
    assert path.read_text(encoding="utf-8") == "first"
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", other.name, foreign.name}


def test_writers_of_one_number_in_two_containers_do_not_share_a_passing_name(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with write_whole(tmp_path / "file") as first, write_whole(tmp_path / "file") as second:
        assert first.name != second.name


def test_a_rename_counts_when_the_folder_and_those_made_for_it_are_synced(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), fsync(number))
    )
    path = tmp_path / "new" / "inner" / "file"
    with write_whole(path) as file:
        passing = file.name
    assert synced == [str(path.parents[1]), str(tmp_path), passing, str(path.parent)]
    synced.clear()
    move(path, tmp_path / "moved")
    assert (synced[0], set(synced[1:])) == (str(path), {str(path.parent), str(tmp_path)})
    synced.clear()
    move(path.parent, tmp_path / "folder")
    assert set(synced) == {str(path.parents[1]), str(tmp_path)}
