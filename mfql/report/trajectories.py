"""Trajectories of trained policies over their maze, as a panel: where they go, and where they get stuck."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mfql.errors import UserError, counted, warn_of
from mfql.experiment.find import existing_run, run_of
from mfql.experiment.records import unreadable
from mfql.experiment.run import RunFolder
from mfql.report.drawing import COLOURS, INK, drawing, grid
from mfql.report.panels import Text, write_panel

if TYPE_CHECKING:
    from mfql.evaluation.trajectories import Maze, Trajectory

COLUMNS = ["method", "task", "stage", "seed", "episode", "success", "step", "x", "y"]
_REACHED, _MISSED = COLOURS[2], COLOURS[1]
# Points of a line: what a step is long cannot be seen, and each costs the page bytes.
_POINTS = 60
_SIZE, _TITLE, _KEY = 2.6, 0.6, 0.4  # inches of a maze's sides, of the words above it, and of the key below


def write(folders: Sequence[Path], episodes: int, out: Path) -> Path:
    """Let the policies of runs of one task and stage act, and write where they went as a panel.

    Args:
        folders: of finished runs of a task in one of OGBench's mazes. One whose policy is gone, or whose environment
            cannot be made here, is left out; the caption and a warning say so.
        episodes: of each run, the first that `mfql evaluate --episodes EPISODES` scores.
        out: the panel's folder.

    Returns:
        It.

    Raises:
        UserError: a folder is no run's, or they are of several tasks or stages.
    """
    from mfql.evaluation.trajectories import trajectories

    runs = list(dict.fromkeys(_run(existing_run(folder)) for folder in folders))
    if len({(run.task, run.stage) for run in runs}) != 1:
        raise UserError("the runs are of several tasks or stages", "Give those of one: a panel has one maze.")
    maze: Maze | None = None
    rows: list[pd.DataFrame] = []
    absent: list[str] = []
    for run in runs:
        try:
            maze, found = trajectories(run.folder, episodes)
        except UserError as error:
            warn_of(error, "its trajectories are left out")
            absent.append(f"{run.method} seed {run.seed} ({unreadable(error)})")
        else:
            rows += [_rows(run, one) for one in found]
    data = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)
    with drawing():
        figure = _drawn(data, sorted({run.method for run in runs}), maze)
        write_panel(out, figure, data, _text(runs, episodes, absent, out))
    return out


def _run(folder: Path) -> RunFolder:
    found = run_of(folder / "evaluation.json")
    if found is None:
        raise UserError(f"{folder} is no run's folder", "Give one such as results/runs/METHOD/TASK/seed0/offline.")
    return found


def _rows(run: RunFolder, one: Trajectory) -> pd.DataFrame:
    """A trajectory as rows of `COLUMNS`, in equal steps from the first position to the last."""
    last = len(one.positions) - 1
    shown = np.unique(np.linspace(0, last, min(last + 1, _POINTS)).round().astype(int))
    about: dict[str, Any] = {"method": run.method, "task": run.task, "stage": run.stage, "seed": run.seed}
    about |= {"episode": one.episode, "success": int(one.success), "step": one.steps[shown]}
    return pd.DataFrame(about | dict(zip("xy", one.positions[shown].round(2).T, strict=True)))[COLUMNS]


def _text(runs: Sequence[RunFolder], episodes: int, absent: Sequence[str], out: Path) -> Text:
    task, stage = runs[0].task, runs[0].stage
    seeds = len({run.seed for run in runs})
    caption = (
        f"Of each of {counted(seeds, 'seed')}, the policy's first {counted(episodes, 'episode')} on {task}, {stage}, "
        "seen from above: a ring is where an episode begins, the star the middle of where goals are, a cross where one "
        "ended without it. "
        "They are episodes apart from those of training's evaluations, too few for a score."
    )
    if absent:
        caption += f" Left out: {'; '.join(absent)}."
    words = ["mfql", "trajectories", *(str(run.folder) for run in runs), "--episodes", str(episodes), "--out", str(out)]
    question = "Where do the trained policies go, and where do they stay?"
    return Text(f"Trajectories, {stage}", question, caption, shlex.join(words), task=task)


def _drawn(data: pd.DataFrame, methods: Sequence[str], maze: Maze | None) -> Figure:
    height = _SIZE * (1.0 if maze is None else float(np.ptp(maze.walls[:, 1]) / np.ptp(maze.walls[:, 0])))
    figure, places = grid(len(methods), 4, height + _TITLE, _SIZE, _KEY)
    for axes, method in zip(places, methods, strict=True):
        own = data[data["method"] == method]
        episodes = [one for _, one in own.groupby(["seed", "episode"])]
        reached = sum(bool(one["success"].iloc[0]) for one in episodes)
        axes.set_title(f"{method}\n{reached} of {len(episodes)} reached the goal")
        axes.set_axis_off()
        if maze is not None:
            _maze(axes, maze)
        for one in episodes:
            _line(axes, one)
    marks = [
        Line2D([], [], color=_REACHED, label="reached the goal"),
        Line2D([], [], color=_MISSED, marker="x", label="did not"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _maze(axes: Axes, maze: Maze) -> None:
    corners = maze.walls - maze.unit / 2
    blocks = [Rectangle((x, y), maze.unit, maze.unit) for x, y in corners.tolist()]
    axes.add_collection(PatchCollection(blocks, facecolor=INK, alpha=0.25, linewidth=0))
    axes.plot(*maze.goal, marker="*", color=INK, markersize=11, linestyle="")
    low, high = corners.min(axis=0), corners.max(axis=0) + maze.unit
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")


def _line(axes: Axes, one: pd.DataFrame) -> None:
    reached = bool(one["success"].iloc[0])
    colour = _REACHED if reached else _MISSED
    axes.plot(one["x"], one["y"], color=colour, linewidth=1.2, alpha=0.7)
    axes.plot(one["x"].iloc[:1], one["y"].iloc[:1], marker="o", color=INK, fillstyle="none", markersize=5)
    if not reached:
        axes.plot(one["x"].iloc[-1:], one["y"].iloc[-1:], marker="x", color=colour, markersize=6)
