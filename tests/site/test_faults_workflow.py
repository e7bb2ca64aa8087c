"""A workflow whose parts are killed or asked to end: Snakemake itself, run as its users run it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.equal_runs import assert_equal_runs
from tests.support.faults import LONGEST, half_written, hear_signals, sessions, wait_for
from tests.support.project import NOTHING_TO_DO, Project, clone, evaluation
from tests.support.training_runs import METHOD, TASK

TARGET = evaluation(0)
ARGUMENTS = (TARGET, "--configfile", "tests/miniature.yaml", "--config", "seeds_per_job=1", "threads=1")
LOCKED = "Directory cannot be locked"


def own(project: Project) -> Path:
    """The folder that the run's trainer owns."""
    return (project.folder / TARGET).parent / "run"


def log_of(project: Project) -> str:
    """What the training job prints; Snakemake removes it before the next attempt."""
    log = project.folder / f"logs/offline/{METHOD}/{TASK}/seed0.log"
    return log.read_text(encoding="utf-8") if log.exists() else ""


@dataclass
class Launch:
    """Snakemake at work, in a process group of its own, as a shell starts it."""

    project: Project
    process: subprocess.Popen[str]
    output: Path

    def said(self) -> str:
        """All that it has printed."""
        return self.output.read_text(encoding="utf-8")

    def trainer(self) -> psutil.Process:
        """The training job, once it has saved its first checkpoint and before it ends."""
        wait_for(lambda: list(own(self.project).glob("checkpoint/step-*.pt")), "a checkpoint")
        children = psutil.Process(self.process.pid).children(recursive=True)
        (found,) = (child for child in children if {"mfql", "train"} <= {Path(word).name for word in child.cmdline()})
        return found

    def signal_all(self, number: signal.Signals) -> None:
        """As a terminal does with Ctrl-C, and a scheduler or a service manager that ends a job."""
        os.killpg(self.process.pid, number)

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(LONGEST)


@dataclass
class Place:
    """Working copies that have data, and nothing trained; in one of them the run is trained undisturbed."""

    folder: Path
    undisturbed: Project
    launches: list[Launch]

    def project(self, name: str) -> Project:
        """Another working copy."""
        project = clone(self.folder / name)
        shutil.copytree(self.undisturbed.folder / "data", project.folder / "data")
        return project

    def launch(self, project: Project) -> Launch:
        """Start the workflow."""
        output = project.folder / f"printed-{len(self.launches)}.txt"
        with open(output, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--cores", "1", *ARGUMENTS],
                cwd=project.folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                start_new_session=True,
                preexec_fn=hear_signals,
            )
        self.launches.append(Launch(project, process, output))
        return self.launches[-1]

    def assert_continues(self, project: Project) -> None:
        """The same command ends, with the result of the undisturbed run."""
        project.snakemake(*ARGUMENTS)
        self.assert_undisturbed(project)

    def assert_undisturbed(self, project: Project) -> None:
        """The run ended as if nothing had been."""
        assert_equal_runs(own(self.undisturbed), own(project))
        assert (project.folder / TARGET).read_bytes() == (self.undisturbed.folder / TARGET).read_bytes()
        assert not half_written(project.folder / "results")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("workflow")
    undisturbed = clone(folder / "undisturbed")
    undisturbed.snakemake(*ARGUMENTS)
    place = Place(folder, undisturbed, [])
    yield place
    for launch in place.launches:  # What a failing test left; trainers that outlived their Snakemake among them.
        if launch.process.poll() is None:
            launch.process.kill()
        try:
            launch.signal_all(signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_a_trainer_killed_under_snakemake_continues_with_the_same_command(place: Place) -> None:
    project = place.project("trainer")
    launch = place.launch(project)
    launch.trainer().kill()
    assert launch.wait() == 1
    assert "  FAILED     offline " in launch.said()
    assert not (project.folder / TARGET).exists()
    place.assert_continues(project)
    assert sessions(own(project)) == [0, 30]


def test_after_snakemake_is_killed_one_command_continues_and_nothing_is_trained_twice(place: Place) -> None:
    """Its trainer lives on: Snakemake's lock refuses a launch beside it, and what README says waits for it."""
    project = place.project("snakemake")
    launch = place.launch(project)
    orphan = launch.trainer()
    orphan.suspend()
    launch.process.kill()
    launch.wait()
    assert LOCKED in project.snakemake(*ARGUMENTS, fails=True)
    assert "Unlocked" in project.snakemake("--unlock")
    second = place.launch(project)
    wait_for(lambda: "waiting for it" in log_of(project), "the second trainer")
    orphan.resume()
    assert second.wait() == 0, second.said()
    assert sessions(own(project)) == [0]
    place.assert_undisturbed(project)
    assert NOTHING_TO_DO in project.snakemake(*ARGUMENTS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_with_all_its_jobs_a_workflow_continues_with_the_same_command(
    number: signal.Signals, place: Place
) -> None:
    """The trainer saves and goes; Snakemake releases its lock."""
    project = place.project(f"asked-{number.name}")
    launch = place.launch(project)
    launch.trainer()
    launch.signal_all(number)
    assert launch.wait() == 1, launch.said()
    assert not (project.folder / TARGET).exists()
    assert "asked to end; the state is saved" in log_of(project)
    assert not half_written(project.folder / "results")
    place.assert_continues(project)
    assert sessions(own(project))[1] >= 30


def test_asked_to_end_alone_snakemake_lets_its_jobs_finish(place: Place) -> None:
    project = place.project("alone")
    launch = place.launch(project)
    launch.trainer()
    launch.process.send_signal(signal.SIGTERM)
    launch.wait()
    assert "Will exit after finishing currently running jobs" in launch.said()
    place.assert_undisturbed(project)


def test_of_two_working_copies_that_share_results_one_trains_and_the_other_takes_the_result(place: Place) -> None:
    project, sharing = place.project("one"), place.project("other")
    (project.folder / "results/runs").mkdir(parents=True)
    (sharing.folder / "results").mkdir()
    (sharing.folder / "results/runs").symlink_to(project.folder / "results/runs")
    first = place.launch(project)
    trainer = first.trainer()
    trainer.suspend()
    second = place.launch(sharing)
    wait_for(lambda: "waiting for it" in log_of(sharing), "the second trainer")
    trainer.resume()
    assert first.wait() == 0, first.said()
    assert second.wait() == 0, second.said()
    assert sessions(own(project)) == [0]
    place.assert_undisturbed(project)
    assert "restored: seeds 0" in log_of(sharing)
