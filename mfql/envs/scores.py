"""What a task's episodes are scored by."""

from __future__ import annotations

from mfql.envs import d4rl
from mfql.envs.d4rl import ScoreRange
from mfql.tasks import Task, registered_tasks


def score_metric(task: str) -> str:
    """The name of the score: `success` (percent), `normalized_return` (percent) or `return`."""
    own = registered_tasks().get(task)
    if own is not None:
        return own.metric
    return "normalized_return" if task in d4rl.TASKS else "success"


def score_range(task: str, described: Task | None = None) -> ScoreRange | None:
    """The returns that stand for a normalised return of 0 and 100; None for a task that is scored otherwise.

    Args:
        task: its name.
        described: the task, where no table here has it; see `mfql.envs.usage.described_task`.

    Raises:
        UserError: `d4rl` is not installed, and the task is D4RL's.
    """
    own = described or registered_tasks().get(task)
    if own is None or own.registered is None:
        return d4rl.score_range(task)
    low, high = own.registered.score_low, own.registered.score_high
    return None if low is None or high is None else ScoreRange(low, high, reward_shift=0.0)
