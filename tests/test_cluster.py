"""What profiles/slurm submits, seen by an `sbatch` that writes its commands down and whose jobs never end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mfql.experiment.ablation import read_ablations
from tests.support.project import Project, clone
from tests.support.training_runs import ROOT, TASK

# Fails as often as `failures` says, as when a queue is full, which counts as an attempt; else the job waits for ever.
_SBATCH = """#!/bin/sh
cd {folder}
for option; do case "$option" in --wrap=*) ;; *) printf ' %s' "$option" ;; esac; done > commands/part-$$
mv commands/part-$$ commands/$$
[ $(ls commands | wc -l) -gt {failures} ] || exit 1
echo $$
"""
# A cluster with accounts whose jobs are all pending: what is asked for states is told nothing else.
_OTHERS = {
    "squeue": "",
    "sacct": "",
    "scontrol": "",
    "scancel": "",
    "sshare": "",
    "sinfo": "echo 'all*'",
    "sacctmgr": "echo group",
}
_PAPER = "mfql"
_DAY = 1440


class RecordingCluster:
    """The commands of SLURM in `folder/bin`, and the launch of a project with them.

    Args:
        failures: submissions that fail before the first that succeeds.
    """

    def __init__(self, folder: Path, project: Project, failures: int = 0) -> None:
        self.commands_folder, self.project = folder / "commands", project
        (folder / "bin").mkdir(parents=True)
        self.commands_folder.mkdir()
        scripts = {name: f"#!/bin/sh\n{body}\n" for name, body in _OTHERS.items()}
        for name, text in (scripts | {"sbatch": _SBATCH.format(folder=folder, failures=failures)}).items():
            (folder / "bin" / name).write_text(text, encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "MFQL_CACHE": str(folder / "caches"),
            "OMP_NUM_THREADS": "1",
        }

    def launch(self, *arguments: str, submissions: int) -> list[str]:
        """Launch, wait for so many submissions and a little longer, end Snakemake; the commands that `sbatch` had.

        The profile's status checks begin after 20 seconds, and none of its jobs ends: it would wait for ever.
        """
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", *arguments]
        with (
            open(self.commands_folder.parent / "printed", "w", encoding="utf-8") as printed,
            subprocess.Popen(
                command,
                cwd=self.project.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                while process.poll() is None and len(self.commands()) < submissions:
                    time.sleep(0.5)
                time.sleep(2)  # For more than there should be.
                said = (self.commands_folder.parent / "printed").read_text(encoding="utf-8")
                assert process.poll() is None, said
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        return self.commands()

    def commands(self) -> list[str]:
        """The options that each submission had, without the command that the job would run."""
        return [path.read_text(encoding="utf-8") for path in self.commands_folder.iterdir() if path.name.isdigit()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A working copy with the miniature's dataset."""
    made = clone(tmp_path / "mfql")
    made.miniature("data/episodes2-seed0/pointmaze-medium-navigate-v0.json")
    return made


def profile(project: Project, **defaults: str) -> None:
    """Give the profile's jobs these resources by default, as a user edits it."""
    path = project.folder / "profiles/slurm/config.yaml"
    lines = "".join(f"  {key}: {value}\n" for key, value in defaults.items())
    path.write_text(
        path.read_text(encoding="utf-8").replace("default-resources:\n", f"default-resources:\n{lines}", 1),
        encoding="utf-8",
    )


def minutes(command: str) -> int:
    """The time limit that a submission asks for."""
    return int(re.search(r" -t (\d+)", command)[1])


def finished(project: Project, seeds: range, made: str) -> list[str]:
    """Results of training, as far as Snakemake looks at them; a file that is made from each."""
    folders = [project.folder / f"results/runs/mfql-miniature/{TASK}/seed{seed}/offline" for seed in seeds]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text("{}", encoding="utf-8")
    return [str((folder / made).relative_to(project.folder)) for folder in folders]


