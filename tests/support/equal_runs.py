"""Whether two runs are the same, byte for byte."""

from __future__ import annotations

from pathlib import Path

import torch

from mfql.training.checkpoint import Checkpoints

RESULT_FILES = ("policy/policy.safetensors", "policy/policy.json", "evaluation.json", "metrics.csv")


def final_state(run: Path) -> dict[str, torch.Tensor]:
    """The arrays of a run's last checkpoint: replay, weights, optimiser, state of the method's own."""
    checkpoints = Checkpoints(run / "checkpoint")
    saved = checkpoints.load(checkpoints.steps()[-1])
    flat = {f"tail/{name}": value for name, value in saved["tail"].items()}
    for part in ("flat", "first", "second", "own"):
        flat |= {f"{part}/{name}": value for name, value in saved["state"][part].items()}
    return flat


def assert_equal_runs(one: Path, other: Path) -> None:
    """Weights, optimiser, replay, scores and metrics, byte for byte."""
    for name in RESULT_FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = final_state(one), final_state(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
