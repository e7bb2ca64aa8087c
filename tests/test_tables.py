"""Tables as spreadsheets save them hold the numbers that the plain ones do, or are refused."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mfql.documents import read_text, read_yaml
from mfql.errors import UserError
from mfql.experiment.schema import check_tasks
from mfql.files import write_whole
from mfql.tables import read_rows
from mfql.tasks import load_extension

NUMBERS = st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e9, 1e9, allow_subnormal=False))
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=";\t,"), min_size=1)


def written(rows: list[list[str]], delimiter: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([["name", "one", "two"], *rows])
    return text.getvalue()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXTS, NUMBERS, NUMBERS), min_size=1, max_size=5), st.sampled_from(["utf-8-sig", "utf-16"]))
def test_no_number_changes(tmp_path: Path, rows: list[tuple[str, float, float]], encoding: str) -> None:
    plain = [[name.strip(), repr(one), repr(two)] for name, one, two in rows]
    (tmp_path / "plain.csv").write_text(written(plain, ","), encoding="utf-8", newline="")
    with_commas = [[name, one.replace(".", ","), two.replace(".", ",")] for name, one, two in plain]
    (tmp_path / "saved.csv").write_text(written(with_commas, ";"), encoding=encoding, newline="")
    with contextlib.redirect_stderr(io.StringIO()):
        columns, expected = read_rows(tmp_path / "plain.csv", "")
        if any(re.fullmatch(r"-?[1-9]\d{0,2},\d{3}", cell) for _, *cells in with_commas for cell in cells):
            with pytest.raises(UserError, match="which may be"):
                read_rows(tmp_path / "saved.csv", "")
            return
        found_columns, found = read_rows(tmp_path / "saved.csv", "")
    assert found_columns == columns == ["name", "one", "two"]
    for (row, _), (other, _), (_, one, two) in zip(found, expected, rows, strict=True):
        assert row["name"] == other["name"]
        assert [float(row["one"]), float(row["two"])] == [float(other["one"]), float(other["two"])] == [one, two]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("1.00E+06", "1000000"), ("2.50E+00", "2.50E+00"), ("3.00E-04", "3.00E-04"), ("1e3", "1e3"), ("64x64", "64x64"),
        ("30,000", "30,000"), ("-1.20E+03", "-1200"), (" 5 ", "5"),
    ],
)  # fmt: skip
def test_cells_between_commas(tmp_path: Path, cell: str, told: str) -> None:
    (tmp_path / "table.csv").write_text(f'one,two\n"{cell}",2\n', encoding="utf-8")
    assert read_rows(tmp_path / "table.csv", "")[1][0][0] == {"one": told, "two": "2"}


@pytest.mark.parametrize("first", ["sep=;\n", "SEP=;\r\n", '"sep=;"\n'])
def test_the_line_in_which_excel_names_the_delimiter_is_no_header(tmp_path: Path, first: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{first}one;two\n1,5;2\n", encoding="utf-8", newline="")
    assert read_rows(path, "") == (["one", "two"], [({"one": "1.5", "two": "2"}, f"{path}:3")])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_text_is_that_which_was_written(tmp_path: Path, encoding: str) -> None:
    text = "alpha: 3  # \u03b1 \u2265 0\n"
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "text.yaml").write_text(mark + text, encoding=encoding)
    assert read_text(tmp_path / "text.yaml", "") == text
    assert read_yaml(tmp_path / "text.yaml", "") == {"alpha": 3}


# What YAML 1.1 reads so and a person too, among them what looks like what is refused.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.0e+3", 1000.0), ("1.0e-3", 0.001), ("0", 0), ("00", 0), ("07", 7), ("0.5", 0.5), ("0x10", 16),
        ("'0100'", "0100"),
        ('"1:30"', "1:30"), ("'1e3'", "1e3"), ("mfql+alpha=1e3", "mfql+alpha=1e3"), ("a:b", "a:b"), ("yes", True),
        ("1_000", 1000), ("[64, 64]", [64, 64]), ("1.", 1.0), ("v1", "v1"), ("1e3x", "1e3x"), ("|\n  1e3", "1e3\n"),
    ],
)  # fmt: skip
def test_what_yaml_reads_as_it_looks_is_read(tmp_path: Path, text: str, value: object) -> None:
    (tmp_path / "text.yaml").write_text(f"key: {text}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "text.yaml", "") == {"key": value}


@pytest.mark.parametrize(
    ("text", "written_so"),
    [
        ("1e3", "1.0e+3"), ("1E3", "1.0e+3"), ("1e-3", "1.0e-3"), ("1.5e3", "1.5e+3"), ("-2e+4", "-2.0e+4"),
        (".5e3", ".5e+3"),
        ("0100", "100"), ("-010", "-10"), ("1:30", "90"), ("1:30.5", "90.5"),
    ],
)  # fmt: skip
def test_what_is_to_be_written_instead_is_what_was_meant(tmp_path: Path, text: str, written_so: str) -> None:
    path = tmp_path / "text.yaml"
    path.write_text(f"a: 1\nkey: [{text}]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2: ") as refused:
        read_yaml(path, "")
    assert f"write {written_so}, or '{text}' for the text" in str(refused.value)
    path.write_text(f"key: {written_so}\n", encoding="utf-8")
    found = read_yaml(path, "")["key"]
    assert isinstance(found, int | float)
    assert ":" in text or found == float(text)


@pytest.mark.parametrize("row", ["1", "1,2,3", "1,2,"])
def test_a_row_has_a_cell_for_each_column(tmp_path: Path, row: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"one,two\n1,2\n{row}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"table.csv:3 has not 2 cells"):
        read_rows(path, "")


def test_a_task_table_with_a_cell_too_many_is_refused_before_a_configuration_is(tmp_path: Path) -> None:
    (tmp_path / "tasks.csv").write_text("task,env_id\nmine,Pendulum-v1,more\n", encoding="utf-8")
    with pytest.raises(UserError, match="has not 2 cells"):
        check_tasks(tmp_path)


def test_a_task_table_is_read_anew_when_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in (("one", "7"), ("two", "80")):
        folder = tmp_path / name
        folder.mkdir()
        table = f"task,env_id,data,fqe_steps\nmine,none,mine.npz,{steps}\n"
        (folder / "tasks.csv").write_text(table, encoding="utf-8")
    found = []
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        found.append(load_extension(Path("tasks.csv"))["mine"].registered.fqe_steps)
    assert found == [7, 80]
    with write_whole("tasks.csv") as file:
        file.write(table.replace("80", "90"))
    assert load_extension(Path("tasks.csv"))["mine"].registered.fqe_steps == 90
