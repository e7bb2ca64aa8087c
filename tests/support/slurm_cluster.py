"""A private SLURM cluster of two nodes on this machine, real but for its GPUs: its own controller, ports and folder.

Needs root, for node names of their own, and SLURM's daemons (Debian: apt install slurm-wlm munge).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NODES = ("node1", "node2")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "unshare")

# Two GPUs a node, which are /dev/null and /dev/zero: what counts here is who may hold them. No accounting database.
_CONFIGURATION = """
ClusterName=check
SlurmctldHost=localhost
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MinJobAge=86400
MpiDefault=none
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=cpu Nodes=ALL Default=YES State=UP
PartitionName=gpu Nodes=ALL State=UP
"""


@dataclass(frozen=True)
class Job:
    """A job as the scheduler lists it; `restarts` counts how often it was requeued."""

    number: int
    state: str
    rule: str
    partition: str
    node: str
    restarts: int


class Cluster:
    """Starts in `folder`, and stops when the block ends: `with Cluster(folder) as cluster`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}{os.pathsep}/usr/sbin",
        }

    def __enter__(self) -> Cluster:
        missing = [name for name in _PROGRAMS if not shutil.which(name, path=self.environment["PATH"])]
        if missing or os.getuid() != 0:
            need = f"{', '.join(missing)} (Debian: apt install slurm-wlm munge)" if missing else "root"
            raise RuntimeError(f"a SLURM cluster of one's own needs {need}")
        try:
            self._configure()
            self._start()
            wait_for(self._idle, "idle nodes", 60)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.call("scancel", "--user=root")
            wait_for(lambda: not self.call("squeue", "--noheader"), "end of the jobs", 120)
        finally:
            self._stop()

    def _configure(self) -> None:
        for name in ("munge", "controller", "bin", *NODES):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        ports = _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=64000 Gres=gpu:2"
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        text = _CONFIGURATION.format(controller=ports[0], folder=self.folder, nodes=nodes)
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        gpus = "".join(f"NodeName={','.join(NODES)} Name=gpu File={device}\n" for device in ("/dev/null", "/dev/zero"))
        (self.folder / "gres.conf").write_text(gpus, encoding="utf-8")
        # The plugin takes SLURM's variables, the name of this file among them, from what it starts in a job.
        srun = self.folder / "bin" / "srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n', encoding="utf-8"
        )
        srun.chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)

    def _start(self) -> None:
        munge = self.folder / "munge"
        self.call(
            "munged", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket", f"--pid-file={munge}/pid",
            f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self.call("slurmctld", "-f", f"{self.folder}/slurm.conf")
        for name in NODES:
            slurmd = f"hostname {name} && exec slurmd -f {self.folder}/slurm.conf -N {name}"
            self.call("unshare", "--uts", "sh", "-c", slurmd)

    def _idle(self) -> bool:
        states = self.call("sinfo", "--Node", "--noheader", "--format=%N=%T").split()
        return set(states) == {f"{name}=idle" for name in NODES}

    def _stop(self) -> None:
        pids = [self.folder / f"slurmd-{name}.pid" for name in NODES]
        for path in (*pids, self.folder / "slurmctld.pid", self.folder / "munge" / "pid"):
            if path.exists():
                os.kill(int(path.read_text(encoding="utf-8")), signal.SIGTERM)

    def call(self, *command: str) -> str:
        """Run a command against this cluster; returns what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, encoding="utf-8", timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self, rule: str = "") -> list[Job]:
        """The jobs whose comment, which names rule and wildcards, has `rule` in it; finished ones too."""
        found = []
        for text in self.call("scontrol", "--oneliner", "show", "jobs").splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", text))
            if rule in fields.get("Comment", ""):
                found.append(
                    Job(
                        int(fields["JobId"]),
                        fields["JobState"],
                        fields["Comment"],
                        fields["Partition"],
                        fields.get("NodeList", ""),
                        int(fields["Restarts"]),
                    )
                )
        return sorted(found, key=lambda job: job.number)


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait until the condition holds; raises `TimeoutError` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {seconds} seconds")
        time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
