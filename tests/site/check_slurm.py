"""The miniature through a real SLURM scheduler with profiles/slurm, disturbed on the way: `make check-slurm`, minutes.

One training job is cancelled, one is killed so that its lock stays and continues on another node, one is requeued as a
preempted job is. The same configuration run undisturbed on this machine, which has no GPU, says what must come out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.project import Project, clone
from tests.support.slurm_cluster import Cluster, Job, wait_for
from tests.support.training_runs import TASK

MFQL, FLOW_BC = "mfql-miniature", "flow_bc-miniature"
# Long enough to be disturbed midway.
LENGTHS = {MFQL: (600, 400), FLOW_BC: (600, 400)}
# Minutes, and the machine may be busy.
LONGEST = 1500


def longer_miniature(folder: Path) -> Project:
    """A working copy whose runs last some seconds more."""
    project = clone(folder)
    for method, (offline, online) in LENGTHS.items():
        path = folder / "tests" / "miniature" / "methods" / f"{method}.yaml"
        text = path.read_text(encoding="utf-8")
        for before, after in {
            "offline_steps: 60": f"offline_steps: {offline}",
            "online_steps: 40": f"online_steps: {online}",
            "eval_interval: 30": "eval_interval: 200",
        }.items():
            assert before in text
            text = text.replace(before, after, 1)
        path.write_text(text, encoding="utf-8")
    (folder / "profiles/slurm/partitions.yaml").write_text(
        "partitions: {cpu: {}, gpu: {max_gpu: 1}}\n", encoding="utf-8"
    )
    return project


@dataclass(frozen=True)
class Launch:
    """Snakemake at work on the cluster."""

    project: Project
    cluster: Cluster
    process: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def of(cls, project: Project, cluster: Cluster) -> Iterator[Launch]:
        """Launch the miniature; it ends with the block."""
        command = [
            sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm",
            "--configfile", "tests/miniature.yaml", "--config", "final_episodes=1", "--cores", "2",
            "--slurm-init-seconds-before-status-checks", "2",
        ]  # fmt: skip
        with (
            open(project.folder / "printed.txt", "w", encoding="utf-8") as printed,
            subprocess.Popen(
                command,
                cwd=project.folder,
                env=cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            ) as process,
        ):
            try:
                yield cls(project, cluster, process)
            finally:
                process.kill()

    def disturb(self, *acts: Callable[[Launch], None]) -> None:
        """Do these things, each when its time has come."""
        with ThreadPoolExecutor() as pool:
            try:
                for done in as_completed([pool.submit(act, self) for act in acts]):
                    done.result()
            except BaseException:
                self.process.kill()  # The other acts then wait no longer.
                raise

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds, as long as Snakemake runs."""

        def holds() -> bool:
            assert self.process.poll() is None, f"Snakemake ended without {what}"
            return condition()

        wait_for(holds, what, LONGEST)

    def wait(self) -> None:
        """Wait until Snakemake ends, in good order."""
        status = self.process.wait(LONGEST)
        assert status == 0, (self.project.folder / "printed.txt").read_text(encoding="utf-8")

    def under_way(self, method: str, stage: str) -> Job:
        """The training job, once it has trained beyond its first checkpoint."""
        folder = own(self.project, method, stage)

        def trained() -> bool:
            saved = sorted(folder.glob("checkpoint/step-*.pt"))
            if not saved:
                return False
            last = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")[0]
            return last.isdigit() and int(last) > int(saved[-1].stem.split("-")[1])

        self.wait_for(trained, f"training of {method} {stage}")
        return next(job for job in self.cluster.jobs(f"{method}_{TASK}_{stage}") if job.state == "RUNNING")


@dataclass
class Disturbed:
    """What a workflow left that was disturbed."""

    project: Project
    jobs: list[Job]

    def jobs_of(self, method: str, stage: str) -> list[Job]:
        """The submissions of a training job, in their order."""
        trained = [job for job in self.jobs if job.rule.startswith("rule_train_")]
        return [job for job in trained if job.rule.endswith(f"{method}_{TASK}_{stage}")]

    def sessions(self, method: str, stage: str) -> list[dict]:
        """What the manifest tells of each start of the run's training."""
        return json.loads((own(self.project, method, stage) / "manifest.json").read_text(encoding="utf-8"))["sessions"]


def own(project: Project, method: str, stage: str, seed: int = 0) -> Path:
    """The folder that a run's trainer owns."""
    return project.folder / f"results/runs/{method}/{TASK}/seed{seed}/{stage}/run"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = longer_miniature(tmp_path_factory.mktemp("undisturbed") / "mfql")
    project.miniature(config=("final_episodes=1",))
    return project


