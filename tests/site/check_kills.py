"""Commands killed at random moments: nothing half-written, and the same command ends with the same bytes.

    python tests/site/check_kills.py --kills 50 [--only NAME ...] [--seed N]

Of five kills in a row on one folder four are by SIGKILL and one by SIGTERM, each at a moment that is drawn over the
time that the command takes undisturbed; after each it is looked whether all files under final names are whole, and
whether a process lives on. Then the command runs to its end, and what it made is compared with what it makes
undisturbed. Prints a table for docs/faults.md; exits with 1 where something was seen.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["NO_PROXY"] = "127.0.0.1"
os.environ["MFQL_EXTENSIONS"] = str(Path(__file__).parents[1] / "miniature")

from mfql.cli import EXIT_CONTINUE
from mfql.files import hash_of
from mfql.locks import holder
from mfql.suites import split_paths
from mfql.training.checkpoint import load_tensors
from tests.support.dataset_server import Site
from tests.support.equal_runs import assert_equal_runs
from tests.support.faults import call, hear_signals, start
from tests.support.project import clone, evaluation
from tests.support.training_runs import DATASET, METHOD, SHORT, Workplace

# What the commands import, imported once.
for module in ("operations.clean", "operations.verify", "report.chain", "studies.claims.ship"):
    import_module(f"mfql.{module}")

IN_A_ROW = 5
PUBLISHED = "antmaze-large-navigate-v0"
# What a run's files say of when and how long: two undisturbed runs differ in it.
TIMES = {"manifest.json"}


@dataclass
class Command:
    """A command, and what it works on.

    Args:
        name: for the table.
        folder: in which it runs, and which is made anew after each row of kills; holds all that it writes.
        prepare: fills the folder.
        arguments: of `mfql`.
        run: the folder that a run's trainer owns, below `folder`, for one that trains.
    """

    name: str
    folder: Path
    prepare: Callable[[Path], object]
    arguments: list[str]
    run: Path | None = None
    undisturbed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def begin(self) -> None:
        """Make the folder anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.prepare(self.folder)

    def run_it(self) -> tuple[int, str]:
        """Its exit status and output, undisturbed."""
        return call(self.arguments)

    def signalled(self, moment: float, number: signal.Signals) -> tuple[int, int, str]:
        """Its session, exit status and output, with a signal at a moment."""
        running = start(self.arguments)
        time.sleep(moment)
        running.process.send_signal(number)
        return running.process.pid, running.wait(), running.said()

    def kill(self, moment: float, number: signal.Signals) -> tuple[bool, str]:
        """Run it and send it a signal; whether that came before its end, and what is wrong then."""
        session, status, said = self.signalled(moment, number)
        if status == 0:
            return False, ""
        if status not in (-number, EXIT_CONTINUE):
            return True, f"ends with {status}: {said}"
        if living := orphans(session):
            return True, f"lives on: {living}"
        return True, "; ".join(broken(self.folder))

    def finish(self) -> str:
        """Run the command to its end; what is wrong then, if anything."""
        status, said = self.run_it()
        if status:
            return f"the same command ends with {status}: {said}"
        return self.compared()

    def compared(self) -> str:
        """How what the command made differs from what it made undisturbed."""
        if left := [
            path for path in contents(self.folder) if is_passing(path) and not is_stale_lock(self.folder / path)
        ]:
            return f"left behind: {left}"
        if self.run is not None:
            try:
                assert_equal_runs(self.kept, self.run)
            except AssertionError as error:
                return f"another run: {error}"
            return ""
        found = {path: held for path, held in contents(self.folder).items() if not is_passing(path)}
        return "" if found == self.undisturbed else f"differs: {sorted(found.items() ^ self.undisturbed.items())}"

    @property
    def kept(self) -> Path:
        """A copy of the undisturbed run."""
        return self.folder.with_name(f"{self.folder.name}-undisturbed")

    def measure(self) -> None:
        """Run it undisturbed, twice, the faster time for how long it takes."""
        self.seconds = math.inf
        for _ in range(2):
            self.begin()
            began = time.monotonic()
            status, said = self.run_it()
            self.seconds = min(self.seconds, time.monotonic() - began)
            assert status == 0, said
        self.undisturbed = {path: held for path, held in contents(self.folder).items() if not is_passing(path)}
        if self.run is not None:
            shutil.rmtree(self.kept, ignore_errors=True)
            shutil.copytree(self.run, self.kept)


