"""`mfql data replay`: how far one step of today's simulator is from the step that a dataset recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from mfql.data.description import REPLACE
from mfql.envs.isolated import Isolated
from mfql.envs.patience import Limited
from mfql.errors import UserError
from mfql.files import sha256
from mfql.tasks import Task, simulation_version

# What a result is compared with, if not the next row of the array of its name: an array, and how many rows on. A row's
# reward is that of the step from it.
_COMPARED_WITH = {"rewards": ("rewards", 0), "recording": ("observations", 0)}


@dataclass(frozen=True)
class Recording:
    """A file's rows, and a simulation that steps from them.

    Args:
        arrays: `positions`, `velocities` and what else a step is compared with, [N, ...] each.
        ended: [N], whether an episode ended with the row.
        left_out: [N], whether something else than the simulator made the next row.
        step: of a row and the row that its episode starts with, what the simulator makes of it.
        close: ends the simulation.
        begin: of a row, the environment at the beginning of an episode in the row's state, and what it shows there;
            None where the recording does not tell all of that.
    """

    arrays: dict[str, np.ndarray]
    ended: np.ndarray
    left_out: np.ndarray
    step: Callable[[int, int], dict[str, np.ndarray]]
    close: Callable[[], None]
    begin: Callable[[int], tuple[Isolated, np.ndarray]] | None = None

    def rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows that the file's next row follows, evenly spread, and the row that starts each one's episode."""
        usable = np.flatnonzero(~(self.ended | self.left_out)[:-1])
        chosen = usable[np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int))]
        episode_starts = np.concatenate([[0], np.flatnonzero(self.ended[:-1]) + 1])
        return chosen, episode_starts[np.searchsorted(episode_starts, chosen, side="right") - 1]


def replay(task: Task, path: Path, recording: Recording, rows: int) -> dict[str, Any]:
    """Put the simulator into recorded states, apply the recorded actions, and compare with the rows that follow.

    The recording does not have all of the simulator's state: what the solver started from and, of D4RL, how far the
    positions of bodies lagged behind the joints; OGBench's is float32. What a recording of this same simulator leaves
    is rounding (a test pins it).

    Args:
        task: a row of the task table; a pixel task's images play no part.
        path: the dataset's training file.
        recording: what the task's suite makes of that file; it is closed at the end.
        rows: how many, spread evenly over the file; rows that end an episode are left out, and those from which a maze
            teleported.

    Returns:
        task, dataset, sha256 of the file, mujoco (version), simulation_version, rows, and `discrepancy`: of `positions`
        and `velocities` of the joints, of Adroit's `observations` and `rewards`, and of the `button_states` of
        OGBench's scene and puzzles, the median, the 95th percentile and the maximum over rows of the root mean square
        difference over a row's entries; `moved` is the median of the same for a simulator in which nothing moves.
        Adroit's `recording` has no step in it: there it is the observation of the recorded state that is compared with
        the one recorded beside it, and tells whether the two belong together. AntMaze's rewards are left out: its files
        do not tell for which goal they are.

    Raises:
        UserError: the file has no step that its next row follows.
    """
    with closing(recording):
        found: dict[str, list[tuple[float, float]]] = {}
        chosen, starts = recording.rows(rows)
        for row, start in zip(chosen, starts, strict=True):
            with Limited(lambda row=row: f"{path}: the step from row {row}"):  # type: ignore[misc]
                simulations = recording.step(row, start)
            for name, simulated in simulations.items():
                array, lead = _COMPARED_WITH.get(name, (name, 1))
                values, at = recording.arrays[array], row + lead
                moved = _rms(values[at] - values[max(at - 1, 0)])
                found.setdefault(name, []).append((_rms(simulated - values[at]), moved))
    if not found:
        raise UserError(f"{path} has no step that its next row follows", REPLACE)
    return {
        "task": task.name,
        "dataset": task.dataset,
        "sha256": sha256(path),
        "mujoco": mujoco.__version__,
        "simulation_version": simulation_version(task.name),
        "rows": len(chosen),
        "discrepancy": {name: _summary(np.array(pairs)) for name, pairs in found.items()},
    }


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


def _summary(pairs: np.ndarray) -> dict[str, float]:
    """Quantiles of the differences, and what they are to be compared with; `pairs` is [rows, 2]."""
    differences, moved = pairs.T
    return {
        "median": float(np.median(differences)),
        "p95": float(np.quantile(differences, 0.95)),
        "max": float(differences.max()),
        "moved": float(np.median(moved)),
    }


def table(result: dict[str, Any]) -> str:
    """A replay's result for a terminal."""
    lines = [f"{result['task']}: {result['rows']} steps on MuJoCo {result['mujoco']}, root mean square differences"]
    lines += [f"{'':14}{'median':>11}{'95 %':>11}{'max':>11}{'step itself':>13}"]
    for name, row in result["discrepancy"].items():
        values = "".join(f"{row[key]:>11.2e}" for key in ("median", "p95", "max"))
        lines += [f"{name:14}{values}{row['moved']:>13.2e}"]
    return "\n".join(lines)
