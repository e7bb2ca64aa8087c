"""The rows of `make bench` on the device, and where a goal is missed the profile that says why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import run as bench
from benchmarks.check.part import Check, Outcome
from benchmarks.goals import Document, missed
from benchmarks.job import FULL
from benchmarks.profile import profiled
from benchmarks.results import ROOT, Found, LeftOut, Measurement
from mfql.documents import read_json, write_json
from mfql.errors import UserError


def measured(check: Check, *parts: str) -> Outcome:
    """What the benchmarks' parts find, and for `plan` the file of measured speed."""
    quick = check.size.effort is not FULL
    with _compiled_code(check, empty="update" in parts) as folder:
        _, found = bench.measure(check.context, parts, quick, compiled_code=folder)
    outcome = Outcome([one for one in found if not _failed(one)])
    outcome.failures = [f"{one.what}: {one.needs}" for one in found if isinstance(one, LeftOut) and _failed(one)]
    if any(isinstance(one, Measurement) and one.part == "plan" for one in found):
        from benchmarks.speed import write_speed  # Its part was measured, so that what it imports is there.

        path = check.out / "speed.json"
        write_speed(path, found, check.context)
        if check.size.effort is FULL:  # That of a small check means nothing.
            write_json(ROOT / "results" / path.name, read_json(path))  # Where `mfql plan` looks.
        print(f"  written: {path}")
        outcome.found += _paper_hours(check, path)
    return outcome


@contextmanager
def _compiled_code(check: Check, *, empty: bool) -> Iterator[Path]:
    """Where a part keeps compiled code; an empty folder, to show what compiling costs, is then added to the others'."""
    if not empty:
        yield check.compiled_code
        return
    with TemporaryDirectory(dir=check.out) as own:
        yield Path(own)
        shutil.copytree(own, check.compiled_code, dirs_exist_ok=True)


def _failed(one: Measurement | LeftOut) -> bool:
    return isinstance(one, LeftOut) and one.needs.startswith(bench.FAILED)


def _paper_hours(check: Check, path: Path) -> Found:
    """The hours of the paper by that speed; the plan may need what a machine for measuring lacks."""
    try:
        return [Measurement(**one) for one in bench.paper_hours(check.context, path)]
    except (UserError, ImportError) as error:
        return [LeftOut("the hours of the paper", f"`mfql plan`: {str(error).splitlines()[0]}")]


def profile(check: Check, results: Document) -> Outcome:
    """Where the time of a step goes, if a goal about this machine was missed."""
    goals = missed(results)
    if not goals:
        print("  no goal that was measured is missed: nothing to profile")
        return Outcome()
    for goal in goals:
        print(f"  missed: {goal}")
    precision = "tf32" if check.on_gpu else "float32"
    seeds = (1, check.size.effort.packed)
    profiles = {f"profile-{count}.json": profiled(check.context, check.on_gpu, precision, count) for count in seeds}
    return Outcome(documents=profiles)
