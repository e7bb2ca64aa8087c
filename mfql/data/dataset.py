"""Datasets as arrays; OGBench's are relabelled for one task by OGBench itself."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mfql.data.constant import is_constant
from mfql.data.description import REPLACE, split_paths, verify
from mfql.errors import UserError
from mfql.tasks import Task, is_visual

if TYPE_CHECKING:
    import gymnasium

ACTION_LIMIT = 1.0 - 1e-5
_BLOCK = 1 << 18


@dataclass(frozen=True)
class StackedImages:
    """Observations of a pixel task: each is a few images by their numbers, so that no image is held twice.

    Args:
        images: [F, H, W, C] uint8, memory-mapped.
        indices: [N, K] int64; row i is the images `indices[i]`, stacked along the channels.
    """

    images: np.ndarray
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array of all rows would have it: N, H, W, K * C."""
        rows, stacked = self.indices.shape
        *size, channels = self.images.shape[1:]
        return (rows, *size, stacked * channels)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The rows [..., H, W, K * C]."""
        stacked = np.moveaxis(self.images[self.indices[rows]], -4, -2)
        return stacked.reshape(*stacked.shape[:-2], -1)


def endless(rewards: np.ndarray, discount: float) -> np.ndarray:
    """What a reward is worth that is paid at every step from now on, of the rewards' shape; the discount is below 1."""
    return rewards / (1.0 - discount)


@dataclass(frozen=True)
class Transitions:
    """Transitions in the order of their trajectories; a row's trajectory ends where `terminals` is 1.

    Args:
        observations: [N, D] float32, or `StackedImages` of a pixel task.
        actions: [N, A] float32, clipped to ±(1 - 1e-5).
        rewards: [N] float32.
        masks: [N] float32; 0 where the task's episode would end in success, else 1.
        terminals: [N] float32; 1 at the last row of each trajectory.
        next_observations: like observations.
    """

    observations: np.ndarray | StackedImages
    actions: np.ndarray
    rewards: np.ndarray
    masks: np.ndarray
    terminals: np.ndarray
    next_observations: np.ndarray | StackedImages

    def __len__(self) -> int:
        return len(self.rewards)

    def next_actions(self) -> np.ndarray:
        """The action of the trajectory's following row, [N, A]; its last row has its own."""
        following = np.arange(1, len(self) + 1)
        return self.actions[np.where(self.terminals > 0, following - 1, following)]

    def mc_returns(self, discount: float) -> np.ndarray:
        """The discounted sum of rewards from each row to the first mask 0 of its trajectory, [N] float32.

        A trajectory that ends without one goes on with its last reward for ever: one that fails at -1 a step is worth
        -1 / (1 - discount) throughout, not the few steps that were recorded. Where rewards are dense, or paid late as
        sums, the last one stands for what nobody saw: an estimate, and no bound.

        Args:
            discount: below 1.
        """

        def backward(row: np.ndarray, following: np.ndarray) -> np.ndarray:
            return self.rewards[row] + discount * self.masks[row] * following

        return self._from_the_end(backward, endless(self.rewards, discount)).astype(np.float32)

    def mc_valid(self) -> np.ndarray:
        """Whether each row's trajectory reaches mask 0 from it on, [N] bool: there the Monte-Carlo return is exact."""

        def backward(row: np.ndarray, following: np.ndarray) -> np.ndarray:
            return np.where(self.masks[row] == 0.0, 1.0, following)

        return self._from_the_end(backward, np.zeros(len(self))) > 0.0

    def _from_the_end(self, backward: Callable[[np.ndarray, np.ndarray], np.ndarray], beyond: np.ndarray) -> np.ndarray:
        """x[i] = backward(i, x[i + 1]), all trajectories side by side; for its last row beyond[i] is x[i + 1]."""
        ends = np.flatnonzero(self.terminals > 0)
        lengths = np.diff(ends, prepend=-1)
        values = np.zeros(len(self) + 1)
        for distance in range(int(lengths.max())):
            row = ends[lengths > distance] - distance
            following = values[row + 1] if distance else beyond[row]
            values[row] = backward(row, following)
        return values[:-1]


@dataclass(frozen=True)
class Dataset(Transitions):
    """A task's training transitions, and what else is known of them.

    Args:
        val: the validation transitions.
        observation_mean: [D] float32, over the training observations.
        observation_std: [D] float32, likewise; 0 in the dimensions that do not vary.
        sha256: of the training file.
        name: the dataset, such as `cube-single-play-v0`.
        source: `generated`, `downloaded`, `own`, or `unknown` for files without a description.
    """

    val: Transitions
    observation_mean: np.ndarray
    observation_std: np.ndarray
    sha256: str
    name: str
    source: str

    @property
    def constant_dimensions(self) -> list[int]:
        """The dimensions of observations that do not vary over the training rows, counted from 0."""
        return np.flatnonzero(self.observation_std == 0.0).tolist()


