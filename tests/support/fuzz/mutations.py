"""Ways in which a file is damaged or changed, by its form; `random.Random` alone decides which."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import yaml

from mfql.settings import identified

# What stands in place of a value; the absurd ones are as large as a text can say them, not as a machine can hold.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, -(2**63), 10**30, 1e308, -1e-320, float("nan"), float("inf"), float("-inf"),
    "", " ", "x", "None", "nan", "-1", "1e400", "../../elsewhere", "/", "~", "~nobody", "$UNSET", "{name}",
    "%s", "\u202e", "\x1b[31mred", "ü" * 20, "a\nb", "\x07", "x" * 20_000, [], {}, [None], [[]], {"": None}, {"x": 1},
    [1, "x", None],
)  # fmt: skip
# What stands in place of a cell or a word.
ODD_TEXTS = (
    "", " ", "nan", "NaN", "inf", "-inf", "None", "null", "true", "-1", "0", "1e400", "1e308", "1,5", "1.000,5", "0x10",
    "1_000", "٣", "x", '"', "'", ",", ";", "\t", "#", "=1+1", "*", "../..", "\x1b[31m", "\x00", "ü", "\ufeff",
    "x" * 20_000,
)  # fmt: skip
_DEPTH = 1_500

Mutation = Callable[[bytes, Random], bytes]


def _place(content: bytes, rng: Random) -> int:
    return rng.randrange(len(content) + 1)


def _flip(content: bytes, rng: Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        if found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _cut(content: bytes, rng: Random) -> bytes:
    return content[: _place(content, rng)]


def _cut_front(content: bytes, rng: Random) -> bytes:
    return content[_place(content, rng) :]


def _remove(content: bytes, rng: Random) -> bytes:
    first = _place(content, rng)
    return content[:first] + content[first + rng.choice([1, 2, 16, 256]) :]


def _insert(content: bytes, rng: Random) -> bytes:
    at = _place(content, rng)
    more = rng.choice(
        [rng.randbytes(rng.choice([1, 8, 512])), b"\x00", b"\n", b"\xff\xfe", b"\x1b[31m", b"\r", b"{", b'"']
    )
    return content[:at] + more + content[at:]


def _double(content: bytes, rng: Random) -> bytes:
    first, last = sorted((_place(content, rng), _place(content, rng)))
    return content[:last] + content[first:last] + content[last:]


def _swap(content: bytes, rng: Random) -> bytes:
    first, middle, last = sorted(_place(content, rng) for _ in range(3))
    return content[:first] + content[middle:last] + content[first:middle] + content[last:]


def _zeros(content: bytes, rng: Random) -> bytes:
    first = _place(content, rng)
    count = min(rng.choice([1, 64, 4096]), len(content) - first)
    return content[:first] + bytes(count) + content[first + count :]


def _empty(_: bytes, rng: Random) -> bytes:
    return rng.choice([b"", b"\n", b"\x00" * 64])


BYTES: tuple[Mutation, ...] = (_flip, _flip, _cut, _cut_front, _remove, _insert, _double, _swap, _zeros, _empty)


# --- texts ------------------------------------------------------------------------------------------------------------


def _recoded(content: bytes, rng: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    encoding = rng.choice(["utf-16", "utf-8-sig", "utf-32", "cp1252", "utf-7", "utf-16-le"])
    return (text + rng.choice(["", "ü"])).encode(encoding, "replace")


def _line_ends(content: bytes, rng: Random) -> bytes:
    return content.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b""]))


def _line(content: bytes, rng: Random) -> bytes:
    """A line that is removed, doubled, moved, or far too long."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[at])
    elif kind == 2:
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    else:
        lines[at] += rng.choice([b"x", b" ", b",", b"#"]) * 100_000
    return b"\n".join(lines)


def _word(content: bytes, rng: Random) -> bytes:
    """A number or a word that is another one."""
    words = list(re.finditer(rb"[\w.+-]+", content))
    if not words:
        return b"x"
    word = rng.choice(words)
    return content[: word.start()] + rng.choice(ODD_TEXTS).encode() + content[word.end() :]


