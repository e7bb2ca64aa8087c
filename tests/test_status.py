"""`mfql status` on real runs: one goes on and is then killed; others failed, diverged, finished, or wait."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from mfql.cli import main
from mfql.data.generate import generate
from mfql.documents import write_json
from mfql.errors import UserError
from mfql.experiment.run import RunFolder
from mfql.locks import locked
from mfql.operations.run_status import status_of
from mfql.operations.status import overview
from tests.support.processes import run, started, until
from tests.support.training_runs import DATASET, ROOT, TASK, Workplace

SHORT = "inherits: mfql-miniature\noffline_steps: 20\neval_interval: 20\neval_episodes: 1\n"
METHODS = {
    "finishes": SHORT,
    "diverges": SHORT + "critic_learning_rate: 1.0e+6\n",
    "fails": SHORT,
    "goes-on": "inherits: mfql-miniature\noffline_steps: 1000000\neval_interval: 1000000\nlog_interval: 2\n",
    "waits": SHORT,
}
CONFIGURATION = {
    "offline": {"methods": list(METHODS), "tasks": [TASK]},
    "online": {"methods": [], "tasks": []},
    "seeds": [0, 1],
}


@contextmanager
def going_on(place: Workplace, method: str) -> Iterator[subprocess.Popen]:
    """A trainer of both seeds that goes on until the block ends, which begins when it has logged and saved."""
    arguments = place.arguments(method, "offline", [0, 1], "results", "--checkpoint-seconds", "0.5")
    log = place.folder / "logs" / "offline" / method / TASK / "seed0-1.log"
    log.parent.mkdir(parents=True)
    folder = place.run(method, 1, "offline")

    def is_under_way() -> bool:
        return (
            bool(list(folder.glob("checkpoint/step-*.pt")))
            and (folder / "metrics.csv").read_text(encoding="utf-8").count("\n") >= 100
        )

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (
        open(log, "w", encoding="utf-8") as file,
        started([sys.executable, "-m", "mfql.cli", *arguments], stderr=file, env=environment) as process,
    ):
        until(is_under_way, process, log.read_text)
        yield process


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    """The runs, all but the one that goes on."""
    place = Workplace.make(tmp_path_factory.mktemp("status"))
    for method, text in METHODS.items():
        place.method(method, text)
    (place.folder / "configuration.yaml").write_text(yaml.safe_dump(CONFIGURATION), encoding="utf-8")
    place.train_here("finishes", "offline", (0, 1))
    place.train_here("diverges", "offline", (0, 1))
    shutil.copytree(place.folder / "data", place.folder / "elsewhere")
    (place.folder / "elsewhere" / f"{DATASET}.npz").write_bytes(b"no archive")
    with pytest.raises(UserError):
        place.train_here("fails", "offline", (0, 1), data="elsewhere")
    return place


def status(place: Workplace, *arguments: str, program: tuple[str, ...] = ("-m", "mfql.cli")) -> dict[str, list[str]]:
    """What a process in the place prints: the headline, and the lines under each state."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = run([sys.executable, *program, "status", *arguments], cwd=place.folder, env=environment)
    assert done.returncode == 0, done.stderr
    headline, *blocks = done.stdout.strip().split("\n\n")
    states = {block.split("\n")[0]: [line.strip() for line in block.split("\n")[1:]] for block in blocks}
    return {"": [headline], **states}


WITHOUT_TORCH = ("-c", "import sys; sys.modules['torch'] = None; from mfql.cli import main; sys.exit(main())")


@pytest.mark.slow
def test_every_kind_of_run_is_told_while_one_goes_on_and_after_it_was_killed(place):
    with going_on(place, "goes-on") as process:
        seen = status(place, "--configfile", "configuration.yaml", program=WITHOUT_TORCH)
    assert seen.pop("") == ["10 runs: 2 failed, 2 diverged, 2 running, 2 waiting, 2 finished"]
    (running,) = seen.pop("running")
    log = f"logs/offline/goes-on/{TASK}/seed0-1.log"
    assert running.startswith(f"goes-on {TASK} offline seeds 0-1: step ")
    assert " of 1,000,000, " in running
    assert " a second, ends about " in running
    assert running.endswith(f"by process {process.pid} on {socket.gethostname()}  {log}")
    (failed,) = seen.pop("failed")
    assert failed.startswith(f"fails {TASK} offline seeds 0-1: ")
    assert "elsewhere/pointmaze-medium-navigate-v0.npz is no readable .npz file" in failed
    (diverged,) = seen.pop("diverged")
    assert diverged.startswith(f"diverges {TASK} offline seeds 0-1: at step ")
    assert seen == {"waiting": [f"waits {TASK} offline seeds 0-1"], "finished": [f"finishes {TASK} offline seeds 0-1"]}

    after = status(place, "--configfile", "configuration.yaml")
    assert "2 interrupted" in after[""][0]
    (interrupted,) = after["interrupted"]
    assert f"goes-on {TASK} offline seeds 0-1: step " in interrupted
    assert interrupted.endswith(f"killed; the same command continues it  {log}")


