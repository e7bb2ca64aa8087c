"""Worker processes that die, memory that runs out, and two processes at one folder. Memory needs root."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import mfql.data.fetch as fetching
from mfql import locks
from mfql.evaluation import vector
from mfql.suites import split_paths
from tests.support.faults import (
    EPISODE,
    EVALUATION,
    Moment,
    Runs,
    before,
    call,
    receive,
    refused,
    sessions,
    start,
    wait_for,
    with_a_worker,
)

SCORING: Moment = (vector.EnvPool, "step", 3)


def kill_a_worker() -> None:
    psutil.Process().children()[0].kill()


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [EPISODE, EVALUATION], ids=["episode", "evaluation"])
def test_a_worker_that_dies_ends_the_run_with_its_name_and_the_run_continues(moment: Moment, runs: Runs) -> None:
    results = f"worker-{moment[1]}"
    arguments = with_a_worker(runs.begin_online(results))
    said = refused(arguments, before(moment, kill_a_worker))
    assert "the worker process" in said
    assert "environments 0 to" in said
    assert "SIGKILL (out of memory?)" in said
    assert "Run the same command again" in said
    failure = json.loads((runs.trained("online", results).parent / "failure.json").read_text(encoding="utf-8"))
    assert "the worker process" in failure["error"]
    runs.assert_continues(arguments, results)


def test_a_worker_that_dies_in_mfql_evaluate_is_named_and_nothing_is_written(runs: Runs, tmp_path: Path) -> None:
    arguments = ["evaluate", str(runs.trained("online").parent), "--episodes", "1", "--workers", "1", "--out"]
    said = refused([*arguments, str(tmp_path / "a.json")], before(SCORING, kill_a_worker))
    assert "the worker process" in said
    assert list(tmp_path.iterdir()) == []
    for name in ("a.json", "undisturbed.json"):
        assert call([*arguments, str(tmp_path / name)])[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "undisturbed.json").read_bytes()


# --- memory -----------------------------------------------------------------------------------------------------------


@contextmanager
def little_memory(megabytes: int) -> Iterator[Callable[[], None]]:
    """A control group of processes that share so much memory; what it gives moves the process that calls it there."""
    hierarchy = Path("/sys/fs/cgroup")
    old = (hierarchy / "memory").is_dir()
    group = (hierarchy / "memory" if old else hierarchy) / f"mfql-faults-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(megabytes << 20), encoding="utf-8")
        yield lambda: _move_to(group)
    finally:
        wait_for(
            lambda: not (group / "cgroup.procs").read_text(encoding="utf-8"),
            "the end of the processes with little memory",
        )
        group.rmdir()


def _move_to(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")


def test_a_trainer_that_the_system_kills_for_its_memory_continues(runs: Runs) -> None:
    arguments = runs.begin_online("killed-for-memory")
    with little_memory(64) as move_there:

        def need_more() -> None:
            move_there()
            np.ones(200 << 20, dtype=np.uint8)

        status, _ = call(arguments, before(EPISODE, need_more))
    assert status == -signal.SIGKILL
    runs.assert_continues(arguments, "killed-for-memory")


@pytest.mark.parametrize("allocate", [torch.ones, np.ones], ids=["torch", "numpy"])
def test_a_trainer_that_gets_no_more_memory_says_so_and_continues(allocate: Callable[[int], Any], runs: Runs) -> None:
    results = f"refused-memory-{allocate.__module__}"
    arguments = runs.begin_online(results)

    def need_more() -> None:
        there = psutil.Process().memory_info().vms + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (there, there))
        allocate(1 << 28)

    said = refused(arguments, before(EPISODE, need_more))
    assert re.match(r"mfql: out of memory: (can't|Unable to) allocate", said), said
    assert "fewer seeds a job" in said
    runs.assert_continues(arguments, results)


def test_a_worker_without_memory_ends_the_run_with_its_name_and_the_run_continues(runs: Runs) -> None:
    arguments = with_a_worker(runs.begin_online("worker-memory"))
    with little_memory(24) as move_there:

        def start_workers_there() -> None:
            original = vector._Worker.__init__

            def moved(self: Any, *arguments: Any) -> None:
                move_there()
                try:
                    original(self, *arguments)
                finally:
                    _move_to(
                        Path("/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup")
                    )

            vector._Worker.__init__ = moved

        said = refused(arguments, start_workers_there)
    assert "the worker process" in said
    assert "SIGKILL (out of memory?)" in said
    assert "fewer workers" in said
    runs.assert_continues(arguments, "worker-memory")


def test_the_memory_of_a_control_group_is_what_is_free(tmp_path: Path) -> None:
    program = """
