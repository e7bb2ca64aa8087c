"""A run's folder: who owns it, what it says of itself, and when it is finished."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil
import torch

from mfql.errors import UserError
from mfql.files import identity_of, read_json, write_json
from mfql.training.checkpoint import Checkpoints

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "ogbench", "safetensors", "pandas", "rliable", "snakemake")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one method, task, seed and stage; see docs/architecture.md for what lies in it."""

    results: Path
    method: str
    task: str
    seed: int
    stage: str

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.results / "runs" / self.method / self.task / f"seed{self.seed}" / self.stage

    @property
    def own(self) -> Path:
        """The folder that the trainer owns."""
        return self.folder / "run"

    @property
    def lock(self) -> Path:
        """Held while a trainer uses the folder."""
        return self.folder / "lock"

    @property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints."""
        return Checkpoints(self.own / "checkpoint")

    def manifest(self) -> dict[str, Any] | None:
        """What the folder says of itself, or None for a new one."""
        path = self.own / "manifest.json"
        return read_json(path) if path.exists() else None

    def finished(self) -> bool:
        """Whether the result is there."""
        return (self.own / "evaluation.json").exists()

    def deliver(self) -> None:
        """Copy the result to where it is declared, written last."""
        result = read_json(self.own / "evaluation.json")
        target = self.folder / "evaluation.json"
        if not target.exists() or target.read_text() != (self.own / "evaluation.json").read_text():
            write_json(target, result)

    def claim(self, identity: str, dataset: dict[str, Any]) -> None:
        """Make the folder ready for a run of this identity; what another settings' run left is moved aside.

        Raises:
            UserError: the folder holds a run on another version of the dataset.
        """
        manifest = self.manifest()
        if manifest is None or manifest["identity"] == identity:
            return
        before = manifest["dataset"]
        if before["name"] == dataset["name"] and before["sha256"] != dataset["sha256"]:
            raise UserError(
                f"the dataset {dataset['name']} changed under {self.folder}: it was {before['sha256'][:16]}..., "
                f"it is {dataset['sha256'][:16]}...",
                "Restore the dataset, or move that folder away to train on the new one.",
            )
        aside = self.own.with_name(f"run.{manifest['identity']}")
        if aside.exists():
            shutil.rmtree(aside)
        os.replace(self.own, aside)
        print(f"{self.folder}: settings or training version changed; the earlier run is kept in {aside.name}")


def run_identity(
    agent: str,
    training_version: list[int],
    stage: str,
    seed: int,
    settings: dict[str, Any],
    dataset: str,
    parent: str | None,
) -> str:
    """The hash of everything that changes a run's numbers; `parent` is the identity of the run that it starts from."""
    return identity_of(
        {
            "agent": agent,
            "training_version": training_version,
            "stage": "online" if stage == "online" else "offline",
            "seed": seed,
            "settings": settings,
            "dataset": dataset,
            "parent": parent,
        }
    )


def machine(device: torch.device, compiled: bool) -> dict[str, Any]:
    """What decides whether a continued run can be bit-equal: processor, device, threads, torch, compiled or not."""
    return {
        "cpu": _cpu_model(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "compiled": compiled,
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """Code, packages and hardware behind a run."""
    installed = {found.metadata["Name"].lower(): found.version for found in distributions()}
    return {
        "code": {"version": version("mfql"), **_git_state()},
        "packages": {name: installed[name] for name in _PACKAGES if name in installed},
        "hardware": {
            "host": socket.gethostname(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
        "device": device.type,
        "threads": torch.get_num_threads(),
        "image": os.environ.get("MFQL_IMAGE_DIGEST"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_state() -> dict[str, Any]:
    """Commit of the source tree and whether it has changes; both None for an installed package."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD") if (root / ".git").exists() else None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", "mfql")) if commit else None}
