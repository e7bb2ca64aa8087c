"""What other machines and containers do to a run: locks, clocks, little memory to share. Needs root, for namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mfql import locks
from mfql.documents import read_json
from tests.support.faults import EPISODE, Running, Runs, before, call, refused, sessions, start, wait_for
from tests.support.processes import run, started, until
from tests.support.training_runs import DATASET, ROOT

# A shell in these namespaces of its own, in which a machine of this one's name was started at another time, or
# processes are numbered anew.
ANOTHER_MACHINE = "unshare --mount sh -c 'mount --bind {boot} /proc/sys/kernel/random/boot_id; exec \"$@\"' -"
ANOTHER_CONTAINER = "unshare --mount --uts --pid --fork --kill-child --mount-proc sh -c 'exec \"$@\"' -"
BOOT = "00000000-0000-4000-8000-000000000001\n"


def mfql(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "mfql.cli", *arguments]


def elsewhere(shell: str, boot: Path, arguments: list[str]) -> list[str]:
    """A command of `mfql` on another machine or in another container."""
    boot.write_text(BOOT, encoding="utf-8")
    return ["sh", "-c", f'exec {shell.format(boot=boot)} "$@"', "-", *mfql(arguments)]


@contextmanager
def held_up(runs: Runs, results: str, hours: float = 0.0) -> Iterator[tuple[Running, list[str], Callable[[], None]]]:
    """A trainer that waits in an episode, alive, its arguments, and what lets it go on; then its clock is set."""
    arguments = runs.begin_online(results)
    here, go = runs.place.folder / f"{results}-here", runs.place.folder / f"{results}-go"

    def wait() -> None:
        here.touch()
        while not go.exists():
            time.sleep(0.05)
        real = time.time
        time.time = lambda: real() + 3600 * hours

    first = start(arguments, before(EPISODE, wait))
    wait_for(here.exists, "the first trainer's halfway")
    yield first, arguments, go.touch


@pytest.mark.parametrize(
    ("name", "shell"), [("machine", ANOTHER_MACHINE), ("container", ANOTHER_CONTAINER)], ids=["machine", "container"]
)
def test_of_two_trainers_elsewhere_the_second_refuses_or_waits(
    name: str, shell: str, runs: Runs, tmp_path: Path
) -> None:
    results = f"twins-{name}"
    with held_up(runs, results) as (first, arguments, go):
        log = runs.trained("online", results) / "metrics.csv"
        size = log.stat().st_size
        done = run(elsewhere(shell, tmp_path / "boot_id", arguments), cwd=ROOT)
        assert done.returncode == 2, done.stdout + done.stderr
        assert f"in use by process {first.process.pid} on " in done.stderr
        assert log.stat().st_size == size
        said = tmp_path / "said.txt"
        with (
            open(said, "w", encoding="utf-8") as output,
            started(
                elsewhere(shell, tmp_path / "boot_id", [*arguments, "--wait"]),
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as second,
        ):
            until(lambda: "waiting for it" in said.read_text("utf-8"), second, lambda: said.read_text("utf-8"))
            go()
            assert first.wait() == 0, first.said()
            assert second.wait() == 0, said.read_text("utf-8")
    assert "finished before, restored: seeds 0" in said.read_text("utf-8")
    assert sessions(runs.trained("online", results)) == [0]
    runs.assert_undisturbed(results)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_steps_by_an_hour_gives_no_lock_away(hours: int, runs: Runs) -> None:
    """That of either trainer, and that of the file system, which may be one machine's or a server's."""
    results = f"clock-{hours}"
    with held_up(runs, results, hours) as (first, arguments, go):
        lock, real = runs.trained("online", results).parent / "lock", time.time

        def step() -> None:
            time.time = lambda: real() + 3600 * hours

        assert "in use by process" in refused(arguments, step)
        date = real() + 3600 * hours
        os.utime(lock, (date, date))
        assert "in use by process" in refused(arguments)
        assert locks.holder(lock).pid == first.process.pid
        go()
        assert first.wait() == 0, first.said()
    assert sessions(runs.trained("online", results)) == [0]
    assert 0 < read_json(runs.trained("online", results) / "manifest.json")["seconds"] < 3000
    runs.assert_undisturbed(results)


# --- memory that processes share --------------------------------------------------------------------------------------

LITTLE = 'mount -t tmpfs -o size=1m tmpfs /dev/shm; cat /dev/zero > /dev/shm/full 2> /dev/null; exec "$@"'


def in_little_memory(arguments: list[str]) -> subprocess.CompletedProcess:
    """A command where /dev/shm has a megabyte, which is full."""
    return run(["unshare", "--mount", "sh", "-c", LITTLE, "-", *mfql(arguments)], cwd=ROOT)


@pytest.fixture
def commands(runs: Runs, tmp_path: Path) -> dict[str, list[str]]:
    out = tmp_path / "out"
    return {
        "train": runs.place.arguments("mfql-miniature", "pretrain", [0], "little", "--workers", "1"),
        "evaluate": ["evaluate", str(runs.trained("online").parent), "--workers", "1", "--out", str(out / "a.json")],
        "generate": ["data", "generate", DATASET, "--out", str(out), "--episodes", "2", "--workers", "2"],
    }


@pytest.mark.parametrize("name", ["train", "evaluate", "generate"])
def test_a_full_shared_memory_is_a_message(name: str, commands: dict[str, list[str]], tmp_path: Path) -> None:
    done = in_little_memory(commands[name])
    assert done.returncode == 2, (done.returncode, done.stdout + done.stderr)
    assert "No space left on device" in done.stderr
    assert "/dev/shm" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.json"))
    status, said = call(commands[name])
    assert status == 0, said
