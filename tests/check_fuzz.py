"""Random mutations of every kind of file that the project reads: `make check-fuzz`.

    python tests/check_fuzz.py                              # 200 of each kind
    python tests/check_fuzz.py --kind manifest --case 17    # one again, and what is said of it
    python tests/check_fuzz.py --kinds                      # the table of docs/faults.md

A case follows from its kind and number alone: which of the kind's files is changed, and how (`tests/support/fuzz/`).
Each command that reads the file must end within 60 seconds of the processor's time, with a documented exit status and
no traceback, change no file that it only reads, print no control characters, and use nothing without a word that a hash
vouches for and that is another.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import importlib
import json
import pkgutil
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import mfql
from tests.support.fuzz import judge, places
from tests.support.fuzz.judge import Command, Ended
from tests.support.fuzz.kinds import BY_NAME, CASES, Kind, table, unlisted
from tests.support.fuzz.mutations import mutate, says_the_same


class Bench:
    """A copy of a kind's healthy place, in which its cases are tried one after the other.

    Args:
        kind: the kind of file.
        healthy: the place.
        folder: gets the copy; it has to be the same in all cases, since messages and records hold its name.
    """

    def __init__(self, kind: Kind, healthy: Path, folder: Path) -> None:
        self.kind, self.healthy, self.folder = kind, healthy, folder
        self.files = sorted(
            {file.relative_to(healthy).as_posix() for one in kind.files for file in healthy.glob(one) if file.is_file()}
        )
        if not self.files:
            raise RuntimeError(f"{kind.name}: {healthy} has no file {', '.join(kind.files)}")
        self.known: dict[str, Ended] = {}
        self._renew()

    def _renew(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.healthy, self.folder, symlinks=True)
        (self.folder / "out").mkdir(exist_ok=True)
        self.before = judge.seen(self.folder)

    def _run(self, command: Command) -> Ended:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        (self.folder / "out").mkdir()
        before = judge.seen(self.folder)
        ended = judge.call(shlex.split(command.words), self.folder)
        ended.changed = judge.differences(before, judge.seen(self.folder))
        for name in command.same:
            path = self.folder / name
            ended.content[name] = path.read_bytes() if path.is_file() else b""
        return ended

    def healthy_end(self, command: Command) -> Ended:
        """How the command ends in the healthy place: with 0, or the kind's cases would show nothing."""
        if command.words not in self.known:
            self._renew()
            ended = self._run(command)
            if ended.status:
                said = f"mfql {command.words} ends with {ended.status} without any mutation:\n{ended.text[-3000:]}"
                raise RuntimeError(f"{self.kind.name}: {said}")
            self.known[command.words] = ended
            self._renew()
        return self.known[command.words]

    def case(self, number: int, every: bool = False) -> list[dict[str, Any]]:
        """Try one case; what each command made of it."""
        name = Random(f"{self.kind.name} {number}").choice(self.files)
        reads = [one for one in self.kind.commands if fnmatch(name, one.of)]
        commands = [one for one in reads if every or number % one.every == 0]
        ends = [self.healthy_end(command) for command in commands]
        found = []
        for command, healthy in zip(commands, ends, strict=True):
            if judge.differences(self.before, judge.seen(self.folder)):
                self._renew()
            rng = Random(f"{self.kind.name} {number} {name}")
            path = self.folder / name
            content = path.read_bytes()
            how = mutate(path, self.kind.form, rng)
            same = says_the_same(path, content, self.kind.form, command.keys or self.kind.keys)
            same |= self.kind.begun and path.is_file() and path.read_bytes().startswith(content)
            gone = how == "as_dangling_link" and bool(command.same)
            ended = self._run(command)
            found.append(
                {
                    "kind": self.kind.name,
                    "case": number,
                    "file": name,
                    "how": how,
                    "words": command.words,
                    "status": ended.status,
                    "seconds": round(ended.seconds, 2),
                    "processor": round(ended.processor, 2),
                    "faults": judge.faults(command, ended, healthy, name, same or gone),
                    "text": ended.text[-6000:],
                }
            )
        return found


def warm() -> None:
    """Import what commands import, once for all the processes that are forked from this one."""
    import matplotlib.pyplot  # noqa: F401
    import torch

    for module in pkgutil.walk_packages(mfql.__path__, "mfql."):
        importlib.import_module(module.name)
    from mfql.report import bootstrap
    from mfql.suites import make_env
    from tests.support.training_runs import TASK

    torch.set_num_threads(1)
    bootstrap.REPETITIONS = 20  # type: ignore[attr-defined]
    make_env(TASK).close()
    judge.goal_env("cube-single-play-singletask-task1-v0")


