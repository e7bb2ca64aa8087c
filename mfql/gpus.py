"""The GPUs of this machine, and whether the torch that is installed can use them; told without torch."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_QUERY = ("--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits")
_USE = ("--query-gpu=name,utilization.gpu,memory.used", "--format=csv,noheader,nounits")
_MEBIBYTE = 2**20
# Seconds that the driver's tool may take; where use is asked for again and again, a tool that hangs is not waited for.
_PATIENCE, _LITTLE_PATIENCE = 60.0, 5.0


@dataclass(frozen=True)
class GPU:
    """A GPU as its driver lists it, with bytes of memory."""

    name: str
    memory: float
    driver: str


@dataclass(frozen=True)
class Use:
    """How busy a GPU is.

    Args:
        percent: of the last moments in which it computed; memory: bytes that are taken. None where the driver does not
            say, as of a part of a GPU (MIG).
    """

    name: str
    percent: float | None
    memory: float | None


@dataclass(frozen=True)
class Devices:
    """What this machine has for training.

    Args:
        gpus: those that jobs may use.
        problem: why the installed torch cannot use them, and the remedy; None where it can, or there is none, or no
            torch.
    """

    gpus: tuple[GPU, ...]
    problem: str | None = None

    @property
    def usable(self) -> int:
        """GPUs that jobs would train on."""
        return 0 if self.problem else len(self.gpus)

    @property
    def memory(self) -> float | None:
        """Bytes of the smallest of them, since a job may get any; None without one, or where no driver tells."""
        return min((gpu.memory for gpu in self.gpus if gpu.memory), default=None) if self.usable else None


def devices_here() -> Devices:
    """The GPUs of this machine that `CUDA_VISIBLE_DEVICES` leaves, by `nvidia-smi`."""
    gpus = _visible(_listed())
    return Devices(gpus, _problem(gpus) if gpus else None)


def use_here() -> list[Use]:
    """How busy the GPUs of this machine are, all of them, by `nvidia-smi`; none where it is absent or hangs."""
    found = []
    for line in (_nvidia_smi(*_USE, patience=_LITTLE_PATIENCE) or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3:
            name, percent, memory = fields
            taken = float(memory) * _MEBIBYTE if memory.isdigit() else None
            found.append(Use(name, float(percent) if percent.isdigit() else None, taken))
    return found


def _listed() -> list[tuple[str, str, GPU]]:
    """Index, UUID and what else is told of each GPU."""
    found = []
    for line in (_nvidia_smi(*_QUERY) or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5:
            index, uuid, name, memory, driver = fields
            # Where a GPU shares the machine's memory, the driver says `[N/A]`.
            size = float(memory) * _MEBIBYTE if memory.isdigit() else 0.0
            found.append((index, uuid, GPU(name, size, driver)))
    return found


def _visible(listed: list[tuple[str, str, GPU]]) -> tuple[GPU, ...]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` names, in its order; one unknown to the driver counts, of unknown memory."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(gpu for _, _, gpu in listed)
    devices = [device.strip() for device in named.split(",")]
    return tuple(
        next((gpu for index, uuid, gpu in listed if device == index or uuid.startswith(device)), GPU(device, 0.0, ""))
        for device in devices
        if device not in ("", "-1", "NoDevFiles")
    )


def _problem(gpus: tuple[GPU, ...]) -> str | None:
    installed = torch_cuda()
    if installed is None:
        return None
    if installed == "":
        return (
            f"torch is a build without CUDA, and this machine has {gpus[0].name}: it would train on the processor. "
            "Install another: `make TORCH=auto install` takes the build that fits the driver (README.md)"
        )
    newest = re.search(r"CUDA Version: (\d+)\.\d+", _nvidia_smi() or "")
    # Within a major version of CUDA an older driver runs what is newer.
    if newest and int(newest[1]) < int(installed.partition(".")[0]):
        return (
            f"the driver {gpus[0].driver} of {gpus[0].name} is too old for torch's CUDA {installed}: it would train on "
            f"the processor. Renew the driver, or install a build of torch for CUDA {newest[1]}: "
            f"`make TORCH={'cu126' if newest[1] == '12' else 'auto'} install` (README.md)"
        )
    return None


def torch_cuda() -> str | None:
    """The CUDA version of the installed torch, such as `13.0`; empty for a build without, None without torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    cuda = re.search(r"^cuda\b[^=\n]*=\s*(?:None|'([\d.]+)'|\"([\d.]+)\")", text, re.MULTILINE)
    return None if cuda is None else cuda[1] or cuda[2] or ""


def _nvidia_smi(*arguments: str, patience: float = _PATIENCE) -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=patience
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