def _number(content: bytes, rng: Random) -> bytes:
    """A number that is a little other, or of other size."""
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    if not numbers:
        return _word(content, rng)
    number = rng.choice(numbers)
    other = rng.choice([b"-", b"1", b"9" * 30, b"0", b".5", b"e99"])
    return content[: number.start()] + rng.choice([other + number[0], number[0] + other]) + content[number.end() :]


TEXT: tuple[Mutation, ...] = (*BYTES[1:], _recoded, _line_ends, _line, _line, _word, _word, _number, _number)


# --- documents and tables ---------------------------------------------------------------------------------------------


def _nodes(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in a document."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in below for place in _nodes(item, (*at, key)))]


def _changed(document: Any, rng: Random) -> Any:
    """A document with one value another, removed, renamed or nested."""
    places = [place for place in _nodes(document) if place]
    if not places:
        return rng.choice(ODD_VALUES)
    place = rng.choice(places)
    owner = document
    for key in place[:-1]:
        owner = owner[key]
    key = place[-1]
    kind = rng.randrange(6)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, dict):
        owner[rng.choice(["", "x", "\x1b[31m", "../x", str(key) + " "])] = owner.pop(key)
    elif kind == 2:
        owner[key] = rng.choice([[owner[key]], {"x": owner[key]}, str(owner[key]), [owner[key]] * 2])
    elif kind == 3 and isinstance(owner[key], int | float) and not isinstance(owner[key], bool):
        owner[key] = rng.choice([-owner[key], owner[key] + 1, owner[key] * 10, owner[key] / 2, float(owner[key])])
    else:
        owner[key] = rng.choice(ODD_VALUES)
    return document


def _json(content: bytes, rng: Random) -> bytes:
    return (json.dumps(_changed(json.loads(content), rng), indent=1) + "\n").encode()


def _deep_json(content: bytes, rng: Random) -> bytes:
    """One value nested deeper than a reader recurses, or a number of more digits than Python reads."""
    marked = json.dumps(_marked(json.loads(content), rng), indent=1)
    depth = _DEPTH * rng.choice([1, 4])
    other = rng.choice(
        ["[" * depth + "]" * depth, '{"x":' * depth + "1" + "}" * depth, "9" * 5000, "1e999", "-" + "8" * 400]
    )
    return marked.replace('"MARK"', other).encode()


def _doubled_key(content: bytes, rng: Random) -> bytes:
    lines = content.split(b"\n")
    keyed = [at for at, line in enumerate(lines) if b":" in line and line.rstrip().endswith(b",")] or [0]
    at = rng.choice(keyed)
    return b"\n".join([*lines[:at], lines[at], *lines[at:]])


def _marked(document: Any, rng: Random) -> Any:
    places = [place for place in _nodes(document) if place]
    if not places:
        return "MARK"
    place = rng.choice(places)
    owner = document
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = "MARK"
    return document


JSON: tuple[Mutation, ...] = (_json,) * 12 + (_deep_json, _deep_json, _doubled_key, *TEXT)


def _yaml(content: bytes, rng: Random) -> bytes:
    return yaml.safe_dump(_changed(yaml.safe_load(content), rng), sort_keys=False).encode()


def _odd_yaml(content: bytes, rng: Random) -> bytes:
    marked = yaml.safe_dump(_marked(yaml.safe_load(content), rng), sort_keys=False)
    other = rng.choice(
        ["[" * _DEPTH + "]" * _DEPTH, "&a [*a]", "*unknown", "!!python/object:x {}", "!x y", "2026-13-45", "1e5", "0o7",
         "9" * 5000, "? [1]\n: 2", "!!binary 'x'", "!!set {a}", "{a: 1, a: 2}", ".nan", "12:30:45", "'?a?'"]
    )  # fmt: skip
    return marked.replace("MARK", other).encode()


YAML: tuple[Mutation, ...] = (_yaml,) * 12 + (_odd_yaml,) * 3 + TEXT


