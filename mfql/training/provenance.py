"""What a manifest says of the code, the packages and the machine behind a run."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil
import torch

from mfql import __version__
from mfql.documents import read_json
from mfql.experiment.run import now
from mfql.extensions import agent_file
from mfql.files import hash_of, sha256

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "ogbench", "safetensors", "pandas", "snakemake")
_TRAINING_CODE = (
    "agents",
    "data",
    "envs",
    "evaluation",
    "experiment",
    "training",
    "draws.py",
    "settings.py",
    "tasks.py",
)

# What a container image says of itself: digest, version and revision; containers/digest.py writes it.
IMAGE = Path("/mfql/image.json")


def machine(device: torch.device, compiled: bool) -> dict[str, Any]:
    """What decides whether a continued run can be bit-equal: processor, device, threads, torch, compiled or not."""
    return {
        "cpu": cpu_model(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        # As the update runs: one library (mfql/training/compiled.py), or functions that torch compiles in the process.
        "compiled": "ahead of time" if compiled and device.type == "cpu" else compiled,
    }


def provenance(device: torch.device, agent: str) -> dict[str, Any]:
    """Code, packages and hardware behind a run of an agent."""
    installed = {found.metadata["Name"].lower(): found.version for found in distributions()}
    return {
        "code": {"version": __version__, "hash": _code_hash(agent), **_git_state()},
        "packages": {"python": platform.python_version()}
        | {name: installed[name] for name in _PACKAGES if name in installed},
        "hardware": {
            "host": socket.gethostname(),
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
        "device": device.type,
        "threads": torch.get_num_threads(),
        "image": read_json(IMAGE) if IMAGE.exists() else None,
        "started": now(),
    }


def _code_hash(agent: str) -> str:
    """The hash of all code that a run's numbers come from: known without git, and for uncommitted changes too."""
    package = Path(__file__).resolve().parents[1]
    files = [path for name in _TRAINING_CODE for path in [package / name, *(package / name).rglob("*.py")]]
    lines = {f"{path.relative_to(package)} {sha256(path)}" for path in files if path.is_file()}
    return hash_of(sorted({*lines, f"agent {sha256(agent_file(agent))}"}))


def cpu_model() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_state() -> dict[str, Any]:
    """Commit of the source tree and whether it has changes; both None for an installed package."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=20,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD") if (root / ".git").exists() else None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", "mfql")) if commit else None}
