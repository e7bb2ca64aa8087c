"""Generate OGBench datasets by OGBench's collection protocol: point mazes and the manipulation suite.

Episode i of a split is a pure function of (dataset, seed, split, i): it does not depend on how many episodes or worker
processes there are. Datasets whose behaviour policies are trained networks (ant and humanoid) can only be downloaded.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from mfql.data.collect_manipulation import ManipulationCollector
from mfql.data.collect_maze import MazeCollector
from mfql.data.description import describe, source_of
from mfql.data.layouts import OGBENCH
from mfql.data.opening import Damaged, content_of, open_npz
from mfql.data.paths import SPLITS, description_path, ogbench_paths
from mfql.data.recipes import VAL_SHARE, Recipe, find_recipe
from mfql.envs.isolated import Isolated
from mfql.envs.patience import Limited
from mfql.errors import UserError
from mfql.experiment.records import read_dataset
from mfql.files import sha256, there, write_whole
from mfql.footprint import require_memory
from mfql.processes import mapped

# Beside OGBench's own numbers, a few thousand.
_MOST_EPISODES = 1_000_000
KEY_ORDER = ("observations", "actions", "terminals", "qpos", "qvel", "button_states")


class Collector(Protocol):
    """Collects one episode after another in an environment of its own."""

    env: Isolated

    def episode(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The arrays of one episode, [steps, ...] each; a pure function of `rng`'s state."""


def generate(
    dataset: str,
    folder: str | Path,
    *,
    episodes: int | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write `{dataset}.npz`, `{dataset}-val.npz` and, last, their description `{dataset}.json`.

    Args:
        dataset: such as `pointmaze-medium-navigate-v0`.
        folder: where to write.
        episodes: episodes of the training file; None is OGBench's number. The validation file has a tenth, at least
            one.
        seed: 0 or more; another seed gives other episodes.
        workers: processes; they change the speed alone.
        progress: whether to show a progress bar over episodes.

    Returns:
        The training file's path.

    Raises:
        UserError: unknown dataset, a number out of range, a folder that cannot be written or has a file in the place of
            one of these that was not generated, or a worker that was killed.
    """
    recipe = find_recipe(dataset)
    episodes = recipe.episodes if episodes is None else episodes
    for name, value, least in (("episodes", episodes, 1), ("workers", workers, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"{name} is {value}", f"It must be {least} or more.")
    if episodes > _MOST_EPISODES:
        raise UserError(f"episodes is {episodes}", f"It must be {_MOST_EPISODES:,} or fewer.")
    folder = Path(folder)
    _check_writable(folder)
    paths = ogbench_paths(folder, dataset)
    _refuse_foreign(paths, description_path(folder, dataset), recipe, seed)
    counts = {"train": episodes, "val": max(1, episodes // VAL_SHARE)}
    arrays = _collect(recipe, counts, seed, workers, progress)
    # A description must never lie beside files that it does not describe.
    description_path(folder, dataset).unlink(missing_ok=True)
    for split, path in paths.items():
        with write_whole(path, "wb") as file:
            np.savez_compressed(file, **arrays[split])  # type: ignore[arg-type]
    describe(folder, dataset, paths, OGBENCH, "generated", seed)
    return paths["train"]


def _refuse_foreign(paths: Mapping[str, Path], description: Path, recipe: Recipe, seed: int) -> None:
    """Refuse to write over files that were not generated here, before hours of collecting.

    Their description tells, which lists their sha256; where it is gone, or a generation was killed before it wrote it,
    the first episode does, which must be the one that would be written.
    """
    source = source_of(description)
    for split, path in paths.items():
        if not os.path.lexists(path):
            continue
        if path.is_symlink():
            is_own = False
        elif there(description):
            is_own = source == "generated" and sha256(path) == read_dataset(description)["sha256"].get(split)
        else:
            is_own = _begins_with(path, collect_episode(recipe, seed, (split, 0)))
        if not is_own:
            raise UserError(
                f"{path} is in the way: nothing says that it was generated as it is",
                "It stays as it is. Move it away, or generate into another folder (--out).",
            )


def _begins_with(path: Path, episode: Mapping[str, np.ndarray]) -> bool:
    """Whether a dataset's first rows are those of an episode, and it has no other arrays."""
    try:
        with content_of(path, "", ""), open_npz(path) as arrays:
            same = (np.array_equal(arrays[name][: len(rows)], rows) for name, rows in episode.items())
            return arrays.names == set(KEY_ORDER) & set(episode) and all(same)
    except Damaged:
        return False


def collect_episode(recipe: Recipe, seed: int, job: tuple[str, int]) -> dict[str, np.ndarray]:
    """Episode `job` = (split, number) of a dataset; the environment is kept for the process's next one.

    Returns:
        The episode's arrays [steps, ...].

    Raises:
        UserError: the environment hangs.
    """
    split, number = job
    words = [zlib.crc32(recipe.dataset.encode()), seed, SPLITS.index(split), number]
    collector = _collector(recipe)
    with Limited(lambda: f"{recipe.dataset}: episode {number} of {split}", lambda: collector.env.turns):
        return collector.episode(np.random.default_rng(words))


@lru_cache(maxsize=1)
def _collector(recipe: Recipe) -> Collector:
    kind = MazeCollector if recipe.environment.startswith("pointmaze") else ManipulationCollector
    return kind(recipe.environment, recipe.kind, recipe.steps)


def _collect(
    recipe: Recipe, counts: dict[str, int], seed: int, workers: int, progress: bool
) -> dict[str, dict[str, np.ndarray]]:
    """All episodes of both splits, by split and array name, [episodes * steps, ...] each."""
    from tqdm import tqdm

    jobs = [(split, number) for split in SPLITS for number in range(counts[split])]
    arrays: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    with mapped(partial(collect_episode, recipe, seed), jobs, workers) as results:
        bar = tqdm(results, total=len(jobs), desc=recipe.dataset, unit="episode", disable=not progress)
        for (split, number), episode in zip(jobs, bar, strict=True):
            if number == 0:
                needed = sum(counts.values()) * sum(episode[name].nbytes for name in KEY_ORDER if name in episode)
                if split == SPLITS[0]:
                    require_memory(f"{recipe.dataset} of {counts[split]:,} episodes", needed, "Generate fewer.")
                arrays[split] = {
                    name: np.empty((counts[split] * recipe.steps, *episode[name].shape[1:]), episode[name].dtype)
                    for name in KEY_ORDER
                    if name in episode
                }
            rows = slice(number * recipe.steps, (number + 1) * recipe.steps)
            for name, whole in arrays[split].items():
                whole[rows] = episode[name]
    return arrays


def _check_writable(folder: Path) -> None:
    """Fail now rather than after hours of collecting."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}", "Check the folder's permissions.") from error
