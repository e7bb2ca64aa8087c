"""What a policy's `policy.json` says of its environment, and the environment made of it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from mfql.envs import d4rl
from mfql.envs.make import Isolated, make_env, make_envs
from mfql.envs.pixels import FRAMES
from mfql.envs.registered import make_registered
from mfql.tasks import Registered, Task, is_visual, registered_tasks

# What the row of a task of one's own says of its environment.
_ROW = ("env_id", "max_episode_steps", "score_low", "score_high")


def usage_of(task_name: str) -> dict[str, Any]:
    """What is needed to act in a task's environment: entries of `policy.json`.

    Returns:
        `environment`: the suite, how to make it, its time limit and what wraps it; of a task of one's own also its row
        of the table and the module that registers it.
        `action_low`, `action_high` [A], `action_dtype`, `actions_rescaled`: see `ActionUnits`.
        `observation_layout`: see `mfql.envs.registered.layout_of`; `observation_frames`: how many images are stacked.

    Raises:
        UserError: the environment cannot be made.
    """
    env = make_env(task_name)
    try:
        units, own = env.units, registered_tasks().get(task_name)
        return {
            "environment": _environment(task_name, env) | (_own(own) if own else {}),
            "action_low": units.low.tolist(),
            "action_high": units.high.tolist(),
            "action_dtype": units.dtype,
            "actions_rescaled": units.rescaled,
            "observation_layout": env.get_wrapper_attr("layout") if own else None,
            "observation_frames": FRAMES if is_visual(task_name) else None,
        }
    finally:
        env.close()


def _environment(task_name: str, env: Isolated) -> dict[str, Any]:
    spec, wrappers = env.unwrapped.spec, []
    inner: gymnasium.Env = env
    while isinstance(inner, gymnasium.Wrapper):
        wrappers.append(type(inner).__name__)
        inner = inner.env
    suite = "d4rl" if task_name in d4rl.TASKS else "gymnasium" if task_name in registered_tasks() else "ogbench"
    return {
        "suite": suite,
        "make": f"mfql.make_env({task_name!r})",
        "gymnasium_id": None if spec is None else spec.id,
        "time_limit": env.get_wrapper_attr("_max_episode_steps"),
        "wrappers": wrappers,
    }


def _own(task: Task) -> dict[str, Any]:
    own = task.registered
    assert own is not None  # The task is one of those that have an environment of their own.
    return {
        **{column: getattr(own, column) for column in _ROW},
        "metric": task.metric,
        # Names alone: where they lay on the machine that trained says nothing elsewhere, and is nobody's business.
        "folder": own.folder.name if own.folder else None,
        "registered_by": own.env_id.partition(":")[0] if ":" in own.env_id else None,
    }


def make_used(description: Mapping[str, Any], render: bool = False) -> Isolated:
    """The environment that a policy was trained for, as `policy.json` describes it.

    A task of one's own needs no table: the row is in the description. The module that registers its environment must
    be importable, or lie in the folder of an extension.

    Args:
        description: what `policy.json` holds.
        render: whether it will be asked for frames.

    Raises:
        UserError: it cannot be made here.
    """
    described = described_task(description)
    return make_env(description["task"], render) if described is None else Isolated(make_registered(described, render))


def make_all_used(description: Mapping[str, Any], count: int) -> list[Isolated]:
    """`count` of those environments, for one thread.

    Raises:
        UserError: as of `make_used`.
    """
    if described_task(description) is None:
        return make_envs(description["task"], count)
    return [make_used(description) for _ in range(count)]


def described_task(description: Mapping[str, Any]) -> Task | None:
    """The task of one's own that a `policy.json` describes; None for one that is known here by its name."""
    name, used = description["task"], description.get("environment", {})
    if "env_id" not in used or name in registered_tasks():
        return None
    return Task(
        name=name,
        suite="own",
        environment=name,
        dataset=name,
        metric=used["metric"],
        score_rule="last",
        online=False,
        settings={},
        settings_source="untuned",
        registered=Registered(data="", folder=None, **{column: used[column] for column in _ROW}),
    )
