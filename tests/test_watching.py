"""`mfql status --watch`: a real terminal's table within its height, plain lines elsewhere, and a cheap second look."""

from __future__ import annotations

import io
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from mfql.cli import main
from mfql.documents import write_json
from mfql.experiment.run import RunFolder
from mfql.gpus import Use, use_here
from mfql.locks import locked
from mfql.operations import run_status
from mfql.operations.run_status import Looks, RunStatus, State
from mfql.operations.watching import picture
from tests.support.fake_results import TASK, write_run
from tests.support.processes import started
from tests.support.training_runs import ROOT

INTERRUPT = b"\x03"


def finished(results: Path, method: str, seed: int = 0) -> RunFolder:
    """A finished run as the trainer leaves it."""
    file = write_run(results, [20.0, 40.0, 60.0], method, TASK, seed)
    shutil.copy(file, file.parent / "run")
    return RunFolder(results, method, TASK, seed, "offline")


def going_on(results: Path, method: str, rows: str) -> RunFolder:
    """A run that began an hour ago and whose training log has these rows; who holds its lock trains it."""
    run = RunFolder(results, method, TASK, 0, "offline")
    began = time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(time.time() - 3600))
    manifest = {"stage": "offline", "settings": {"offline_steps": 1000}}
    write_json(run.trained / "manifest.json", manifest | {"sessions": [{"started": began, "from_step": 0}]})
    (run.trained / "metrics.csv").write_text(f"step,metric,value\n{rows}", encoding="utf-8")
    return run


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[RunFolder]:
    """The runs whose files are read, in their order."""
    read: list[RunFolder] = []
    original = run_status.status_of
    monkeypatch.setattr(run_status, "status_of", lambda run, *more: read.append(run) or original(run, *more))
    return read


def test_a_later_look_reads_what_changed_and_no_more(tmp_path: Path, reads: list[RunFolder]) -> None:
    results, logs = tmp_path / "results", tmp_path / "logs"
    runs = [finished(results, "mfql", seed) for seed in range(3)]
    waiting = RunFolder(results, "mfql", TASK, 3, "offline")
    looks = Looks(logs)

    def states() -> list[State]:
        reads.clear()
        return [one.state for one in looks.at([*runs, waiting])]

    assert states() == [State.FINISHED] * 3 + [State.WAITING]
    assert len(reads) == 4
    assert states() == [State.FINISHED] * 3 + [State.WAITING]
    assert reads == []
    runs[1].record_failure(ValueError("no"))
    assert states() == [State.FINISHED, State.FAILED, State.FINISHED, State.WAITING]
    assert reads == [runs[1]]
    # It failed before it had a folder: its log alone tells.
    log = logs / "offline" / "mfql" / TASK / "seed3.log"
    log.parent.mkdir(parents=True)
    log.write_text("ValueError: no\n", encoding="utf-8")
    assert states()[3] is State.FAILED
    with locked(waiting.lock):
        assert states()[3] is State.RUNNING


def test_a_trainer_that_ends_without_a_sign_is_seen_to_have_ended(tmp_path: Path) -> None:
    run, looks = going_on(tmp_path, "mfql", "10,training/q,1.0\n"), Looks(tmp_path / "logs")
    holds = f"with locked({str(run.lock)!r}):\n    print('held', flush=True)\n    input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started([sys.executable, "-c", f"from mfql.locks import locked\n{holds}"], cwd=ROOT, **pipes) as process:
        process.stdout.readline()
        assert looks.at([run])[0].state is State.RUNNING
    assert looks.at([run])[0].state is State.INTERRUPTED


def test_the_last_evaluation_of_a_run_that_goes_on_is_told_by_its_tasks_metric(tmp_path: Path) -> None:
    rows = "".join(
        f"{step},evaluation/{name},{value}\n"
        for step, success in ((100, 10.0), (200, 30.0))
        for name, value in (("success", success), ("return", -5.0), ("length", 9.0))
    )
    run = going_on(tmp_path, "mfql", f"{rows}210,training/q,1.0\n")
    with locked(run.lock):
        (status,) = Looks(tmp_path / "logs", ROOT / "config").at([run])
    assert (status.metric, status.score, status.step) == ("success", 30.0, 210)


