"""What a launch prints of its jobs: names, times, scores, and why one failed; and by a web hook, that it ended."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mfql.documents import read_json, write_json
from mfql.operations.run_status import error_and_remedy
from mfql.operations.telling import Lines, duration
from mfql.plan.graph import StartedJob
from tests.support.fake_results import TASK, write_run
from tests.support.project import clone
from tests.support.training_runs import ROOT


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def training(results: Path, seeds: list[int], number: int = 1, here: bool = True) -> StartedJob:
    """A training job."""
    files = [f"{results}/runs/mfql/{TASK}/seed{seed}/offline/evaluation.json" for seed in seeds]
    return StartedJob(number, "train_offline_0_2", {"method": "mfql"}, tuple(files), ("logs/seed0-2.log",), here)


def said(lines: list[str]) -> list[str]:
    """Lines without the time of day."""
    assert all(re.match(r"\d\d:\d\d:\d\d  |    ", line) for line in lines)
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in lines]


def test_a_job_that_trained_is_told_with_its_time_its_score_and_what_diverged(tmp_path: Path) -> None:
    results, clock = tmp_path / "results", Clock()
    for seed, diverged in ((0, None), (1, None), (2, 1000)):
        file = write_run(results, [20.0, 40.0, 60.0], seed=seed, diverged_at=diverged)
        shutil.copy(file, file.parent / "run")
    lines, job = Lines(tmp_path / "logs", ROOT / "config", clock), training(results, [0, 1, 2])
    assert said(lines.started(job)) == [f"started    offline mfql {TASK} seeds 0-2"]
    clock.now = 80.0
    assert said(lines.finished([1], 1, 4)) == [
        f"finished   offline mfql {TASK} seeds 0-2  1 min 20 s, success 40 %, 1 of 3 diverged  [1 of 4 jobs]"
    ]
    assert said(lines.started(training(results, [0], 2, here=False))) == [f"submitted  offline mfql {TASK} seed 0"]
    target = StartedJob(3, "all", {}, (), (), True)
    assert lines.started(target) == []
    assert said(lines.finished([3], 4, 4)) == ["finished   all  0 s  [4 of 4 jobs]"]


@pytest.mark.parametrize(
    ("metric", "told"),
    [("success", "success 52 %"), ("normalized_return", "normalized_return 71"), ("return", "return -3.5")],
)
def test_a_separate_evaluation_is_told_in_the_metric_of_its_runs(metric: str, told: str, tmp_path: Path) -> None:
    finals = []
    for seed, less in enumerate((1.5, -1.5)):
        file = write_run(tmp_path / "results", [20.0, 40.0, 60.0], metric=metric, seed=seed)
        shutil.copy(file, file.parent / "run")
        finals.append(file.with_name("final.json"))
        found = {"success": 52.0 - less, "normalized_return": 71.0 - less, "return": -3.5 - less}
        write_json(finals[-1], {"identity": read_json(file)["identity"], "episodes": 50} | found)
    lines = Lines(tmp_path / "logs", ROOT / "config", Clock())
    named = f"evaluation offline mfql {TASK} seeds 0-1"
    assert said(lines.started(StartedJob(1, "evaluate_0_1", {}, tuple(map(str, finals)), (), True))) == [
        f"started    {named}"
    ]
    assert said(lines.finished([1], 1, 1)) == [f"finished   {named}  0 s, {told}  [1 of 1 jobs]"]


def test_a_job_that_failed_is_told_with_its_log_and_how_that_ends(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    lines = Lines(tmp_path / "logs", ROOT / "config", Clock())
    lines.started(training(tmp_path, [0]))
    log.write_text("".join(f"line {number}\n" for number in range(99)) + "0 %\r50 %\x1b[2J\n", encoding="utf-8")
    told = said(lines.failed(1, [str(log)], ["returned non-zero exit status 137."]))
    assert told[:2] == [f"FAILED     offline mfql {TASK} seed 0  0 s  {log}", "    returned non-zero exit status 137."]
    assert told[2:] == [*(f"    line {number}" for number in range(92, 99)), "    50 %\\x1b[2J"]
    log.write_text("begins\nmfql: no data\n  Fetch it.\n", encoding="utf-8")
    assert said(lines.failed(1, [str(log)], []))[1:] == ["    mfql: no data", "    Fetch it."]


def test_a_bar_that_names_a_method_is_no_error_of_a_job_that_was_asked_to_end(tmp_path: Path) -> None:
    log, ended = tmp_path / "a.log", "mfql: asked to end; the state is saved, the same command continues"
    bar = f"mfql-quickstart {TASK} online seeds 0,1,2:   8%|#         | 381/4500 [06:25<1:09:29,  1.01s/step]"
    log.write_text(f"{bar}\r{bar}\n{ended}\n", encoding="utf-8")
    lines = Lines(tmp_path / "logs", ROOT / "config", Clock())
    lines.started(training(tmp_path, [0]))
    assert error_and_remedy(log) == []
    assert said(lines.failed(1, [str(log)], []))[1:] == [f"    {bar}", f"    {ended}"]


@pytest.mark.parametrize(
    "ended",
    ["returned non-zero exit status 75.", "returned non-zero exit status 130.", "died with <Signals.SIGINT: 2>."],
)
def test_a_job_that_was_asked_to_end_has_not_failed(ended: str, tmp_path: Path) -> None:
    lines = Lines(tmp_path / "logs", ROOT / "config", Clock())
    lines.started(training(tmp_path, [0]))
    told = f"stopped    offline mfql {TASK} seed 0  0 s  asked to end; the same command goes on"
    assert said(lines.failed(1, [], [ended])) == [told]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (18120, "5 h 02 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.fixture
def hook() -> Iterator[tuple[str, list[str]]]:
    """The address of a web hook, and what it received."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_pages_web_hook_receives_how_a_launch_ended(tmp_path: Path, hook: tuple[str, list[str]]) -> None:
    address, received = hook
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^    (snakemake --configfile config/quickstart\.yaml; curl .*)$", page, re.MULTILINE)
    project = clone(tmp_path / "mfql")
    for target, status in (("results/miniature/runs.txt", 0), ("no_such_target", 1)):
        command = recipe.replace("config/quickstart.yaml", f"tests/miniature.yaml --cores 1 -- {target}")
        command = command.replace('"$HOOK"', address).replace("snakemake ", f"{project.python} -m snakemake ", 1)
        subprocess.run(["bash", "-c", command], cwd=project.folder, check=True, capture_output=True)
        assert received.pop() == f"quickstart ended with status {status}"
