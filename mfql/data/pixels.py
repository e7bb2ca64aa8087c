"""Pixel datasets: images memory-mapped, transitions by index, rewards and masks as OGBench relabels them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mfql.data.description import REPLACE
from mfql.data.opening import open_npz
from mfql.data.transitions import ACTION_LIMIT, StackedImages, Transitions
from mfql.data.unpacked import unpacked_images
from mfql.envs.pixels import FRAMES
from mfql.errors import UserError
from mfql.tasks import Task

if TYPE_CHECKING:
    import gymnasium


def read_pixels(task: Task, paths: dict[str, Path], env: gymnasium.Env) -> list[Transitions]:
    """Training and validation transitions of a pixel task.

    Args:
        paths: the files of both splits, with OGBench's arrays.
        env: the task's environment, which knows its goal.

    Raises:
        UserError: images that are no bytes, or no room to unpack.
    """
    return [_read_split(task, path, env) for path in paths.values()]


def _read_split(task: Task, path: Path, env: gymnasium.Env) -> Transitions:
    from ogbench.relabel_utils import relabel_dataset

    with open_npz(path) as file:
        names = [name for name in ("actions", "terminals", "qpos", "button_states") if name in file]
        arrays = {name: file[name] for name in names}
    last = arrays["terminals"] > 0
    # As in OGBench's loader: the last row of a trajectory is a next observation alone.
    kept = np.flatnonzero(~last)
    split = {name: values[kept] for name, values in arrays.items()}
    relabel_dataset(task.dataset, env, split)
    images, indices = _images(path), stacked_indices(last)
    return Transitions(
        observations=StackedImages(images, indices[kept]),
        actions=np.clip(split["actions"].astype(np.float32), -ACTION_LIMIT, ACTION_LIMIT),
        rewards=split["rewards"],
        masks=split["masks"],
        terminals=last[kept + 1].astype(np.float32),
        next_observations=StackedImages(images, indices[kept + 1]),
    )


def stacked_indices(last: np.ndarray) -> np.ndarray:
    """For each image the images of the observation that ends with it, oldest first.

    The first image of a trajectory stands in for those before it.

    Args:
        last: [F] bool, true at the last image of each trajectory.

    Returns:
        [F, FRAMES] int64.
    """
    images = np.arange(len(last))
    first = np.maximum.accumulate(np.where(np.append(True, last[:-1]), images, 0))
    return np.stack([np.maximum(images - back, first) for back in reversed(range(FRAMES))], axis=1)


def _images(path: Path) -> np.ndarray:
    images = unpacked_images(path)
    if images.dtype != np.uint8:
        raise UserError(f"{path}: observations have the type {images.dtype}; images are uint8", REPLACE)
    return images
