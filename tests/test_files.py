"""Files that are whole or absent."""

from __future__ import annotations

import os

import pytest

from mfql.errors import UserError
from mfql.files import CannotRead, read_json, sha256, write_json, write_whole
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
