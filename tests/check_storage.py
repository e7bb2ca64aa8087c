"""The miniature by executors whose jobs share no folder, or a folder and no process: `make check-storage`, minutes.

    python tests/check_storage.py [PLUGINS]     # a folder that has them already, as `pip install --target` makes it

Needs rsync, which the plugin `fs` calls, and git. Five launches:

1. plain, on this machine: what must come out;
2. `cluster-generic`, each job a process of its own in the same folder;
3. `profiles/kubernetes` with the storage `fs`: Snakemake's plugins as they are, against a stand-in of a cluster's API
   whose pods are processes here, each in an empty folder of its own. One is killed as it trains, and its job begins
   again elsewhere;
4. one run the same way with a scratch folder that outlasts pods: a trainer that is asked to end goes on where it was;
5. `profiles/kubernetes` as it is, with the storage `s3`: against moto's server of S3. The run of 4 is among what it
   makes, and is not interrupted. A file that is deleted from the bucket has its job made anew, and no other's.

Plugins and server are installed into a folder of this check alone: the launcher's environment has none of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path

import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.kubernetes_api import KubernetesApi, Pod
from tests.support.project import NOTHING_TO_DO, clone, jobs
from tests.support.training_runs import TASK

PLUGINS = (
    "snakemake-executor-plugin-cluster-generic==1.0.9",
    "snakemake-executor-plugin-kubernetes==0.5.1",
    "snakemake-storage-plugin-fs==1.1.3",
    "snakemake-storage-plugin-s3==0.3.6",
    # The server of S3: what `moto[s3,server]` would bring beside serves other services.
    "moto[s3]==5.2.5",
    "flask==3.1.3",
    "flask-cors==6.0.5",
)
# S3's client takes no release of it that is here.
NOT_AS_HERE = ("mfql", "torch", "python-dateutil")
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
BUCKET, PREFIX = "bucket", "mfql"
# Any will do for the server; the plugin and S3's client read them from the environment.
KEYS = {"ACCESS_KEY": "access", "SECRET_KEY": "secret"}
# With S3's own client, in a process of its own: lists a bucket's keys, having copied or deleted some.
CLIENT = """
import pathlib, sys
import boto3

endpoint, bucket, access, secret, action, argument = sys.argv[1:]
session = boto3.Session(aws_access_key_id=access, aws_secret_access_key=secret, region_name="us-east-1")
for found in session.resource("s3", endpoint_url=endpoint).Bucket(bucket).objects.all():
    if action == "copy":
        path = pathlib.Path(argument, found.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        found.Object().download_file(str(path))
    elif found.key == argument:
        found.delete()
"""


def install(folder: Path) -> None:
    """Install the plugins with what they need, of what is here the same releases."""
    folder.mkdir()
    here = "".join(f"{one.name}=={one.version}\n" for one in distributions() if one.name not in NOT_AS_HERE)
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
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return KubernetesApi(folder / "pods", self.common | {"PATH": path, "HOME": str(folder)}, **options)

    def on_pods(self, project: Path, api: KubernetesApi, *arguments: str, s3: str | None = None) -> str:
        """Launch on a cluster, its storage a folder beside the project; or a bucket, of the server at this address."""
        storage = ("fs", str(self.storage(project))) if s3 is None else ("s3", f"s3://{BUCKET}/{PREFIX}")
        options = ("--default-storage-provider", storage[0], "--default-storage-prefix", storage[1])
        # What a pod would install is there already.
        profile = ("--workflow-profile", "profiles/kubernetes", "--precommand", "pip() { :; }", "--jobs", "2")
        environment = {"KUBECONFIG": str(api.kubeconfig)}
        if s3 is not None:
            options += ("--storage-s3-endpoint-url", s3)
            environment |= {f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in KEYS.items()}
        return self.snakemake(project, *arguments, *profile, *options, **environment)

    @contextmanager
    def s3(self) -> Iterator[str]:
        """A server of S3; gives its address. With the block's end its buckets are gone."""
        log = self.folder / "s3.log"
        with open(log, "wb") as file:
            command = [sys.executable, "-c", "from moto.server import main; main()", "-p", "0"]
            server = subprocess.Popen(command, env=os.environ | self.common, stdout=file, stderr=subprocess.STDOUT)
        try:
            while not (found := re.search(r"Running on (http://[\w.:]+)", log.read_text(encoding="utf-8"))):
                if server.poll() is not None:
                    sys.exit(f"the server of S3 ended:\n{log.read_text(encoding='utf-8')}")
                time.sleep(0.1)
            yield found[1]
        finally:
            server.kill()
            server.wait()

    def bucket(self, s3: str, action: str, argument: str) -> None:
        """Copy the bucket into a folder, or delete a key from it."""
        command = [sys.executable, "-c", CLIENT, s3, BUCKET, *KEYS.values(), action, argument]
        subprocess.run(command, env=os.environ | self.common, check=True)

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


def check_s3(launches: Launches, plain: Path) -> None:
    """All of the workflow on pods whose storage is S3, and what a launch after it finds to do."""
    project, copy = launches.project("s3"), launches.folder / "copy"
    targets, tables = ("all", f"{LONGER}/evaluation.json", *CONFIGURATION), "results/miniature/aggregate/tasks.md"
    with launches.s3() as s3, launches.pods("cluster3").serving() as api:
        launches.on_pods(project, api, *targets, s3=s3)
        launches.bucket(s3, "copy", str(copy))
        again = launches.on_pods(project, api, *targets, "-n", s3=s3)
        launches.bucket(s3, "delete", f"{PREFIX}/{tables}")
        deleted = launches.on_pods(project, api, *targets, "-n", s3=s3)
    assert NOTHING_TO_DO in again, again
    assert {"aggregate", "report"} <= set(jobs(deleted)) <= {"aggregate", "report", "all", "total"}, deleted
    assert not (project / "results").exists()
    check_resources(api.pods)
    same_results(plain, copy / PREFIX)
    # What a bucket's copy holds is unpacked as what a run left here.
    results = copy / PREFIX / "results"
    unpack = ["-m", "mfql.cli", "carry", "unpack", "--results", str(results), "--study", "miniature"]
    subprocess.run([sys.executable, *unpack], check=True)
    for path in sorted(plain.glob("results/runs/**/run/policy/policy.safetensors")):
        assert path.read_bytes() == (results.parent / path.relative_to(plain)).read_bytes(), path
    interrupted = launches.storage(launches.folder / "resumed") / LONGER / "evaluation.json"
    assert interrupted.read_bytes() == (results.parent / LONGER / "evaluation.json").read_bytes()


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
        check_s3(launches, plain)
        generic = launches.project("generic")
        executor = ("--executor", "cluster-generic", "--cluster-generic-submit-cmd", "setsid -f", "--jobs", "2")
        launches.snakemake(generic, *executor, "--latency-wait", "30", *CONFIGURATION)
        same_results(plain, generic)
    print(
        "on pods that share no folder, one killed on the way, on pods whose storage is S3, and by cluster-generic, the"
        " miniature's results are those of a plain launch; on pods with a scratch folder an interrupted run goes on"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
