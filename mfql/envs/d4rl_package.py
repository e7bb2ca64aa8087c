"""What is read of the `d4rl` package: model files, reference scores and the addresses of datasets.

It is installed without its dependencies and only read: importing it would need mujoco-py and an old gym.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from mfql.envs.d4rl import find_d4rl_task
from mfql.envs.scores import ScoreRange
from mfql.errors import UserError

_ENCRYPTED = ("http://rail.eecs.berkeley.edu/", "https://rail.eecs.berkeley.edu/")


def score_range(name: str) -> ScoreRange:
    """The score range of a D4RL task.

    Raises:
        UserError: D4RL's part in this project has no such task, or `d4rl` is not installed.
    """
    infos, shift = _infos(), find_d4rl_task(name).reward_shift
    return ScoreRange(float(infos.REF_MIN_SCORE[name]), float(infos.REF_MAX_SCORE[name]), reward_shift=shift)


def dataset_url(name: str) -> str:
    """Where D4RL publishes the dataset of that name.

    The package names http addresses. Of the host that has them it is known that it serves the same over https, as which
    OGBench's own package names it.

    Raises:
        UserError: no such dataset, or `d4rl` is not installed.
    """
    return str(_infos().DATASET_URLS[find_d4rl_task(name).name]).replace(*_ENCRYPTED)


def package_folder() -> Path:
    """The folder of the installed `d4rl` package, found without importing it.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("d4rl")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "D4RL's model files and reference scores are in the package d4rl, which is not installed",
            "pip install --no-deps d4rl==1.1 (without its dependencies, which need MuJoCo 2.1 and an old gym).",
        )
    return Path(spec.submodule_search_locations[0])


@cache
def _infos() -> ModuleType:
    """The one module of `d4rl` that holds its tables. It imports nothing and is run by itself."""
    path = package_folder() / "infos.py"
    spec = importlib.util.spec_from_file_location("mfql_d4rl_infos", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be read", "Install d4rl==1.1 anew, without its dependencies.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