def work(kinds: list[Kind], cases: list[int], healthy: Path, folder: Path, out: Path, every: bool) -> None:
    """Try the cases of each kind that no other process has taken; a line of JSON each."""
    with open(out, "w", encoding="utf-8") as file:
        for kind in kinds:
            try:
                (out.parent / f"{kind.name}.taken").touch(exist_ok=False)
            except FileExistsError:
                continue
            try:
                bench = Bench(kind, healthy / kind.place, folder / kind.place)
                for number in cases:
                    for line in bench.case(number, every):
                        print(json.dumps(line), file=file, flush=True)
            except Exception:
                line = {"kind": kind.name, "case": -1, "file": "", "how": "", "words": "", "status": 0}
                print(json.dumps(line | {"faults": ["the check fails"], "text": traceback.format_exc()}), file=file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kind", nargs="+", choices=BY_NAME, default=list(BY_NAME), metavar="KIND", help="these alone")
    parser.add_argument("--case", type=int, nargs="+", help="these alone, by every command, with all that they say")
    parser.add_argument("--cases", type=int, default=CASES, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--kinds", action="store_true", help="print the table of docs/faults.md")
    parser.add_argument("--places", type=Path, help="where healthy files are kept from one call to the next")
    parser.add_argument("--out", type=Path, help="gets a line of JSON for every command of every case")
    options = parser.parse_args()
    if options.kinds:
        print(table(), end="")
        return 0
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # What was forked ends with this process.
    warm()
    kinds = [BY_NAME[name] for name in options.kind]
    cases = options.case or list(range(options.first, options.first + options.cases))
    with tempfile.TemporaryDirectory() as scratch:
        found = _tried(kinds, cases, options, Path(scratch))
    if options.out:
        options.out.write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")
    return _told(found, options.case is not None)


def _of_no_kind(healthy: Path) -> list[dict[str, Any]]:
    """A line for each file of the places that no kind has: somebody added a reader, and no kind."""
    line = {"kind": "none", "case": -1, "how": "nothing", "words": "", "status": 0, "text": ""}
    return [line | {"file": file, "faults": ["it is of no kind"]} for file in unlisted(healthy)]


def _tried(kinds: list[Kind], cases: list[int], options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    healthy = options.places or scratch / "healthy"
    for name in dict.fromkeys(kind.place for kind in kinds):
        if not (healthy / name).is_dir():
            _made(name, healthy)
    workers = 1 if options.case else options.workers
    pids = []
    for worker in range(workers):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setsid()
                folder, out = scratch / f"worker{worker}", scratch / f"{worker}.jsonl"
                work(kinds, cases, healthy, folder, out, bool(options.case))
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    try:
        broken = [pid for pid in pids if os.waitpid(pid, 0)[1]]
    except BaseException:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        raise
    if broken:
        raise RuntimeError("a process of this check ended early")
    lines = [
        line
        for worker in range(workers)
        for line in (scratch / f"{worker}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    order = {kind.name: at for at, kind in enumerate(kinds)}
    found = sorted(map(json.loads, lines), key=lambda line: (order[line["kind"]], line["case"]))
    return found + (_of_no_kind(healthy) if len(kinds) == len(BY_NAME) else [])


def _made(name: str, healthy: Path) -> None:
    """Make a place in a process of its own, so that this one stays as it is."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            healthy.mkdir(parents=True, exist_ok=True)
            with open(healthy / f"{name}.log", "w", encoding="utf-8") as log:
                for stream in (1, 2):
                    os.dup2(log.fileno(), stream)
                places.make(name, healthy / f"{name}.begun")
            (healthy / f"{name}.begun").rename(healthy / name)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(
            f"the place {name} cannot be made:\n{(healthy / f'{name}.log').read_text(encoding='utf-8')[-3000:]}"
        )


def _told(found: list[dict[str, Any]], in_full: bool) -> int:
    """Print what was found; 1 where anything was."""
    counted = Counter(line["kind"] for line in found)
    faulty = [line for line in found if line["faults"]]
    for line in faulty if not in_full else found:
        wrong = "; ".join(line["faults"]) or "right"
        print(f"{line['kind']} {line['case']}: {line['how']} in {line['file']}: mfql {line['words']}")
        print(f"  -> {line['status']}: {wrong}")
        if in_full or line["case"] < 0:
            print(f"{line['text']}\n")
    seconds: Counter[str] = Counter()
    for line in found:
        seconds[line["kind"]] += line.get("processor", 0.0)
    of_kinds = Counter(line["kind"] for line in faulty)
    for kind, count in counted.items():
        print(f"{kind:<24}{count:>6} calls {seconds[kind]:>8.1f} s {of_kinds[kind]:>5} wrong")
    print(f"{sum(counted.values())} calls, {len(faulty)} wrong")
    return 1 if faulty else 0


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(status)
