"""Files that are whole or absent, and the door through which those of others come."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest

from mfql.documents import read_json, read_text, read_yaml, write_json
from mfql.errors import UserError
from mfql.files import MOST_JSON, MOST_TEXT, MOST_YAML, CannotRead, move, open_file, sha256, write_whole
from mfql.tables import read_rows
from mfql.unpickle import load_arrays
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


def _opened(path):
    with open_file(path) as file:
        return file.read()


READERS = {
    "json": read_json,
    "yaml": lambda path: read_yaml(path, ""),
    "text": lambda path: read_text(path, ""),
    "rows": lambda path: read_rows(path, ""),
    "sha256": sha256,
    "pickle": load_arrays,
    "bytes": _opened,
}


def _socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))  # The address of a socket has at most 107 characters.


IRREGULAR = {
    "a named pipe": os.mkfifo,
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "Is a directory": lambda path: path.mkdir(),
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_regular_file_is_refused_at_once_by_every_reader(tmp_path, monkeypatch, kind, reader):
    monkeypatch.chdir(tmp_path)
    IRREGULAR[kind](path := tmp_path / "one")
    if kind == "Is a directory" and reader == "sha256":
        return  # That of a folder is asked for.
    with pytest.raises(CannotRead, match=rf"(?s){path}.*{kind}"):
        READERS[reader](path)


@pytest.mark.parametrize(("reader", "most"), [("json", MOST_JSON), ("yaml", MOST_YAML), ("text", MOST_TEXT)])
def test_a_file_beyond_the_bound_of_its_kind_is_not_read(tmp_path, reader, most):
    path = tmp_path / "one"
    with open(path, "wb") as file:
        file.truncate(most + 1)
    with pytest.raises(UserError, match=f"{path} has more than {most >> 20} MiB"):
        READERS[reader](path)


def test_files_of_proc_which_have_no_size_are_read_whole():
    told = read_text("/proc/self/status", "")
    assert told.startswith("Name:")
    assert told.endswith("\n")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 1_500 + "]" * 1_500, "more than 64 deep"),
        ("[" * 65 + "]" * 65, "more than 64 deep"),
        ('{"a":' * 300 + "1" + "}" * 300, "more than 64 deep"),
        ("[" + "7" * 5000 + "]", "the number 77777777777777777777... has more than 64 bits"),
        ("9223372036854775808", "more than 64 bits"),
        ("-1e999", "is beyond 1.8e\\+308"),
        ("[NaN]", "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number of JSON"),
        ('{"seed": 1, "seed": 2}', "the key 'seed' stands there twice"),
        (b'"\xe9"', "0xe9"),
        (r'{"a": "\ud800"}', "half of a character"),
        (r'["\u0000"]', "a NUL character"),
        ("[1,", "line 1 column 4"),
    ],
)
def test_json_that_no_reader_here_could_use_is_refused_with_the_path(tmp_path, text, fault):
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"{path} is not valid JSON: .*{fault}"):
        read_json(path)


def test_json_within_the_bounds_is_read(tmp_path):
    path, deep = tmp_path / "a.json", "[" * 63 + "]" * 63
    path.write_text(
        f'{{"deep": {deep}, "most": [9223372036854775807, -9223372036854775808, 1.7e308], "text": "\\ud83d\\ude00"}}',
        encoding="utf-8",
    )
    found = read_json(path)
    assert found["most"] == [2**63 - 1, -(2**63), 1.7e308]
    assert found["text"] == "\N{GRINNING FACE}"


def _chain(first, rest, count):
    return f"a0: &a0 {first}\n" + "".join(f"a{n}: &a{n} {rest.format(f'*a{n - 1}')}\n" for n in range(1, count))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (_chain("[x]", "[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", 6), "more than 100000 values"),
        ("a: &a [" + "1, " * 1000 + "]\nb: [" + "*a, " * 1000 + "]", "line 2: it has more than 100000 values"),
        (_chain("[x]", "[{0}]", 500), "line 63: lists or mappings are more than 64 deep"),
        (_chain("{x: 1}", "{{<<: [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]}}", 6), "more than 100000 values"),
        ("a: &a [*a]", "line 1: \\*a holds itself"),
        ("[" * 1_500, "more than 64 deep"),
        ("a: " + "7" * 5000, "the number 77777777777777777777... has more than 100 characters"),
        ("a: 0x" + "f" * 17, "has more than 64 bits"),
        ("a: 1" + ":1" * 60, "has more than 100 characters"),
        ("a: 1.0e+999", "the number 1.0e\\+999 is beyond"),
        (r'a: "\ud800"', "half of a character"),
        (r'a: "\0"', "NUL character"),
        (b"a: b\0c", "line 1: it has a NUL character"),
        (b"\n\na: \xe9", "line 3: the byte 0xe9"),
    ],
)
def test_yaml_that_no_reader_here_could_use_is_refused_with_the_path(tmp_path, text, fault):
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"cannot read {path}: .*{fault}"):
        read_yaml(path, "")


def test_aliases_merges_and_infinity_stay_what_yaml_makes_of_them(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: .inf}\nb: {<<: *a, x: 2}\nc: [*a, *a]\n", encoding="utf-8")
    inf = float("inf")
    assert read_yaml(path, "") == {"a": {"x": 1, "y": inf}, "b": {"x": 2, "y": inf}, "c": [{"x": 1, "y": inf}] * 2}


def test_an_open_quote_takes_no_rows_into_its_cell(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('task,value\none,1\ntwo,"2\nthree,3\n', encoding="utf-8")
    with pytest.raises(UserError, match=f"{path}:3: unexpected end of data; the row begins there"):
        read_rows(path, "")


@pytest.mark.parametrize("row", ['on"e,1', 'one,1"', '"a ""b""",1\non"e,2'])
def test_a_quotation_mark_that_stands_alone_is_refused_with_its_line(tmp_path, row):
    path = tmp_path / "a.csv"
    path.write_text(f"task,value\nfirst,0\n{row}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"{path}:{3 + row.count(chr(10))}: a quotation mark stands there alone"):
        read_rows(path, "")
    path.write_text('task,value\n"a ""b""",1\n', encoding="utf-8")
    assert read_rows(path, "")[1][0][0] == {"task": 'a "b"', "value": "1"}


def test_a_pipe_in_place_of_a_file_is_refused_though_somebody_writes_to_it(tmp_path):
    os.mkfifo(path := tmp_path / "one")
    writer = os.open(path, os.O_RDWR)
    try:
        os.write(writer, b"{}")
        with pytest.raises(CannotRead, match="a named pipe"):
            read_json(path)
    finally:
        os.close(writer)
