"""The miniature by executors whose jobs share no folder, or a folder and no process: `make check-storage`, minutes.

    python tests/check_storage.py [PLUGINS]     # a folder that has them already, as `pip install --target` makes it

Needs rsync, which the plugin `fs` calls, and git. Four launches:

1. plain, on this machine: what must come out;
2. `cluster-generic`, each job a process of its own in the same folder;
3. `profiles/kubernetes` with the storage `fs`: Snakemake's plugins as they are, against a stand-in of a cluster's API
   whose pods are processes here, each in an empty folder of its own. One is killed as it trains, and its job begins
   again elsewhere;
4. one run the same way with a scratch folder that outlasts pods: a trainer that is asked to end goes on where it was.

The plugins are installed into a folder of this check alone: the launcher's environment has none of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.kubernetes_api import KubernetesApi, Pod
from tests.support.project import NOTHING_TO_DO, clone
from tests.support.training_runs import TASK

PLUGINS = (
    "snakemake-executor-plugin-cluster-generic==1.0.9",
    "snakemake-executor-plugin-kubernetes==0.5.1",
    "snakemake-storage-plugin-fs==1.1.3",
)
CONFIGURATION = (
    "--configfile",
    "tests/miniature.yaml",
    "--config",
    "seeds=[0,1]",
    "final_episodes=1",
    "trajectories=1",
)
# Metrics that differ from launch to launch of the same numbers; `origin` is of code, which may be edited meanwhile.
TIMES = ("step_ms", "acting_ms", "device_hours")
LONGER = f"results/runs/flow_bc-miniature+offline_steps=300/{TASK}/seed7/offline"


def install(folder: Path) -> None:
    """Install the plugins with what they need, of what is here the same releases."""
    folder.mkdir()
    here = "".join(f"{one.name}=={one.version}\n" for one in distributions() if one.name not in ("mfql", "torch"))
    (folder / "constraints.txt").write_text(here, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--target", str(folder)]
    subprocess.run([*pip, "--constraint", str(folder / "constraints.txt"), *PLUGINS], check=True)


class Launches:
    """The launches, each in a folder of its own.

    Args:
        folder: that gets them.
        plugins: the folder that has Snakemake's plugins.
    """

    def __init__(self, folder: Path, plugins: Path) -> None:
        self.folder = folder
        self.common = {"PYTHONPATH": str(plugins), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}

    def project(self, name: str) -> Path:
        """A working copy that git knows, whose files are the sources of remote jobs."""
        project = clone(self.folder / name).folder
        subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
        subprocess.run(["git", "add", "."], cwd=project, check=True)
        return project

    def snakemake(self, project: Path, *arguments: str, **environment: str) -> str:
        """Launch; returns all that it prints."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=project,
            env=os.environ | self.common | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        print(f"{project.name}: {time.monotonic() - began:.0f} s", flush=True)
        if done.returncode:
            sys.exit(f"{project.name} fails:\n{done.stdout}")
        return done.stdout

    def pods(self, name: str, **options: object) -> KubernetesApi:
        """A cluster whose pods have nothing of this check but programs."""
        folder = self.folder / name
        (folder / "bin").mkdir(parents=True)
        # What a pod would install is there already.
        (folder / "bin/pip").write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / "bin/pip").chmod(0o755)
        path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        return KubernetesApi(folder / "pods", self.common | {"PATH": path, "HOME": str(folder)}, **options)

    def on_pods(self, project: Path, api: KubernetesApi, *arguments: str) -> str:
        """Launch on a cluster, its storage a folder beside the project."""
        storage = ("--default-storage-provider", "fs", "--default-storage-prefix", str(self.storage(project)))
        profile = ("--workflow-profile", "profiles/kubernetes", "--precommand", "true", "--jobs", "2")
        return self.snakemake(project, *profile, *storage, *arguments, KUBECONFIG=str(api.kubeconfig))

    def storage(self, project: Path) -> Path:
        """The folder that is the storage of a launch on pods."""
        return project.with_name(f"{project.name}-storage")


def same_results(expected: Path, found: Path) -> None:
    """Compare every run's result, byte for byte, and the table of scores but for what it says of time."""
    for path in sorted(expected.glob("results/runs/**/evaluation.json")):
        other = found / path.relative_to(expected)
        if path.parent.name != "run":
            assert path.read_bytes() == other.read_bytes(), f"{other} is another result than {path}"
    tables = []
    for folder in (expected, found):
        table = pd.read_csv(folder / "results/miniature/scores.csv")
        tables.append(table[~table["metric"].isin(TIMES)].drop(columns="origin").reset_index(drop=True))
    pd.testing.assert_frame_equal(*tables)
    pages = [(folder / "results/miniature/report.html").read_text(encoding="utf-8") for folder in (expected, found)]
    figures, others = (page.count("<svg") for page in pages)
    assert 0 < figures == others