def _csv(content: bytes, rng: Random) -> bytes:
    """A table with one cell, row or column another."""
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    if not rows:
        return b"x"
    at = rng.randrange(len(rows))
    kind = rng.randrange(8)
    if kind == 0:
        rows.insert(at, list(rows[at]))
    elif kind == 1:
        del rows[at]
    elif kind == 2:
        rows.insert(rng.randrange(len(rows)), rows.pop(at))
    elif kind == 3:
        column = rng.randrange(len(rows[0]))
        rows = [row[:column] + row[column + 1 :] for row in rows]
    elif kind == 4:
        rows[at] = rows[at] + ["more"] * rng.choice([1, 3])
    elif kind == 5:
        rows[at] = rows[at][: rng.randrange(len(rows[at]) + 1)]
    elif rows[at]:
        rows[at][rng.randrange(len(rows[at]))] = rng.choice(ODD_TEXTS)
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=rng.choice([",", ",", ",", ",", ",", ";", "\t"]), lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _number_cell(content: bytes, rng: Random) -> bytes:
    """A cell that is a number and another one."""
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    cells = [(i, j) for i, row in enumerate(rows) for j, cell in enumerate(row) if re.fullmatch(r"-?\d+(\.\d+)?", cell)]
    if not cells:
        return _csv(content, rng)
    i, j = rng.choice(cells)
    rows[i][j] = rng.choice(["-" + rows[i][j], rows[i][j] + "1", "nan", "inf", "1e300", str(float(rows[i][j]) + 0.5)])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


CSV: tuple[Mutation, ...] = (_csv,) * 10 + (_number_cell,) * 4 + TEXT


# --- arrays -----------------------------------------------------------------------------------------------------------


def _other_array(values: np.ndarray, rng: Random) -> np.ndarray:
    """An array of another type, shape or content."""
    draw = np.random.default_rng(rng.randrange(2**32))
    kind = rng.randrange(12)
    if kind == 0:
        return values[:-1] if values.ndim else values
    if kind == 1:
        return values[:0] if values.ndim else np.empty(0)
    if kind == 2:
        return values[..., None] if rng.random() < 0.5 else values.reshape(-1)
    if kind == 3:
        with np.errstate(all="ignore"):
            return (
                values.astype(rng.choice(["i1", "u8", "f2", "f8", ">f4", "c8", "?"]))
                if values.dtype.kind in "biuf"
                else values
            )
    if kind == 4:
        return np.array([b"x"] * max(len(np.atleast_1d(values)), 1))
    if kind == 5:
        return values[::-1] if values.ndim else values
    if kind == 6 and values.ndim:
        return draw.permutation(values)
    if kind == 7:
        return np.zeros_like(values)
    if kind == 8 and values.ndim:
        return np.concatenate([values, values[-1:]])
    if values.dtype.kind == "f" and values.size:
        found = values.copy()
        found.flat[draw.integers(found.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30])
        return found
    return np.full(values.shape, 7, values.dtype) if values.dtype.kind in "biuf" else values


def _npz(content: bytes, rng: Random) -> bytes:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    name, kind = rng.choice(sorted(arrays)), rng.randrange(8)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays["x" * rng.choice([1, 300])] = arrays.pop(name)
    else:
        arrays[name] = _other_array(arrays[name], rng)
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)  # type: ignore[arg-type]
    return written.getvalue()


def _npz_header(content: bytes, rng: Random) -> bytes:
    """An array whose header promises more than a machine holds, or something else than numbers."""
    import zipfile

    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(found, "w") as after:
        chosen = rng.choice(before.namelist())
        for name in before.namelist():
            member = before.read(name)
            if name == chosen:
                end = member.index(b"\n")
                shape = rng.choice([b"(10000000000000,)", b"(-1,)", b"(2, 2, 2)", b"()", b"(True,)"])
                header = re.sub(rb"\([\d, ]*\)", shape, member[:end])
                if rng.random() < 0.3:
                    header = re.sub(rb"'descr': '[^']*'", rng.choice([b"'descr': '|O'", b"'descr': '<f99'"]), header)
                member = header.rstrip().ljust(end)[:end] + member[end:]
            after.writestr(name, member)
    return found.getvalue()


NPZ: tuple[Mutation, ...] = (_npz,) * 10 + (_npz_header,) * 2 + BYTES


def _npy(content: bytes, rng: Random) -> bytes:
    written = io.BytesIO()
    np.save(written, _other_array(np.load(io.BytesIO(content), allow_pickle=False), rng))
    return written.getvalue()


NPY: tuple[Mutation, ...] = (_npy,) * 5 + BYTES


