"""Arrays of a fixture against ours: the error of an array is max|ours - reference| / max|reference|."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mfql.agents.interface import Agent, Batch, Draws
from mfql.agents.update import gradients, losses_of
from mfql.errors import UserError
from mfql.files import require_file

BOUND = 2e-5

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Computed:
    """How our side is computed.

    Args:
        device: where.
        precision: as the settings have it: `float32`, `tf32` or `bf16`.
    """

    device: torch.device
    precision: str

    def placed(self, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Arrays on the device, each with a leading axis of one seed."""
        return {name: torch.as_tensor(value, device=self.device).unsqueeze(0) for name, value in arrays.items()}


HERE = Computed(torch.device("cpu"), "float32")


@dataclass(frozen=True)
class Comparison:
    """The error of one array of the fixture.

    Args:
        group: that it is reported under.
        array: its name in the fixture.
    """

    group: str
    array: str
    error: float
    bound: float

    @property
    def within(self) -> bool:
        """Whether the error is a number within the bound."""
        return self.error <= self.bound


def compare(
    group: str, array: str, ours: torch.Tensor | np.ndarray, reference: np.ndarray, bound: float = BOUND
) -> Comparison:
    """The error of one array.

    Raises:
        UserError: it has another shape than ours.
    """
    own = np.asarray(ours.detach().double().cpu() if isinstance(ours, torch.Tensor) else ours, dtype=np.float64)
    expected = np.asarray(reference, dtype=np.float64)
    if own.shape != expected.shape:
        raise UserError(
            f"{array} has shape {expected.shape}, ours {own.shape}", "The fixture does not fit its weights."
        )
    scale = np.abs(expected).max()
    return Comparison(group, array, float(np.abs(own - expected).max() / (scale if scale > 0 else 1.0)), bound)


def section(arrays: Arrays, prefix: str) -> Arrays:
    """Arrays of one prefix, such as `param:`, without it."""
    return {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}


# Of the decompressor, and of a header that says more than the machine holds, too.
_UNREADABLE = (AttributeError, EOFError, MemoryError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def read_arrays(path: str | Path) -> Arrays:
    """The arrays of an npz file.

    Raises:
        UserError: the file is absent, cut, or no npz file.
    """
    try:
        require_file(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "Give the path of a fixture (npz).") from error
    except _UNREADABLE as error:
        raise UserError(f"{path} is not a readable npz file: {error}", "Copy it again from its source.") from error


def critic_sizes(weights: Arrays) -> tuple[tuple[int, ...], int]:
    """Features of each hidden layer of released critics, and how many there are."""
    norms = [value for name, value in weights.items() if name.startswith("modules_critic/") and "scale" in name]
    return tuple(value.shape[-1] for value in norms), len(norms[0])


def gradients_of(
    agent: Agent, flat: Mapping[str, torch.Tensor], batch: Batch, draws: Draws, own: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
    """Gradients of each group `[1, P]`, the loss `[1]` and what it logged, in the precision of the agent's settings."""
    found, loss, info = gradients(agent, flat, batch, draws, own, partial(losses_of, agent))
    return found, loss, dict(info)