def load(task: Task, folder: str | Path) -> Dataset:
    """The dataset of a task: OGBench's with rewards and masks as OGBench relabels them, others as their readers say.

    `load_d4rl` reads D4RL's, `load_own` those that extensions name.

    Args:
        task: a row of the task table.
        folder: where `{dataset}.npz` and `{dataset}-val.npz` are, or D4RL's `{dataset}.hdf5`; `{dataset}.json`, where
            present, must agree with them.

    Raises:
        UserError: a file is absent, damaged, changed, or belongs to another environment.
    """
    from mfql.data.d4rl import load_d4rl
    from mfql.data.own import load_own
    from mfql.data.pixels import read_pixels
    from mfql.envs import d4rl
    from mfql.envs.make import make_env, reset_env

    if task.registered:
        return load_own(task, folder)
    if task.dataset in d4rl.TASKS:
        return load_d4rl(task, folder)

    paths = split_paths(folder, task.dataset)
    env = make_env(task.name)
    try:
        reset_env(env, 0)  # Relabelling resets it without a seed; what that draws follows from this one.
        for path in paths.values():
            check_arrays(path, _array_shapes(env), f"It is no dataset of this task. {REPLACE}")
        source, digest = verify(folder, task.dataset)
        train, val = (read_pixels if is_visual(task.name) else _read_states)(task, paths, env)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{paths['train']} or {paths['val'].name} is damaged: {error}", REPLACE) from error
    finally:
        env.close()
    mean, std = observation_statistics(train.observations)
    return Dataset(
        **vars(train),
        val=val,
        observation_mean=mean,
        observation_std=std,
        sha256=digest,
        name=task.dataset,
        source=source,
    )


def _read_states(task: Task, paths: dict[str, Path], env: gymnasium.Env) -> list[Transitions]:
    """Training and validation transitions of a state task, as OGBench's own loader makes them."""
    import ogbench

    splits = ogbench.make_env_and_datasets(task.name, dataset_path=str(paths["train"]), dataset_only=True, cur_env=env)
    for path, split in zip(paths.values(), splits, strict=True):
        if len(split["next_observations"]) != len(split["observations"]):
            raise UserError(f"{path}: the last row does not end its trajectory", REPLACE)
        np.clip(split["actions"], -ACTION_LIMIT, ACTION_LIMIT, out=split["actions"])
    return [Transitions(**{field.name: split[field.name] for field in fields(Transitions)}) for split in splits]


def _array_shapes(env: gymnasium.Env) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each array that a dataset of this environment must have."""
    base: Any = env.unwrapped
    shapes = {
        "observations": tuple(base.observation_space.shape or ()),
        "actions": tuple(env.action_space.shape or ()),
        "terminals": (),
        "qpos": (base.model.nq,),
    }
    if hasattr(base, "_num_buttons"):
        shapes["button_states"] = (base._num_buttons,)
    return shapes


def check_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]], lacking: str) -> None:
    """Refuse an `.npz` file whose arrays are not those of the environment; reads the arrays' headers alone.

    Args:
        shapes: of a row of each array.
        lacking: what to do about a file that lacks one.

    Raises:
        UserError: the file is absent or unreadable, or lacks an array, or one has another shape or no numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            headers = {name: _header(archive, f"{name}.npy") for name in shapes if f"{name}.npy" in names}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "Make it with mfql data generate, or mfql data fetch.") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise UserError(f"{path} is no readable .npz file: {error}", REPLACE) from error
    missing = [name for name in shapes if name not in headers]
    if missing:
        raise UserError(f"{path} lacks the arrays {', '.join(missing)}", lacking)
    rows = next(iter(headers.values()))[0][:1]
    for name, (shape, dtype) in headers.items():
        if shape != rows + shapes[name]:
            expected = f"[{rows[0] if rows else 'N'}{''.join(f', {size}' for size in shapes[name])}]"
            raise UserError(
                f"{path}: {name} has the shape {list(shape)}, and the task's environment needs {expected}",
                f"It is the dataset of another environment. {REPLACE}",
            )
        if dtype.kind not in "biuf":
            raise UserError(f"{path}: {name} has the type {dtype}, which is no number", REPLACE)


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in an npz file."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def observation_statistics(observations: np.ndarray | StackedImages) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over rows, in float64, block by block; for pixels 0 and 1: they stay as they are.

    The deviation is 0 where a dimension does not vary, and nowhere else: the mean of equal numbers may be rounded, and
    their deviation then is not 0.
    """
    if isinstance(observations, StackedImages):
        return np.zeros(1, np.float32), np.ones(1, np.float32)
    blocks = range(0, len(observations), _BLOCK)
    mean = sum(observations[i : i + _BLOCK].sum(axis=0, dtype=np.float64) for i in blocks) / len(observations)
    squares = sum(np.square(observations[i : i + _BLOCK] - mean).sum(axis=0) for i in blocks)
    std = np.sqrt(squares / len(observations)).astype(np.float32)
    varying = np.maximum(std, np.finfo(np.float32).tiny)
    return mean.astype(np.float32), np.where(is_constant(observations), np.float32(0.0), varying)