def check_resources(pods: Mapping[str, Pod]) -> None:
    """Training alone asks for a GPU, and bears what keeps others from nodes that have one."""
    for pod in pods.values():
        spec = pod.job["spec"]["template"]["spec"]
        gpus = [pod.container["resources"][kind].get("nvidia.com/gpu") for kind in ("requests", "limits")]
        trains = pod.rule.startswith("train_")
        assert gpus == (["1", "1"] if trains else [None, None]), (pod.rule, gpus)
        assert bool(spec.get("tolerations")) == trains, pod.rule
        assert pod.container["resources"]["requests"]["memory"], pod.rule


def metrics_of(folder: Path, name: str = "**/run/metrics.csv") -> list[Path]:
    """The training logs below a folder that have more than their first line, which is there before the first step."""
    return [path for path in folder.glob(name) if path.read_text(encoding="utf-8").count("\n") > 1]


def kill_one_that_trains(pod: Pod, killed: list[Pod]) -> None:
    """Kill the first pod that is seen to train, all of it at once."""
    while not killed and pod.rule.startswith("train_offline") and pod.exit_code() is None:
        if metrics_of(pod.folder, ".snakemake/**/run/metrics.csv"):
            killed.append(pod)
            pod.send(signal.SIGKILL)
        time.sleep(0.01)


def ask_one_to_end(pod: Pod, asked: list[Pod], scratch: Path) -> None:
    """Ask the first trainer that has evaluated to end, as a scheduler does."""
    while not asked and pod.rule.startswith("train_offline") and pod.exit_code() is None:
        if metrics_of(scratch):
            for process in psutil.Process(pod.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if {"train", "--carry"} <= set(process.cmdline()):
                        asked.append(pod)
                        process.terminate()
                        break
        time.sleep(0.01)


def sessions(archive: Path) -> list[dict[str, object]]:
    """The sessions of the run that an archive holds."""
    with tarfile.open(archive) as tar:
        found: list[dict[str, object]] = json.load(tar.extractfile("run/manifest.json"))["sessions"]
    return found


def check_pods(launches: Launches, plain: Path) -> None:
    """All of the workflow on pods, one of which is killed; nothing is left to do then, nor in the launch's folder."""
    killed: list[Pod] = []
    project = launches.project("kubernetes")
    with launches.pods("cluster", watch=lambda pod: kill_one_that_trains(pod, killed)).serving() as api:
        launches.on_pods(project, api, *CONFIGURATION)
        again = launches.on_pods(project, api, *CONFIGURATION, "-n")
    assert NOTHING_TO_DO in again, again
    assert [pod.rule for pod in api.pods.values()].count(killed[0].rule) > 1
    assert len(api.pods) == len({pod.folder for pod in api.pods.values()})
    assert not (project / "results").exists()
    assert not (project / "data").exists()
    check_resources(api.pods)
    same_results(plain, launches.storage(project))


def check_scratch(launches: Launches) -> None:
    """A run on pods that keep what they write in one scratch folder goes on where it was."""
    asked: list[Pod] = []
    project, scratch = launches.project("resumed"), launches.folder / "scratch"
    kept = ("--remote-job-local-storage-prefix", str(scratch), "--keep-storage-local-copies")
    with launches.pods("cluster2", watch=lambda pod: ask_one_to_end(pod, asked, scratch)).serving() as api:
        launches.on_pods(project, api, f"{LONGER}/evaluation.json", *CONFIGURATION, *kept)
    found = sessions(launches.storage(project) / LONGER / "run.tar")
    assert asked
    assert len(found) == 2, found
    assert found[1]["from_step"], found


def main(plugins: str | None = None) -> None:
    """Install, launch, compare."""
    for program in ("rsync", "git"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed.\n  Debian and Ubuntu: apt install {program}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        if plugins is None:
            install(folder / "plugins")
        launches = Launches(folder, Path(plugins or folder / "plugins").resolve())
        plain = launches.project("plain")
        launches.snakemake(plain, "--cores", "2", *CONFIGURATION)
        check_pods(launches, plain)
        check_scratch(launches)
        generic = launches.project("generic")
        executor = ("--executor", "cluster-generic", "--cluster-generic-submit-cmd", "setsid -f", "--jobs", "2")
        launches.snakemake(generic, *executor, "--latency-wait", "30", *CONFIGURATION)
        same_results(plain, generic)
    print(
        "on pods that share no folder, one killed on the way, and by cluster-generic, the miniature's results are those"
        " of a plain launch; on pods with a scratch folder an interrupted run goes on"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
