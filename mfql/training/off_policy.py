"""`mfql evaluate --off-policy`: what a finished run's policy is estimated to reach, and, where it can be, what it does.

The estimate is of `mfql.training.fqe`. The true value beside it is the mean discounted return of episodes of the same
policy with the same discount from the very states where the held-out episodes begin, into which the simulator is put.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mfql.data.replay import Recording
from mfql.data.transitions import Dataset, Transitions
from mfql.documents import write_json
from mfql.envs.patience import Limited
from mfql.errors import UserError, note, warn
from mfql.evaluation.policy import Policy, load_policy
from mfql.suites import load, split_paths, suite_of
from mfql.tasks import ESTIMATOR_VERSION, FQE_STEPS, Task, find_task
from mfql.training.fqe import FQESettings, fitted_q, require_estimable


def evaluate_off_policy(
    run: Path,
    out: Path,
    data: Path,
    config_dir: Path,
    *,
    episodes: int,
    steps: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Estimate a policy's discounted return from its task's dataset, and write what was found.

    Args:
        run: the folder of a finished run.
        out: JSON file.
        data: folder of the dataset.
        config_dir: folder with the task table.
        episodes: that the true value is the mean of, at least: each start begins as many.
        steps: updates of the critics; None takes those of the task's row, or the default.
        device: where they are fitted, and where the policy acts.

    Returns:
        What the file holds: the run; `discount`, the task's; `fqe_steps`, `estimator_version`; the entries of
        `mfql.training.fqe.Estimate`; and `true`: `discounted_return`, its `standard_error` and `episodes`, or None of a
        task whose files record no states that an episode could begin in.

    Raises:
        UserError: `out` is a folder, there is no policy, no such task, or no dataset; or as of `fitted_q`.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder", f"Name the file, such as {out / 'off_policy.json'}.")
    policy = load_policy(run, device=device)
    description = policy.description
    task = find_task(description["task"], config_dir)
    loaded = load(task, data)
    require_estimable(policy.actor.agent, loaded)
    dataset = _held_apart(loaded)
    trained_on = description.get("dataset", {}).get("sha256", dataset.sha256)
    if trained_on != dataset.sha256:
        warn(
            f"{run}: the policy was trained on another version of {dataset.name} than {data} has",
            "The estimate is of that version; name the folder of the other one with --data.",
        )
    steps = steps or (task.registered and task.registered.fqe_steps) or FQE_STEPS
    discount, seed = float(task.settings["discount"]), int(description["seed"])
    estimate = fitted_q(policy.actor, dataset, seed, FQESettings(offline_steps=steps, discount=discount))
    result = {
        **{key: description[key] for key in ("method", "task", "seed", "stage", "identity")},
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "discount": discount,
        "fqe_steps": steps,
        "estimator_version": ESTIMATOR_VERSION,
        **estimate.as_dict(),
        "true": _true(policy, task, dataset, data, discount, episodes),
    }
    write_json(out, result)
    return result


def _held_apart(dataset: Dataset) -> Dataset:
    """The dataset without its validation rows among those that critics are fitted to, as of D4RL's they are.

    Raises:
        UserError: nothing else is left.
    """
    val = dataset.val
    if not np.shares_memory(dataset.rewards, val.rewards):
        return dataset
    kept = len(dataset) - len(val)
    if kept == 0:
        raise UserError(
            f"{dataset.name} has one trajectory, and an estimate is of some that critics are not fitted to",
            "Record two or more; or lay a validation file NAME-val.npz beside NAME.npz.",
        )
    note(
        f"{dataset.name} has no validation split: the last tenth of its trajectories is held out of the critics; the"
        " policy was trained on it"
    )
    return replace(dataset, **{field.name: getattr(dataset, field.name)[:kept] for field in fields(Transitions)})


def _true(
    policy: Policy, task: Task, dataset: Dataset, data: Path, discount: float, episodes: int
) -> dict[str, Any] | None:
    """The mean discounted return from where held-out episodes begin; None where no episode can begin there."""
    paths, suite = split_paths(data, task.dataset), suite_of(task.name)
    if not (suite.replayable and "val" in paths):
        return None
    with closing(suite.recording(task.name, paths["val"])) as recording:
        if recording.begin is None:
            return None
        starts = np.append(0, np.flatnonzero(recording.ended[:-1]) + 1)
        assert len(starts) == len(dataset.val.ends)
        each = -(-episodes // len(starts))
        found = [[_discounted(policy, recording, int(row), discount) for _ in range(each)] for row in starts]
    return {
        "discounted_return": float(np.mean(found)),
        "standard_error": standard_error(np.array(found)),
        "episodes": len(starts) * each,
    }


def standard_error(found: np.ndarray) -> float | None:
    """The standard error of the mean of returns `[starts, episodes]`; None of a single one.

    Episodes from one start are more alike than those of others, so that the starts are the sample where there are
    several.
    """
    drawn = found.mean(1) if len(found) > 1 else found[0]
    return float(np.std(drawn, ddof=1) / np.sqrt(len(drawn))) if len(drawn) > 1 else None


def _discounted(policy: Policy, recording: Recording, row: int, discount: float) -> float:
    """The discounted return of one episode that begins in a recorded state, to the environment's time limit."""
    assert recording.begin is not None
    total, weight, ended = 0.0, 1.0, False
    policy.reset()
    with Limited(lambda: f"an episode from the recorded row {row}"):
        env, observation = recording.begin(row)
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total += weight * float(reward)
            weight *= discount
            ended = terminated or truncated
    return total