def on_the_login_node() -> set[str]:
    """The rules whose jobs are not submitted."""
    text = "".join(
        path.read_text(encoding="utf-8") + "\n"
        for path in [ROOT / "workflow/Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
    )
    rules = re.findall(r"^rule (\w+):\n((?:    .*\n|\n(?=    ))+)", text, re.MULTILINE)
    return {
        name for name, body in rules if "localrule: True" in body or not re.search(r"^    (shell|run):", body, re.M)
    }


@pytest.mark.slow
def test_a_hundred_ready_jobs_of_the_papers_size_are_a_hundred_submissions(project: Project, tmp_path: Path) -> None:
    changes = project.folder / "hundred.yaml"
    miniature = yaml.safe_load((project.folder / "tests/miniature.yaml").read_text(encoding="utf-8"))
    offline = {"methods": [_PAPER], "tasks": [TASK]}
    changes.write_text(
        yaml.safe_dump(miniature | {"offline": offline, "seeds": list(range(100)), "seeds_per_job": 1}),
        encoding="utf-8",
    )
    commands = RecordingCluster(tmp_path, project).launch("offline", "--configfile", "hundred.yaml", submissions=100)
    assert len(commands) == 100
    assert {minutes(command) for command in commands} == {560}


@pytest.mark.slow
def test_a_retried_job_asks_for_more_and_for_no_more_than_the_longest(project: Project, tmp_path: Path) -> None:
    run = f"results/runs/{_PAPER}/{TASK}/seed9/offline/evaluation.json"
    cluster = RecordingCluster(tmp_path, project, failures=3)
    commands = cluster.launch(run, "--configfile", "tests/miniature.yaml", submissions=4)
    assert sorted(map(minutes, commands)) == [560, 1120, _DAY, _DAY]


@pytest.mark.slow
def test_a_retried_group_asks_for_no_more_than_the_longest(project: Project, tmp_path: Path) -> None:
    """Eight films that need all cores of a submission follow one another."""
    targets = finished(project, range(8), "video.gif")
    cluster = RecordingCluster(tmp_path, project, failures=3)
    whole = ("--set-threads", "video=16")
    commands = cluster.launch(*targets, "--configfile", "tests/miniature.yaml", *whole, submissions=4)
    assert sorted(map(minutes, commands)) == [8 * 60, 8 * 120, _DAY, _DAY]


@pytest.mark.slow
def test_a_model_of_gpu_is_asked_for_by_jobs_that_take_one_alone(project: Project, tmp_path: Path) -> None:
    profile(project, gpu_model="a100")
    targets = [
        *finished(project, range(4), "final.json"),
        f"results/runs/{_PAPER}/{TASK}/seed9/offline/evaluation.json",
        "results/toy-runs/paper/velocity/manifest.json",
        "results/toy-runs/reduced/velocity/manifest.json",
        "results/miniature/replay/replay.csv",
    ]
    commands = RecordingCluster(tmp_path, project).launch(
        *targets, "--configfile", "tests/miniature.yaml", submissions=5
    )
    asked = Counter(
        (
            re.search(r"--comment '?\w*?(train_toy_[a-z]+?|train_offline|evaluate|replay_dataset)_", command)[1],
            *re.findall(r" --(?:gpu|gres)\S*", command),
        )
        for command in commands
    )
    assert asked == {
        ("evaluate",): 1,
        ("train_offline", " --gpus=a100:1"): 1,
        ("train_toy_paper", " --gpus=a100:1"): 1,
        ("train_toy_reduced",): 1,
        ("replay_dataset",): 1,
    }


@pytest.mark.slow
def test_every_job_of_every_target_says_whether_it_takes_a_gpu(project: Project) -> None:
    """A job that says nothing would get a GPU of the profile's model."""
    profile(project, gpu_model="a100")
    targets = ("all", "tune", "ablations", "toy_studies", "toy_paper", "replay")
    changes = ("final_episodes=1", f"videos=['mfql-miniature/{TASK}/seed0/offline']")
    printed = project.miniature(*targets, "-n", "--forceall", "--workflow-profile", "profiles/slurm", config=changes)
    jobs = re.findall(r"^rule (\w+):$(?:\n    .*)*?\n    resources: (.*)$", printed, re.MULTILINE)
    asked = {(rule, *sorted(re.findall(r"\bgpu\w*=[^,]*", resources))) for rule, resources in jobs}
    training = {rule for rule, *_ in asked if re.match(r"train_(offline|online|toy_paper)", rule)}
    assert training >= {"train_offline_0_3", "train_online_0_3", "train_toy_paper"}
    timed = {name for name, *gpu in asked if gpu == ["gpu=1", "gpu_model=a100"]}
    assert training == {name for name in timed if not name.startswith("ablation_")}
    measured = {f"ablation_{name}" for name, ablation in read_ablations(ROOT / "config").items() if ablation.cost}
    assert {name for name in timed if name.startswith("ablation_")} == measured
    others = {name: gpu for name, *gpu in asked if name not in timed and name not in on_the_login_node()}
    assert set(map(tuple, others.values())) == {("gpu_model=",)}
