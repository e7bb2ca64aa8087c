"""What a policy's `policy.json` says of its environment, and the environment made of it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from mfql.envs.isolated import Isolated
from mfql.envs.pixels import FRAMES, StackedFrames
from mfql.errors import naming_extras, warn
from mfql.experiment.run import environment_changes
from mfql.suites import suite_of
from mfql.suites.own import Own, without_environment
from mfql.suites.suite import Suite
from mfql.tasks import NO_ENVIRONMENT, Registered, Task, registered_tasks

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
    suite = suite_of(task_name)
    if isinstance(suite, Own) and not suite.tasks[task_name].has_environment:
        return _without(suite.tasks[task_name])
    env = suite.make(task_name)
    try:
        units, own = env.units, suite.tasks[task_name] if isinstance(suite, Own) else None
        return {
            "environment": _environment(suite, task_name, env) | (_own(own) if own else {}),
            "action_low": units.low.tolist(),
            "action_high": units.high.tolist(),
            "action_dtype": units.dtype,
            "actions_rescaled": units.rescaled,
            "observation_layout": env.get_wrapper_attr("layout") if own else None,
            "observation_frames": FRAMES if isinstance(env.env, StackedFrames) else None,
        }
    finally:
        env.close()


def _without(task: Task) -> dict[str, Any]:
    """Those entries of a task that has no environment: the units of actions are of its dataset."""
    from mfql.data.own import recorded_spaces  # Who only acts has not what reads data.

    units = recorded_spaces(task).units
    return {
        "environment": {
            "suite": NO_ENVIRONMENT,
            "make": None,
            "gymnasium_id": None,
            "time_limit": None,
            "wrappers": [],
        },
        "action_low": units.low.tolist(),
        "action_high": units.high.tolist(),
        "action_dtype": units.dtype,
        "actions_rescaled": units.rescaled,
        "observation_layout": None,
        "observation_frames": None,
    }


def _environment(suite: Suite, task_name: str, env: Isolated) -> dict[str, Any]:
    spec, wrappers = env.unwrapped.spec, []
    inner: gymnasium.Env = env
    while isinstance(inner, gymnasium.Wrapper):
        wrappers.append(type(inner).__name__)
        inner = inner.env
    return {
        "suite": suite.name,
        "make": f"mfql.make_env({task_name!r})",
        "gymnasium_id": None if spec is None else spec.id,
        "time_limit": env.get_wrapper_attr("_max_episode_steps"),
        "wrappers": wrappers,
    }


def _own(task: Task) -> dict[str, Any]:
    registered = task.registered
    assert registered is not None  # The task is one of those that have an environment of their own.
    assert registered.env_id is not None
    module, colon, _ = registered.env_id.partition(":")
    return {
        **{column: getattr(registered, column) for column in _ROW},
        "metric": task.metric,
        # Names alone: where they lay on the machine that trained says nothing elsewhere, and is nobody's business.
        "folder": registered.folder.name if registered.folder else None,
        "registered_by": module if colon else None,
        "code": registered.code(),
    }


def warn_of_other_environment(description: Mapping[str, Any]) -> None:
    """Say where the environment of a policy's task is not made of what it was trained in, as far as both are known."""
    before, suite = description.get("environment", {}).get("code"), suite_used(description)
    now = suite.registered(description["task"]).code() if isinstance(suite, Own) else None
    if before is not None and now is not None and before != now:
        warn(
            f"{description['task']}: the policy was trained in another {environment_changes(before, now)}",
            "Name the extension as it was then; or take what is found for what it is: a score in another environment.",
        )


@naming_extras()
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
    return suite_used(description).make(description["task"], render)


@naming_extras()
def make_all_used(description: Mapping[str, Any], count: int) -> list[Isolated]:
    """`count` of those environments, for one thread.

    Raises:
        UserError: as of `make_used`.
    """
    return suite_used(description).make_many(description["task"], count)


def suite_used(description: Mapping[str, Any]) -> Suite:
    """The suite of the task that a `policy.json` describes; it knows that task even where no table here has it.

    Raises:
        UserError: that task has no environment.
    """
    name, used = description["task"], description.get("environment", {})
    if used.get("suite") == NO_ENVIRONMENT:
        raise without_environment(name)
    if "env_id" not in used or name in registered_tasks():
        return suite_of(name)
    task = Task(
        name=name,
        suite="own",
        environment=name,
        dataset=name,
        metric=used["metric"],
        score_rule="last",
        online=False,
        settings={},
        settings_source="untuned",
        registered=Registered(
            used["env_id"], "", None, used["max_episode_steps"], used["score_low"], used["score_high"]
        ),
    )
    return Own({name: task})