@pytest.fixture(scope="session")
def disturbed(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Disturbed:
    project = longer_miniature(tmp_path_factory.mktemp("disturbed") / "mfql")
    with Launch.of(project, cluster) as launch:
        launch.disturb(cancel, kill, requeue)
        launch.wait()
    return Disturbed(project, cluster.jobs())


def cancel(launch: Launch) -> None:
    """As a user cancels a job."""
    launch.cluster.call("scancel", str(launch.under_way(MFQL, "offline").number))


def kill(launch: Launch) -> None:
    """As when memory runs out: the trainer has no time to save or to release its lock. Its node takes no more jobs."""
    job = launch.under_way(FLOW_BC, "offline")
    launch.cluster.call("scontrol", "update", f"nodename={job.node}", "state=drain", "reason=check")
    (trainer,) = (
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if f"train --method {FLOW_BC}" in " ".join((process.info["cmdline"] or [])[2:])
        and process.info["cwd"] == str(launch.project.folder)
    )
    trainer.kill()

    def started_again() -> bool:
        jobs = launch.cluster.jobs(f"{FLOW_BC}_{TASK}_offline")
        return any(other.number > job.number and other.state == "RUNNING" for other in jobs)

    launch.wait_for(started_again, "second attempt")
    launch.cluster.call("scontrol", "update", f"nodename={job.node}", "state=resume")


def requeue(launch: Launch) -> None:
    """As SLURM does with a preempted job; it starts again on the other node."""
    job = launch.under_way(MFQL, "online")
    launch.cluster.call("scontrol", "requeue", str(job.number))
    launch.wait_for(
        lambda: (job.number, "PENDING") in [(one.number, one.state) for one in launch.cluster.jobs()], "requeued job"
    )
    # SLURM lets it wait for two minutes.
    launch.cluster.call("scontrol", "update", f"jobid={job.number}", f"excnodelist={job.node}", "starttime=now")


def test_every_job_goes_through_sbatch_to_its_partition(disturbed: Disturbed) -> None:
    used = {job.rule.split("_wildcards_")[0]: job.partition for job in disturbed.jobs}
    assert used.pop("rule_train_offline_0_3") == used.pop("rule_train_online_0_3") == "gpu"
    assert used.keys() == {"rule_generate", "rule_evaluate_0_3", "rule_report_aggregate_report_scores_verdict"}
    assert set(used.values()) == {"cpu"}
    assert (disturbed.project.folder / "results/miniature/report.html").exists()


def test_a_cancelled_job_saves_and_is_submitted_again_and_continues(disturbed: Disturbed) -> None:
    assert [job.state for job in disturbed.jobs_of(MFQL, "offline")] == ["CANCELLED", "COMPLETED"]
    first, second = disturbed.sessions(MFQL, "offline")
    assert first["from_step"] == 0
    # It saved where it was, between the checkpoints that follow evaluations.
    assert second["from_step"] % 200


def test_a_killed_job_continues_on_another_node_in_spite_of_the_lock_that_it_left(disturbed: Disturbed) -> None:
    assert [job.state for job in disturbed.jobs_of(FLOW_BC, "offline")] == ["FAILED", "COMPLETED"]
    first, second = disturbed.sessions(FLOW_BC, "offline")
    assert first["host"] != second["host"]
    assert second["from_step"] > 0
    assert second["from_step"] % 200 == 0


def test_a_requeued_job_saves_and_continues_under_its_number_on_another_node(disturbed: Disturbed) -> None:
    (job,) = disturbed.jobs_of(MFQL, "online")
    assert (job.state, job.restarts) == ("COMPLETED", 1)
    first, second = disturbed.sessions(MFQL, "online")
    assert first["host"] != second["host"]
    assert second["from_step"] % 200


def test_results_are_those_of_an_undisturbed_run_byte_for_byte(undisturbed: Project, disturbed: Disturbed) -> None:
    names = ("metrics.csv", "evaluation.json", "policy/policy.safetensors", "../evaluation.json", "../final.json")
    compared = 0
    for method, stage in ((MFQL, "offline"), (FLOW_BC, "offline"), (MFQL, "online")):
        for seed in range(4):
            here, there = (own(project, method, stage, seed) for project in (undisturbed, disturbed.project))
            for name in names:
                assert (here / name).read_bytes() == (there / name).read_bytes(), there / name
                compared += 1
    assert compared == 60


def test_what_a_failed_job_printed_stays_and_the_others_is_removed(disturbed: Disturbed) -> None:
    folder = disturbed.project.folder / "logs/slurm"
    failed = {job.number for job in disturbed.jobs if job.state in ("CANCELLED", "FAILED")}
    assert {int(path.stem) for path in folder.rglob("*.log")} == failed
