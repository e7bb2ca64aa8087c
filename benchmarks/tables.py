"""Results as Markdown, and their place in the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goals import Document, goal_rows
from benchmarks.results import number
from mfql.errors import UserError
from mfql.files import write_whole

BEGIN, END = (
    "<!-- written by `python -m benchmarks docs`: begin -->",
    "<!-- written by `python -m benchmarks docs`: end -->",
)
_TITLES = {
    "update": "An update of one seed, and its matrix products alone",
    "small": "An update at the quickstart's size: one thread, processor time",
    "seeds": "Several seeds in one job",
    "acting": "Acting on one observation",
    "methods": "Every method: one seed, eager",
    "online": "Online training",
    "evaluation": "Evaluation",
    "data": "Collecting datasets",
    "start": "Start-up and compilation",
    "memory": "Memory",
    "scheduler": "The scheduler's share",
    "many": "Commands over a study of many runs",
    "plan": "Measured for `mfql plan`",
    "reference": "Against the released JAX code",
    "shared": "Beside busy processes: one seed at the paper's size",
    "quickstart": "Quickstart",
    "machine": "The machine",
    "parity": "Parity with the released code's numbers: the largest error, in millionths",
    "steps": "Every method's step in other forms than eager on this device: how far apart they end",
    "killed": "Killed and continued",
    "task": "One task at the paper's size: means over seeds, from the least to the largest",
}


def goals_table(results: Sequence[Document]) -> str:
    """The goals beside what was measured."""
    return table(["goal", "bound", "measured", "holds"], goal_rows(results))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def section(result: Document) -> str:
    """One results file: what it was measured on, and its tables."""
    machine = result["machine"]
    device = machine["gpu"] or f"{machine['cpu']}, processor alone"
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    lines = [
        f"## {'Profile' if result['kind'] == 'profile' else 'Speed'}: {device}",
        "",
        f"`{result['command']}` on {result['date']}; processor {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} threads of torch, load {machine['load_at_start']} at the start; {versions}.",
        *(["**With --quick: a smoke run, no measurement.**"] if result.get("quick") else []),
        "",
    ]
    parts = _profile_tables(result) if result["kind"] == "profile" else part_tables(result)
    return "\n".join([*lines, *parts])


def part_tables(result: Document) -> list[str]:
    """The lines of the tables of a results file, and what was left out of it."""
    measured = result["measurements"]
    lines: list[str] = []
    for part in dict.fromkeys(one["part"] for one in measured):
        lines += [f"### {_TITLES.get(part, part)}", ""]
        of_part = [one for one in measured if one["part"] == part]
        for keys in dict.fromkeys(tuple(one["case"]) for one in of_part):
            lines += [_pivoted([one for one in of_part if tuple(one["case"]) == keys], keys), ""]
    if result["left_out"]:
        lines += ["### Not measured on this machine", ""]
        lines += [f"- {one['what']}: {one['needs']}" for one in result["left_out"]]
    return lines


def _pivoted(measured: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """A row for each case, a column for each quantity; where one was measured more than once, its range follows."""
    quantities = list(dict.fromkeys((one["quantity"], one["unit"]) for one in measured))
    rows: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    for one in measured:
        case = tuple(_plain(one["case"][key]) for key in keys)
        rows.setdefault(case, {})[one["quantity"], one["unit"]] = _cell(one)
    header = [*keys, *(f"{name}, {unit}" if unit else name for name, unit in quantities)]
    return table(header, [[*case, *(cells.get(each, "") for each in quantities)] for case, cells in rows.items()])


def _plain(value: Any) -> str:
    return number(float(value)) if isinstance(value, int | float) else str(value)


def _cell(one: Mapping[str, Any]) -> str:
    middle = number(one["value"])
    return middle if one["rounds"] == 1 else f"{middle} ({number(one['low'])} to {number(one['high'])})"


def _profile_tables(result: Document) -> list[str]:
    lines: list[str] = []
    for mode, step in result["steps"].items():
        rows = [
            [f"`{one['operation'][:60]}`", number(one["calls"]), number(one["milliseconds"]), number(one["percent"])]
            for one in step["operations"]
        ]
        of = f"{result['precision']}, {mode}, seeds {result['seeds']}"
        lines += [f"### {of}: {number(step['milliseconds'])} ms a step, unprofiled", ""]
        lines += [table(["operation", "calls a step", "ms a step", "%"], rows), ""]
    return lines


def write_docs(path: Path, results: Sequence[Document]) -> None:
    """Replace what stands between the two markers of a page.

    Raises:
        UserError: the page lacks them.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path} lacks the lines {BEGIN} and {END}", "Put them where the tables belong.")
    measured = [result for result in results if result["kind"] == "bench"]
    parts = ["## Goals", "", goals_table(measured), "", *(section(result) for result in results)]
    with write_whole(path) as file:
        file.write("\n".join([f"{before}{begin}", "", *parts, "", f"{end}{after}"]))
