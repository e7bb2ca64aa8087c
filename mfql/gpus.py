"""The GPUs of this machine, as its driver lists them: known without torch, and where torch cannot use them."""

from __future__ import annotations

import os
import subprocess


def visible_gpus() -> int:
    """GPUs that jobs may use, counted without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0