def test_runs_on_disk_are_told_without_a_configuration_and_within_a_folder(place):
    seen = status(place, f"results/runs/finishes/{TASK}/seed1")
    assert seen == {"": ["1 run: 1 finished"], "finished": [f"finishes {TASK} offline seed 1"]}


def test_a_folder_without_runs_is_refused(place, capsys):
    assert main(["status", str(place.folder / "data")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_failed_run_that_trains_after_all_is_finished(place):
    place.train_here("fails", "offline", (0, 1))
    assert f"fails {TASK} offline seeds 0-1" in status(place)["finished"]
    assert not list(place.folder.glob("results/runs/fails/**/failure.json"))


def test_a_job_that_failed_before_it_had_a_folder_is_told_by_its_log(place):
    log = place.folder / "logs" / "offline" / "waits" / TASK / "seed0-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("a warning\nmfql: unknown setting 'alpa' in method waits\n  Did you mean alpha?\n", encoding="utf-8")
    (failed,) = status(place, "--configfile", "configuration.yaml")["failed"]
    name = f"waits {TASK} offline seeds 0-1"
    assert failed == f"{name}: mfql: unknown setting 'alpa' in method waits  {log.relative_to(place.folder)}"


def test_a_run_on_another_host_runs_until_its_lock_is_no_longer_renewed(place):
    folder = place.folder / "results" / "runs" / "waits" / TASK / "seed1" / "offline"
    folder.mkdir(parents=True)
    (folder / "lock").write_text(
        "filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=0\nduration=120.0\n", encoding="utf-8"
    )
    assert "by process 1 on elsewhere" in status(place, str(folder))["running"][0]
    os.utime(folder / "lock", (0, time.time() - 7200))
    impatient = ("-c", "import sys; from mfql import cli, locks; locks._BEAT = 0.5; sys.exit(cli.main())")
    interrupted = status(place, str(folder), program=impatient)["interrupted"][0]
    assert "killed; the same command continues it" in interrupted


@pytest.mark.parametrize(("hours", "said"), [(0, " a second, ends about "), (2, "no step since "), (-2, "rate not kn")])
def test_no_end_is_promised_of_a_run_that_gets_nowhere_or_whose_clock_was_set(tmp_path, hours, said):
    run = RunFolder(tmp_path, "method", TASK, 0, "offline")
    last = time.time() - 3600 * abs(hours)
    began = time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(time.time() if hours < 0 else last - 3600))
    manifest = {"stage": "offline", "settings": {"offline_steps": 1000}}
    write_json(run.trained / "manifest.json", manifest | {"sessions": [{"started": began, "from_step": 0}]})
    metrics = run.trained / "metrics.csv"
    metrics.write_text("".join(f"{step},loss,1.0\n" for step in range(0, 310, 10)), encoding="utf-8")
    os.utime(metrics, (last, last))
    with locked(run.lock):
        (line,) = overview([status_of(run, tmp_path / "logs")], in_full=False).splitlines()[3:]
    assert "step 300 of 1,000" in line
    assert said in line
    assert ("ends about" in line) is (hours == 0)


def test_a_finished_run_that_is_refused_on_other_data_has_failed(place):
    generate(DATASET, place.folder / "other", episodes=2, seed=2, progress=False)
    with pytest.raises(UserError, match="changed under"):
        place.train_here("finishes", "offline", (0, 1), data="other")
    (failed,) = status(place, f"results/runs/finishes/{TASK}/seed0")["failed"]
    assert f"the dataset {DATASET} changed under " in failed
    place.train_here("finishes", "offline", (0, 1))
    assert "finished" in status(place, f"results/runs/finishes/{TASK}/seed0")