def some(count: int, state: State, method: str = "mfql", **more: object) -> list[RunStatus]:
    """Runs in a state, eight seeds a task."""
    run = [RunFolder(Path("results"), method, f"task{at // 8}-v0", at % 8, "offline") for at in range(count)]
    return [RunStatus(one, state, **more) for one in run]


def drawn(statuses: list[RunStatus], width: int, height: int, gpus: tuple[Use, ...] = ()) -> list[str]:
    """The lines of the picture."""
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(picture(statuses, gpus, width, height))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 12), (80, 24), (120, 50)])
def test_thousands_of_runs_keep_to_the_terminals_height_and_failures_stand_last(width: int, height: int) -> None:
    statuses = [
        *some(800, State.RUNNING, step=100, steps=1000, rate=2.0, moved=time.time()),
        *some(3000, State.WAITING, "flow_bc"),
        *some(400, State.FAILED, "fql", note="mfql: no data"),
        *some(400, State.FINISHED, "iql", metric="success", score=50.0),
    ]
    lines = drawn(statuses, width, height, (Use("H100", 87.0, 40e9),))
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert "4,600 runs: 400 failed, 800 running, 3000 waiting, 400 finished" in lines[0]
    assert lines[1] == "GPU 0: H100, 87 % busy, 40.0 GB taken"
    assert lines[-1].startswith("and ")
    assert lines[-2].startswith("failed: fql task")


def test_a_hung_run_is_promised_no_end_and_names_steer_no_terminal() -> None:
    about = {"step": 100, "steps": 1000, "rate": 2.0}
    hung = some(8, State.RUNNING, "hangs", moved=time.time() - 3600, **about)
    moves = some(8, State.RUNNING, "moves", moved=time.time(), metric="success", score=25.0, **about)
    lines = drawn([*hung, *moves, *some(1, State.FAILED, "a\x1b[2Jb\n", note="[red]no[/red]")], 120, 30)
    (hangs,) = [line for line in lines if line.startswith("hangs") and "100 of 1,000" in line]
    (goes,) = [line for line in lines if line.startswith("moves") and "100 of 1,000" in line]
    assert "no step since" in hangs
    assert "success 25 %" in goes
    assert "2 " in goes
    assert lines[-1] == "failed: a\\x1b[2Jb\\n task0-v0 offline seed 0: [red]no[/red]"


def test_the_drivers_tool_tells_how_busy_gpus_are_and_its_absence_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert use_here() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 87, 2048'\necho 'NVIDIA H100, [N/A], [N/A]'\n", encoding="utf-8")
    tool.chmod(0o755)
    assert use_here() == [Use("NVIDIA H100", 87.0, 2048 * 2**20), Use("NVIDIA H100", None, None)]


def test_without_a_terminal_it_prints_lines_and_ends_when_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "results", "mfql")
    arguments = ["status", "--results", str(tmp_path / "results"), "--logs", str(tmp_path / "logs")]
    assert main([*arguments, "--watch", "0.1", "--until-done"]) == 0
    printed = capsys.readouterr().out
    assert "1 run: 1 finished" in printed
    assert "\x1b" not in printed
    assert main([*arguments, "--until-done"]) == 2
    assert "Give both" in capsys.readouterr().err


def test_on_a_terminal_one_table_is_drawn_over_and_ctrl_c_ends_it_well(tmp_path: Path) -> None:
    finished(tmp_path / "results", "mfql\x1b]0;mine")
    going_on(tmp_path / "results", "flow_bc", "10,training/q,1.0\n")
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # A shell that runs the tests in the background ignores it.
        program = "import sys; sys.modules['torch'] = None; from mfql.cli import main; sys.exit(main())"
        os.execve(
            sys.executable,
            [sys.executable, "-c", program, "status", "--results", str(tmp_path / "results"), "--watch", "0.1"],
            os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "", "COLUMNS": "100"},
        )
    said = b""
    try:
        while said.count(b"2 runs: ") < 3:  # It is drawn again and again.
            said += os.read(terminal, 65536)
        os.write(terminal, INTERRUPT)
        with suppress(OSError):  # The terminal is gone with its process.
            while more := os.read(terminal, 65536):
                said += more
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert b"interrupted: flow_bc" in said
    assert b"\\x1b]0;mine" in said
    assert b"Traceback" not in said
