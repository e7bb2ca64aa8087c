"""OGBench's environments, with the physics of their datasets and generators of their own."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from types import SimpleNamespace
from typing import Any

import gymnasium

from mfql.envs.isolated import Isolated, reset_env
from mfql.envs.physics import correct_env
from mfql.envs.pixels import NO_RENDERER, StackedFrames, choose_renderer
from mfql.errors import UserError

_MAKING = Lock()


def make_task(name: str) -> Isolated:
    """The environment of a single task, with its time limit; that of a pixel task shows stacked frames.

    Args:
        name: such as `pointmaze-medium-navigate-singletask-task1-v0`.

    Raises:
        UserError: OGBench has no such task, or its environment cannot be made.
    """

    def make() -> gymnasium.Env:
        import ogbench

        return ogbench.make_env_and_datasets(name, env_only=True, disable_env_checker=True)

    return isolated(make, name, StackedFrames if _shows_pixels(name) else None)


def make_tasks(name: str, count: int) -> list[Isolated]:
    """`count` environments of one task, for one thread.

    Those of the manipulation suite share one compiled model: it takes 150 MB and a second to build, what an environment
    has of its own under 1 MB.

    Raises:
        UserError: as of `make_task`.
    """
    first = make_task(name)
    if not first.compiled:
        return [first, *(make_task(name) for _ in range(count - 1))]
    reset_env(first, 0)
    return [first, *(first.twin() for _ in range(count - 1))]


def isolated(
    make: Callable[[], gymnasium.Env], name: str, wrapper: Callable[[gymnasium.Env], gymnasium.Env] | None = None
) -> Isolated:
    """The environment that `make` returns, with random generators and solver state of its own, and the data's physics.

    Args:
        make: creates an OGBench environment (a gymnasium environment with its wrappers).
        name: the task's or environment's name.
        wrapper: wraps it; not in `make`, because a wrapper that asks for its observations has it compile its model,
            which must be corrected before.

    Raises:
        UserError: gymnasium knows no environment of that name, it shows pixels and cannot render them, or its physics
            cannot be corrected.
    """
    try:
        if _shows_pixels(name):
            choose_renderer()
        with _tidy_making():
            bare = _made(make, name)
            correct_env(bare.unwrapped)
            env = Isolated(wrapper(bare) if wrapper else bare)
            if _shows_pixels(name):
                env.reset(seed=0)  # Renders; OpenGL's loaders fail in many ways, none of which says what to do.
            return env
    except UserError:
        raise
    except Exception as error:
        if not _shows_pixels(name):
            raise
        raise UserError(
            f"{name} cannot be rendered with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}: {error}", NO_RENDERER
        ) from error


def _made(make: Callable[[], gymnasium.Env], name: str) -> gymnasium.Env:
    """What `make` returns; an error of what is made of it later says nothing of the name."""
    try:
        return make()
    except (gymnasium.error.UnregisteredEnv, ValueError) as error:
        raise UserError(f"OGBench has no environment for {name!r}: {error}", "Check the name's spelling.") from error


def _shows_pixels(name: str) -> bool:
    """Whether OGBench makes an environment of that name with images as observations."""
    return name.startswith("visual-")


@contextmanager
def _tidy_making() -> Iterator[None]:
    """Within the block, OGBench's environments are made without traces and without noise.

    Each maze leaves an XML file in the temporary folder and an open descriptor of it. Within the block the file lies in
    a private folder, removed at its end. Warnings about a missing display and about float32 bounds are not shown.
    """
    with _MAKING, tempfile.TemporaryDirectory(prefix="mfql-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ogbench.locomaze.maze as maze

        level = gymnasium.logger.min_level
        gymnasium.logger.min_level = gymnasium.logger.ERROR

        def mkstemp(**kwargs: Any) -> tuple[int, str]:
            descriptor, path = tempfile.mkstemp(dir=folder, **kwargs)
            os.close(descriptor)
            return -1, path

        original = maze.tempfile
        maze.tempfile = SimpleNamespace(mkstemp=mkstemp)
        try:
            yield
        finally:
            maze.tempfile = original
            gymnasium.logger.min_level = level