class Workflow(Command):
    """Snakemake and its jobs, which a machine that ends takes with it, or a terminal asks to end."""

    def begin(self) -> None:
        """Make the working copy anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.prepare(self.folder)

    def _snakemake(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=os.environ | {"MFQL_EXTENSIONS": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
            preexec_fn=hear_signals,
        )

    def run_it(self) -> tuple[int, str]:
        """Its exit status and output, undisturbed."""
        process = self._snakemake(*self.arguments)
        said, _ = process.communicate()
        return process.returncode, said

    def signalled(self, moment: float, number: signal.Signals) -> tuple[int, int, str]:
        """Its session, exit status and output, with a signal to all of its group at a moment; what it locks is free."""
        process = self._snakemake(*self.arguments)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        said, _ = process.communicate()
        status = process.returncode
        if status:
            self._snakemake("--unlock").communicate()
        # It ends with 1 where it was asked to.
        return process.pid, EXIT_CONTINUE if status == 1 and number == signal.SIGTERM else status, said


def contents(folder: Path) -> dict[str, str]:
    """The hash of each file below a folder, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): "" if path.name in TIMES else hash_of(path.read_bytes().hex()) for path in files
    }


def is_passing(path: str) -> bool:
    """Whether a name is one of a file that is being written, or of a lock."""
    name = Path(path).name
    return name.endswith((".part", ".part.json", ".lock", ".fetch", ".copy")) or name == "lock"


def is_stale_lock(path: Path) -> bool:
    """Whether a file is the lock of a process that was killed, on what the next one had no need to use."""
    return path.suffix != ".part" and path.read_bytes().startswith(b"filelock/") and holder(path) is None


def broken(folder: Path) -> list[str]:
    """The files under final names that are not whole."""
    found = []
    for name in contents(folder):
        path = folder / name
        if is_passing(name):
            continue
        try:
            if path.suffix in WHOLE:
                WHOLE[path.suffix](path)
        except FileNotFoundError:  # What a worker that is just ending had.
            continue
        except Exception as error:
            found.append(f"{name}: {error}")
    return found


def _whole_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def _whole_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n") or path.name == "metrics.csv", "the last line is cut"


WHOLE: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".npz": _whole_archive,
    ".pt": load_tensors,
    ".safetensors": load_file,
    ".csv": _whole_text,
    ".html": lambda path: path.read_text(encoding="utf-8").rindex("</html>"),
    ".svg": lambda path: path.read_text(encoding="utf-8").rindex("</svg>"),
}


def orphans(session: int) -> list[psutil.Process]:
    """The processes that a killed command started and that live on, after as long as it may take them to notice."""
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        living = [process for process in psutil.process_iter() if _session(process) == session]
        if not living:
            return []
        time.sleep(0.1)
    return living


def _session(process: psutil.Process) -> int | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getsid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def torment(command: Command, kills: int, seed: int) -> tuple[int, int, list[str]]:
    """Kill a command so many times; how many signals were of which kind, and what was seen."""
    command.measure()
    rng, seen, done, asked, late = random.Random(f"{seed}/{command.name}"), [], 0, 0, 0
    while done < kills:
        command.begin()
        through = False
        for turn in range(min(IN_A_ROW, kills - done)):
            number = signal.SIGTERM if turn == 2 else signal.SIGKILL
            early, wrong = command.kill(rng.uniform(0.0, 1.0) * command.seconds, number)
            seen += [wrong] if wrong else []
            if through := not early:  # It was faster than when it was measured, or goes on from where it was.
                late += 1
                break
            done, asked = done + 1, asked + (number == signal.SIGTERM)
        if wrong := command.compared() if through else command.finish():
            seen.append(wrong)
        assert late < 20 * kills, f"{command.name} is always through before it is killed"
    return done - asked, asked, seen