import sys
import numpy as np
from mfql.data.opening import open_npz
from mfql.footprint import free_memory
print(free_memory())
with open_npz(sys.argv[1]) as arrays:
    arrays["rewards"]
"""
    np.savez_compressed(tmp_path / "large.npz", rewards=np.zeros(60 << 20))
    with little_memory(300) as move_there:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "large.npz")],
            preexec_fn=move_there,
            capture_output=True,
            encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    assert 0 < int(done.stdout) < 300 << 20
    assert "large.npz: rewards asks for 503,316,480 bytes of memory" in done.stderr


# --- two at once, and what is left of one that is gone ----------------------------------------------------------------


def test_of_two_trainers_at_one_run_the_second_refuses_or_waits_and_takes_the_result(runs: Runs) -> None:
    arguments = runs.begin_online("two")
    first = start(arguments, before(EPISODE, receive(signal.SIGSTOP)))
    wait_for(lambda: first.process.status() == psutil.STATUS_STOPPED, "the first trainer's halfway")
    assert f"in use by process {first.process.pid}" in refused(arguments)
    second = start([*arguments, "--wait"])
    wait_for(lambda: "waiting for it" in second.said(), "the second trainer")
    first.process.resume()
    assert first.wait() == 0, first.said()
    assert second.wait() == 0, second.said()
    assert "finished before, restored: seeds 0" in second.said()
    assert sessions(runs.trained("online", "two")) == [0]
    runs.assert_undisturbed("two")


def test_a_trainer_that_waits_continues_where_the_one_before_it_is_killed(runs: Runs) -> None:
    arguments = runs.begin_online("heir")
    first = start(arguments, before(EPISODE, receive(signal.SIGSTOP)))
    wait_for(lambda: first.process.status() == psutil.STATUS_STOPPED, "the first trainer's halfway")
    second = start([*arguments, "--wait"])
    wait_for(lambda: "waiting for it" in second.said(), "the second trainer")
    first.process.kill()
    assert first.wait() == -signal.SIGKILL
    assert second.wait() == 0, second.said()
    assert sessions(runs.trained("online", "heir")) == [0, 13]
    runs.assert_undisturbed("heir")


def test_of_two_fetches_of_one_dataset_the_second_refuses(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    rows = np.zeros((10, 29), np.float32)
    for path in split_paths(source, "antmaze-large-navigate-v0").values():
        np.savez(path, observations=rows, actions=rows[:, :8], terminals=np.arange(1, 11) % 5 == 0)
    arguments = [
        "data", "fetch", "antmaze-large-navigate-v0", "--out", str(out), "--from", str(source),
        "--lock", str(tmp_path / "lock.json"),
    ]  # fmt: skip
    first = start(arguments, before((fetching, "_check", 1), receive(signal.SIGSTOP)))
    wait_for(lambda: first.process.status() == psutil.STATUS_STOPPED, "the first fetch's halfway")
    assert f"in use by process {first.process.pid}" in refused(arguments)
    first.process.resume()
    assert first.wait() == 0, first.said()
    assert call(arguments)[0] == 0


@pytest.mark.parametrize(
    ("host", "pid"),
    [(socket.gethostname(), 2**22 + 1), (socket.gethostname(), 1), ("elsewhere", 1), (None, 0)],
    ids=["ended", "number reused", "another host", "empty"],
)
@pytest.mark.parametrize("hours", [0, 5], ids=["", "clock ahead"])
def test_a_stale_lock_delays_a_run_and_no_more(host: str | None, pid: int, hours: int, runs: Runs) -> None:
    results = runs.place.folder / "stale"
    shutil.copytree(runs.trained("pretrain").parent, runs.trained("pretrain", "stale").parent)
    lock = runs.trained("pretrain", "stale").parent / "lock"
    # As filelock writes it.
    lease = f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken={'0' * 32}\nduration=1.5\nstart=1\n"
    lock.write_text(lease if host else "", encoding="utf-8")
    date = time.time() + 3600 * hours
    os.utime(lock, (date, date))
    try:
        # Two minutes, shortened.
        status, said = call(runs.arguments("pretrain", "stale"), lambda: vars(locks).update(_LEASE=1.5, _BEAT=0.5))
        assert status == 0, said
        assert "restored" in said
        assert not lock.exists()
    finally:
        shutil.rmtree(results)
