"""Runs the parts of a check, keeps what came of each, and goes on where an earlier call ended, however it ended."""

from __future__ import annotations

import gc
import importlib.util
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.check import killed, machine, parity, speed, steps, task
from benchmarks.check.part import SIMULATOR, Check, Outcome, Part
from benchmarks.goals import Document
from benchmarks.job import FULL
from benchmarks.results import ROOT, Found, LeftOut, Measurement, command, document, number
from benchmarks.run import compiled_code_in
from benchmarks.tables import goals_table, part_tables
from mfql.cli import EXIT_CONTINUE
from mfql.documents import read_json, write_json
from mfql.files import hash_of, sha256
from mfql.locks import locked
from mfql.training.provenance import machine as hardware

FINISHED, FAILED, UNFINISHED, LEFT_OUT = "finished", "failed", "unfinished", "left out"
# The content of these decides what is measured.
_CODE = ("mfql/**/*.py", "benchmarks/**/*.py", "config/**/*.yaml", "config/*.csv", "tests/miniature/**/*.yaml")


def parts(check: Check) -> list[Part]:
    """All parts in the order in which they are run: the first figures first."""
    first, *others = steps.agent_names(check.context.config_dir, check.size.methods)

    def measured(*names: str) -> partial[Outcome]:
        return partial(_measured, names)

    def step(method: str, minutes: float) -> Part:
        return Part(f"step-{method.removesuffix(check.size.methods)}", steps.part_of(method), minutes)

    return [
        Part("machine", machine.machine, 0.5),
        Part("parity", parity.parity, 0.5),
        step(first, 2.0),
        Part("killed", killed.killed, 2.0),
        Part("update", measured("update"), 4.0),
        Part("seeds", measured("seeds"), 5.0),
        Part("profile", lambda check: speed.profile(check, gathered(check)), 2.0),
        Part("plan", measured("plan"), 3.0, (*SIMULATOR, "jsonschema")),
        Part("acting", measured("acting"), 0.5),
        Part("memory", measured("memory"), 2.0),
        Part("online", measured("online"), 4.0, SIMULATOR),
        Part("evaluation", measured("evaluation"), 4.0, SIMULATOR),
        *(step(method, 1.0) for method in others),
        Part("task", task.task, 1.0, (*SIMULATOR, "dm_control")),
    ]


def _measured(names: Sequence[str], check: Check) -> Outcome:
    return speed.measured(check, *names)


def run(check: Check, wanted: Sequence[str]) -> int:
    """Run what is not finished of the parts that are wanted, all without a name.

    Returns:
        the exit status: 0, 1 if a part failed, or `EXIT_CONTINUE` if time ran out before all were run.
    """
    with locked(check.out / "lock"), compiled_code_in(check.compiled_code):
        left = _run(check, [part for part in parts(check) if not wanted or part.name in wanted])
        records = {part.name: _record(check, part) for part in parts(check)}
        bench = _gathered_file(check)
    print("\n".join(["", goals_table([bench]), "", f"Written: {check.out / 'bench.json'}"]))
    failed = [name for name, record in records.items() if record and record["status"] == FAILED]
    for name in failed:
        print(f"check: {name} failed: {'; '.join((records[name] or {})['failures'])}", file=sys.stderr)
    if left:
        print(f"check: time is up. Left: {', '.join(left)}. This goes on:\n  {command()}", file=sys.stderr)
    return 1 if failed else EXIT_CONTINUE if left else 0


def _run(check: Check, wanted: Sequence[Part]) -> list[str]:
    """Run parts; returns what is left when time is up."""
    begun = False
    for position, part in enumerate(wanted):
        record = _record(check, part)
        if record and record["status"] == FINISHED:
            print(f"check: {part.name}: finished before, in {number(record['seconds'])} s", flush=True)
            continue
        absent = [name for name in part.needs if importlib.util.find_spec(name) is None]
        if absent:
            outcome = Outcome([LeftOut(part.name, f"not installed: {', '.join(absent)}")])
            _finish(check, part, outcome, LEFT_OUT, 0.0)
            continue
        # One part at least is begun by each call, whatever it is expected to take.
        needed = 60 * part.minutes if check.size.effort is FULL else 0.0
        if begun and check.seconds_left() < needed:
            return [one.name for one in wanted[position:] if not _done(check, one)]
        begun = True
        print(f"check: {part.name}", flush=True)
        began = time.monotonic()
        outcome = _kept_going(check, part)
        status = FAILED if outcome.failures else UNFINISHED if outcome.left else FINISHED
        _finish(check, part, outcome, status, time.monotonic() - began)
        if outcome.left:
            return [f"{part.name} ({outcome.left})", *(one.name for one in wanted[position + 1 :])]
    return []


def _done(check: Check, part: Part) -> bool:
    record = _record(check, part)
    return record is not None and record["status"] == FINISHED


def _kept_going(check: Check, part: Part) -> Outcome:
    """What comes of a part; one that raises has failed, and costs no other."""
    try:
        return part.run(check)
    except Exception as error:
        traceback.print_exc()
        return Outcome(failures=[str(error).splitlines()[0] if str(error) else type(error).__name__])
    finally:
        # The next part measures its own compilation and memory.
        torch._dynamo.reset()
        gc.collect()
        if check.on_gpu:
            torch.cuda.empty_cache()


def _finish(check: Check, part: Part, outcome: Outcome, status: str, seconds: float) -> None:
    """Write what came of a part, and print it."""
    for name, content in outcome.documents.items():
        write_json(check.out / name, content)
        print(f"  written: {check.out / name}")
    result = document(outcome.found, check.device, check.size.effort is not FULL)
    record = {"part": part.name, "key": key(check), "status": status, "seconds": seconds}
    write_json(_file(check, part), {**record, "failures": outcome.failures, "left": outcome.left, "result": result})
    _gathered_file(check)  # A call may be killed before its end.
    print("\n".join(part_tables(result)))
    said = "; ".join(outcome.failures) or outcome.left
    print(f"check: {part.name}: {status}{f': {said}' if said else ''} ({number(seconds)} s)", flush=True)


def _file(check: Check, part: Part) -> Path:
    return check.out / f"part-{part.name}.json"


def _record(check: Check, part: Part) -> dict[str, Any] | None:
    """What an earlier call wrote of a part under the same code, device and size; None without that."""
    path = _file(check, part)
    record = read_json(path) if path.exists() else None
    return record if record is not None and record["key"] == key(check) else None


def key(check: Check) -> dict[str, Any]:
    """What must be the same for a part's results to count: code, size, device, torch, threads."""
    device = hardware(check.device, check.on_gpu)
    return {"code": _code(), "size": check.size.name, **device}


def _code() -> str:
    """The hash of the files that decide: known without git, and for changes that are not committed too."""
    paths = sorted({path for pattern in _CODE for path in ROOT.glob(pattern) if path.is_file()})
    return hash_of([f"{path.relative_to(ROOT)} {sha256(path)}" for path in paths])


def gathered(check: Check) -> Document:
    """All parts' findings as one results file, for the tables of the documentation."""
    found: Found = []
    for record in _records(check):
        found += [Measurement(**one) for one in record["result"]["measurements"]]
        found += [LeftOut(**one) for one in record["result"]["left_out"]]
    return document(found, check.device, check.size.effort is not FULL)


def _gathered_file(check: Check) -> Document:
    """Write all parts' findings; returns them."""
    found = gathered(check)
    write_json(check.out / "bench.json", found)
    return found


def _records(check: Check) -> Iterator[dict[str, Any]]:
    for part in parts(check):
        record = _record(check, part)
        if record is not None:
            yield record