@contextmanager
def commands(folder: Path) -> Iterator[list[Command]]:
    """All commands, on small runs and data."""
    place = Workplace.make(folder)
    place.method("short", SHORT)
    for arguments in (
        place.arguments(METHOD, "pretrain", [0], "start"),
        *(place.arguments("short", stage, [0, 1], "finished") for stage in ("offline", "online")),
        place.arguments("short", "offline", [2], "finished"),
    ):
        status, said = call(arguments)
        assert status == 0, said
    finished = folder / "finished"
    evaluations = sorted(map(str, finished.rglob("seed*/*/evaluation.json")))
    name = finished / "small"
    assert call(["scores", *evaluations, "--out", str(name / "scores.csv")])[0] == 0
    assert call(["aggregate", str(name / "scores.csv"), "--out", str(name / "aggregate")])[0] == 0
    runs = finished / "runs"
    config, data = str(folder / "config"), str(folder / "data")

    def nothing(_: Path) -> None:
        pass

    def at(command: str) -> Path:
        return folder / "work" / command

    def with_finished(where: Path) -> None:
        shutil.copytree(runs, where / "runs")
        (where / "data").mkdir()
        (where / "data" / f".{DATASET}.npz.refused").write_bytes(b"0" * 1000)

    def train(stage: str) -> list[str]:
        where = os.path.relpath(at(stage), folder)
        return place.arguments(METHOD, stage, [0], where, "--checkpoint-seconds", "0")

    def working_copy(where: Path) -> None:
        clone(where)
        shutil.copytree(folder / "data", where / "data")

    def pretrained(where: Path) -> None:
        shutil.copytree(folder / "start" / "runs", where / "runs")

    with server(folder / "published") as url:
        run = place.run("short", 0, "offline", "finished").parent
        fetch = ["--out", str(at("fetch") / "out"), "--mirror", url, "--lock", str(at("fetch") / "lock.json")]
        report = ["--scores", str(name / "scores.csv"), "--aggregates", str(name / "aggregate"), "--results"]
        yield [
            Command("mfql train, offline", at("pretrain"), nothing, train("pretrain"),
                    place.run(METHOD, 0, "pretrain", os.path.relpath(at("pretrain"), folder))),
            Command("mfql train, online", at("online"), pretrained, train("online"),
                    place.run(METHOD, 0, "online", os.path.relpath(at("online"), folder))),
            Command("mfql evaluate", at("evaluate"), nothing,
                    ["evaluate", str(run), "--episodes", "2", "--workers", "1", "--no-progress",
                     "--out", str(at("evaluate") / "out.json")]),
            Command("mfql data generate", at("generate"), nothing,
                    ["data", "generate", DATASET, "--out", str(at("generate")), "--episodes", "3", "--seed", "1",
                     "--workers", "2"]),
            Command("mfql data fetch", at("fetch"), nothing, ["data", "fetch", PUBLISHED, *fetch]),
            Command("mfql aggregate", at("aggregate"), nothing,
                    ["aggregate", str(name / "scores.csv"), "--out", str(at("aggregate") / "out")]),
            Command("mfql report", at("report"), nothing,
                    ["report", *report, str(finished), "--config-dir", config, "--out",
                     str(at("report") / "report.html")]),
            Command("mfql clean --yes", at("clean"), with_finished,
                    ["clean", str(at("clean")), "--yes", "--config-dir", config, "--data", str(at("clean") / "data")]),
            Command("mfql ship", at("ship"), nothing, ["ship", str(name), "--out", str(at("ship") / "shipped")]),
            Command("mfql verify", at("verify"), with_finished,
                    ["verify", str(at("verify")), "--config-dir", config, "--data", data]),
            Workflow("snakemake, a run in miniature", at("workflow"), working_copy,
                     ["--cores", "1", evaluation(0), "--configfile", "tests/miniature.yaml", "--config",
                      "seeds_per_job=1", "threads=1"],
                     at("workflow") / Path(evaluation(0)).parent / "run"),
        ]  # fmt: skip


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a dataset's files, which come slowly enough to be cut."""
    folder.mkdir()
    files = {}
    for path, rows in zip(split_paths(folder, PUBLISHED).values(), (40_000, 1_000), strict=True):
        values = np.random.default_rng(rows).standard_normal((rows, 29)).astype(np.float32)
        ends = np.arange(1, rows + 1) % 100 == 0
        np.savez_compressed(path, observations=values, actions=0.5 * np.tanh(values[:, :8]), terminals=ends)
        files[path.name] = path.read_bytes()
    site = Site(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                site.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{served.server_port}/data"
    finally:
        served.shutdown()
        served.server_close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="commands with this in their name")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as made, commands(Path(made) / "place") as all_of_them:
        chosen = [one for one in all_of_them if not options.only or any(word in one.name for word in options.only)]
        print("| command | SIGKILL | SIGTERM | seen |\n|---|---|---|---|")
        for command in chosen:
            killed, asked, seen = torment(command, options.kills, options.seed)
            wrong += len(seen)
            said = f"{len(seen)} times something" if seen else "nothing half-written, the same bytes"
            print(f"| `{command.name}` | {killed} | {asked} | {said} |", flush=True)
            for one in seen:
                print(f"{command.name}: {one}", file=sys.stderr, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