def _hdf5(content: bytes, rng: Random) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "file.hdf5")
        path.write_bytes(content)
        with h5py.File(path, "a") as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            name, kind = rng.choice(sorted(names)), rng.randrange(10)
            values = file[name][()]
            attributes = dict(file[name].attrs)
            if kind == 0:
                del file[name]
            elif kind == 1:
                file.move(name, "x")
            elif kind == 2:
                del file[name]
                file.create_group(name)
            elif kind == 3:
                del file[name]
                file[name] = h5py.SoftLink(rng.choice(["/nowhere", f"/{name}", "/"]))
            elif kind == 4:
                del file[name]
                file.create_dataset(name, shape=(10**13,), dtype="f4", chunks=(1024,))
            elif kind == 5 and (
                owners := [one for one in (file, *(file[n] for n in names), *file.values()) if one.attrs]
            ):
                owner = rng.choice(owners)
                key = rng.choice(sorted(owner.attrs))
                if rng.random() < 0.4:
                    del owner.attrs[key]
                else:
                    owner.attrs[key] = rng.choice([-1, 10**12, "x", np.zeros(3), 0.5, b"\xff"])
            else:
                del file[name]
                file[name] = _other_array(np.asarray(values), rng) if not isinstance(values, bytes) else b"x"
                file[name].attrs.update(attributes)
        return path.read_bytes()


HDF5: tuple[Mutation, ...] = (_hdf5,) * 10 + BYTES


# --- what stands in the file's place ----------------------------------------------------------------------------------


def _as_folder(path: Path) -> None:
    path.mkdir()


def _as_fifo(path: Path) -> None:
    os.mkfifo(path)


def _as_link_loop(path: Path) -> None:
    path.symlink_to(path.name)


def _as_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere/at/all")


def _as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


INSTEAD: tuple[Callable[[Path], None], ...] = (_as_folder, _as_fifo, _as_link_loop, _as_dangling_link, _as_device)

FORMS: dict[str, tuple[Mutation, ...]] = {
    "bytes": BYTES,
    "text": TEXT,
    "json": JSON,
    "yaml": YAML,
    "csv": CSV,
    "npz": NPZ,
    "npy": NPY,
    "hdf5": HDF5,
}
_SHARE_INSTEAD = 0.04


def mutate(path: Path, form: str, rng: Random) -> str:
    """Change a file, or put something else in its place; returns in which way.

    Args:
        form: of `FORMS`.
    """
    content = path.read_bytes()
    path.unlink()
    if rng.random() < _SHARE_INSTEAD:
        instead = rng.choice(INSTEAD)
        instead(path)
        return instead.__name__.strip("_")
    while True:
        mutation = rng.choice(FORMS[form])
        try:
            found = mutation(content, rng)
        except (ValueError, KeyError, TypeError, OSError, RuntimeError, OverflowError, AttributeError, RecursionError):
            continue  # Of a draw that the form's own writer refuses.
        if found != content:
            path.write_bytes(found)
            return mutation.__name__.strip("_")


def says_the_same(path: Path, content: bytes, form: str, keys: tuple[str, ...] = ()) -> bool:
    """Whether a mutated file says what it said, in other characters.

    A table has its rows, in whatever order, delimiter and encoding; a document the entries for which a hash vouches.

    Args:
        keys: of these entries; none of a document that a hash vouches for as it stands.
    """
    if not path.is_file() or path.is_symlink():
        return False
    if keys:
        try:
            now, before = json.loads(path.read_bytes()), json.loads(content)
        except (ValueError, RecursionError):
            return False
        return all(_entry(now, key) == _entry(before, key) for key in keys)
    if form != "csv":
        return False
    rows = []
    for one in (content, path.read_bytes()):
        text = one.decode("utf-16" if one[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
        delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
        rows.append(
            sorted(
                {
                    tuple(_plain(cell) for cell in row)
                    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
                    if row
                }
            )
        )
    return rows[0] == rows[1]


def _entry(document: Any, key: str) -> Any:
    """An entry of a document; slashes lead to those within."""
    for name in key.split("/"):
        document = document.get(name) if isinstance(document, dict) else None
    return identified(document) if key == "settings" and isinstance(document, dict) else document


def _plain(cell: str) -> str:
    try:
        return repr(float(cell))
    except ValueError:
        return cell
