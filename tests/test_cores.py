"""How many cores a process may use, with how many threads a job runs, and how these wait."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from mfql import cores
from mfql.cores import usable_cores
from mfql.documents import note_once
from mfql.training import device
from tests.support.processes import run
from tests.support.training_runs import METHOD, TASK

CGROUP2 = "30 25 0:26 {root} /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n"
CPU = "35 30 0:31 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "36 30 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)


def system(folder: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """What a system tells of a process in such control groups, mounted in a folder."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    mounted = f" {folder}/sys".replace(" ", r"\040").replace(r"\040/", " /", 1)
    (folder / "proc/self/mountinfo").write_text(mounts.replace(" /sys", mounted))
    for name, text in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "proc"


CASES = {
    "a container": ("0::/\n", CGROUP2.format(root="/"), {"cpu.max": "100000 100000\n"}, 1),
    "one and a half cores": ("0::/\n", CGROUP2.format(root="/"), {"cpu.max": "150000 100000\n"}, 2),
    "no limit": ("0::/a\n", CGROUP2.format(root="/"), {"a/cpu.max": "max 100000\n", "cpu.max": "max 100000\n"}, 8),
    "the group around it": (
        "0::/user.slice/user-7.slice/a.scope\n",
        CGROUP2.format(root="/"),
        {"user.slice/user-7.slice/cpu.max": "200000 100000\n", "user.slice/user-7.slice/a.scope/cpu.max": "max 100000"},
        2,
    ),
    "another group": ("0::/a\n", CGROUP2.format(root="/"), {"ab/cpu.max": "100000 100000\n"}, 8),
    "above the mount": ("0::/../../a\n", CGROUP2.format(root="/"), {"cpu.max": "300000 100000\n"}, 3),
    "version 1 in a container": (
        "4:cpu,cpuacct:/docker/f00\n3:memory:/docker/f00\n0::/\n",
        MEMORY + CPU.format(root="/docker/f00"),
        {"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"},
        1,
    ),
    "version 1, around it": (
        "4:cpu,cpuacct:/slurm/job_1/step_0\n",
        CPU.format(root="/"),
        {
            "cpu,cpuacct/slurm/job_1/cpu.cfs_quota_us": "400000\n",
            "cpu,cpuacct/slurm/job_1/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/slurm/job_1/step_0/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/slurm/job_1/step_0/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "more than there are": ("0::/\n", CGROUP2.format(root="/"), {"cpu.max": "6400000 100000\n"}, 8),
    "what nobody can read": ("0::/\n", "a b - c\n" + CGROUP2.format(root="/"), {"cpu.max": "what\n"}, 8),
}


@pytest.mark.parametrize("name", CASES)
def test_cores_are_those_that_the_control_groups_allow(tmp_path, name):
    groups, mounts, files, expected = CASES[name]
    assert usable_cores(system(tmp_path / "a place", groups, mounts, files)) == expected


def test_a_system_without_control_groups_gives_all_its_cores(tmp_path):
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("0", 8), ("3(x2)", 8), ("99", 8)])
def test_slurm_gives_a_task_its_cores(tmp_path, monkeypatch, given, expected):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert usable_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("asked", "usable", "began", "expected", "said"),
    [
        (4, 2, [], 2, "threads: 2, not 4: 2 of the cores may be used"),
        (2, 2, [], 2, ""),
        (4, 2, [4, 4], 4, ""),
        (4, 2, [1], 1, "threads: 1, not 4: the run began so"),
        (1, 8, [4], 1, ""),
        (4, 2, [4, 1], 2, "threads: 2, not 4: 2 of the cores may be used"),
    ],
)
def test_threads_are_those_that_may_be_used_and_those_that_a_run_began_with(
    monkeypatch, capfd, asked, usable, began, expected, said
):
    monkeypatch.setattr(device, "usable_cores", lambda: usable)
    note_once.cache_clear()
    before = torch.get_num_threads()
    try:
        device.use_threads(asked, began)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("set_here", "spin"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_what_the_environment_says_of_waiting_stays(monkeypatch, set_here, spin):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # So that it is put back.
        monkeypatch.delenv(name)
    for name, value in set_here.items():
        monkeypatch.setenv(name, value)
    cores.sleep_while_waiting()
    assert os.environ.get("GOMP_SPINCOUNT") == spin


@pytest.mark.slow
@pytest.mark.skipif("gomp" not in "".join(os.listdir(Path(torch.__file__).parent / "lib")), reason="another OpenMP")
def test_torchs_threads_sleep_soon_in_a_job_and_are_left_alone_in_others_processes():
    """GCC's OpenMP itself says what it took from the environment."""
    train = ("train", "--method", METHOD, "--task", TASK, "--stage", "offline", "--seeds", "0", "--threads", "1")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP", "OMP"))}
    environment |= {"OMP_DISPLAY_ENV": "verbose", "OMP_NUM_THREADS": "1"}
    job = run([sys.executable, "-m", "mfql.cli", *train, "--data", "nowhere"], env=environment)
    assert "GOMP_SPINCOUNT = '10000'" in job.stderr
    other = run([sys.executable, "-c", "import mfql; mfql.load_policy"], env=environment)
    assert "GOMP_SPINCOUNT" in other.stderr
    assert "GOMP_SPINCOUNT = '10000'" not in other.stderr
