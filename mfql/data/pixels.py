"""Pixel datasets: images memory-mapped, transitions by index, rewards and masks as OGBench relabels them."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mfql.data.description import REPLACE
from mfql.data.transitions import ACTION_LIMIT, StackedImages, Transitions
from mfql.envs.pixels import FRAMES
from mfql.errors import UserError
from mfql.files import write_whole, writing
from mfql.locks import locked
from mfql.tasks import Task

if TYPE_CHECKING:
    import gymnasium

_MEMBER = "observations.npy"
_UNPACKED = "unpacked"
# Another job that needs the same images unpacks them meanwhile.
_LONGEST_UNPACKING = 3600.0


def read_pixels(task: Task, paths: dict[str, Path], env: gymnasium.Env) -> list[Transitions]:
    """Training and validation transitions of a pixel task.

    Args:
        paths: the files of both splits, with OGBench's arrays.
        env: the task's environment, which knows its goal.

    Raises:
        UserError: images that are no bytes, a file whose last row does not end its trajectory, or no room to unpack.
    """
    return [_read_split(task, path, env) for path in paths.values()]


def _read_split(task: Task, path: Path, env: gymnasium.Env) -> Transitions:
    from ogbench.relabel_utils import relabel_dataset

    with np.load(path, allow_pickle=False) as file:
        names = [name for name in ("actions", "terminals", "qpos", "button_states") if name in file]
        arrays = {name: file[name] for name in names}
    last = arrays["terminals"] > 0
    if not last[-1]:
        raise UserError(f"{path}: the last row does not end its trajectory", REPLACE)
    # As in OGBench's loader: the last row of a trajectory is a next observation alone.
    kept = np.flatnonzero(~last)
    split = {name: values[kept] for name, values in arrays.items()}
    relabel_dataset(task.dataset, env, split)
    images, indices = _memory_mapped(path), stacked_indices(last)
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


def _memory_mapped(path: Path) -> np.ndarray:
    """The images of a file, from a copy beside it that is not compressed, made once.

    The copy is known by the checksum in the archive, so that a replaced file has another.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(_MEMBER)
        unpacked = path.parent / _UNPACKED / f"{path.stem}-{member.CRC:08x}.npy"
        if not unpacked.exists():
            with writing(unpacked.parent):
                unpacked.parent.mkdir(exist_ok=True)
            with locked(unpacked.with_suffix(".lock"), wait=_LONGEST_UNPACKING):
                _unpack(archive, member, unpacked)
    # Copy on write: pages come from the file, and torch wants an array that could be written.
    images = np.load(unpacked, mmap_mode="c", allow_pickle=False)
    if images.dtype != np.uint8:
        raise UserError(f"{path}: observations have the type {images.dtype}; images are uint8", REPLACE)
    return images


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, unpacked: Path) -> None:
    if unpacked.exists():  # By another job, while this one waited.
        return
    free = shutil.disk_usage(unpacked.parent).free
    if free < member.file_size:
        raise UserError(
            f"unpacking the images of {archive.filename} takes {member.file_size / 1e9:.1f} GB,"
            f" and {unpacked.parent} has {free / 1e9:.1f} GB free",
            "Free some space, or move data_dir to a larger disk.",
        )
    with archive.open(member) as packed, write_whole(unpacked, "wb") as file:
        shutil.copyfileobj(packed, file, 1 << 24)
