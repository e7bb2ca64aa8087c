"""The time of an update of several methods, in turns: what a setting costs, apart from evaluation and other jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mfql.agents.interface import Agent, load_agent
from mfql.agents.update import Updater, initial_state
from mfql.draws import Draw, DrawStream, generator
from mfql.evaluation.description import read_description
from mfql.evaluation.policy import DESCRIPTION
from mfql.experiment.run import RunFolder
from mfql.settings import build_settings
from mfql.training.chunks import memory_for
from mfql.training.device import set_precision
from mfql.training.memory import ENDS
from mfql.training.step import Step

# Rounds, updates of a method in each, and those that come before: they choose algorithms.
ROUNDS, _UPDATES, _WARM_UP = 5, 20, 3
_ROWS = 4096


def update_ms(runs: Mapping[str, RunFolder], seeds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of an update of each method, one number a round; the methods take turns in each.

    Rows are random, of the run's sizes; the update is not compiled, and on CUDA captured as a graph where it can be.

    Args:
        runs: a finished run of each method by name; its policy says the sizes.
        seeds: that share the update.
    """
    steps = {name: _step(run.trained / "policy" / DESCRIPTION, seeds, device) for name, run in runs.items()}
    done = dict.fromkeys(steps, 0)
    for name in steps:
        _timed(steps, done, name, _WARM_UP, device)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, rounds in found.items():
            rounds.append(1e3 * _timed(steps, done, name, _UPDATES, device) / _UPDATES)
    return found


def _timed(steps: dict[str, Step], done: dict[str, int], name: str, updates: int, device: torch.device) -> float:
    """Seconds of so many updates of a method."""
    step = steps[name]
    set_precision(step.updater.agent.settings.precision, device)
    _synchronise(device)
    began = time.perf_counter()
    for _ in range(updates):
        step(done[name])
        done[name] += 1
    _synchronise(device)
    return time.perf_counter() - began


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step(description: Path, seeds: int, device: torch.device) -> Step:
    """The step of a job, as the trainer makes it."""
    known = read_description(description.parent)
    kind = load_agent(known["agent"])
    settings = build_settings(kind.settings_type, known["settings"], str(description))
    agent = kind(settings, tuple(known["observation_shape"]), known["action_dim"])
    keys = list(range(seeds))
    state = initial_state(agent, [generator(torch.device("cpu"), key, "initial") for key in keys], device)
    draws = {"rows": Draw("integer", (settings.batch_size,)), **agent.update_draws()}
    stream = DrawStream({name: Draw(one.kind, (1, *one.shape)) for name, one in draws.items()}, keys, "cost", device)
    memory = memory_for(agent, _rows(agent), seeds, 0, device)
    captured = device.type == "cuda" and agent.compilable
    return Step(Updater(agent, state, float("inf")), memory, stream, 1, 0.0, captured=captured)


def _rows(agent: Agent) -> dict[str, Any]:
    """Random rows with every field that a method may ask for."""
    shapes = {
        "observations": agent.observation_shape,
        "next_observations": agent.observation_shape,
        "actions": (agent.action_dim,),
        "next_actions": (agent.action_dim,),
        "rewards": (),
        "masks": (),
        "mc_returns": (),
    }
    source = generator(torch.device("cpu"), "cost")
    rows = {name: torch.rand((_ROWS, *shape), generator=source).numpy() for name, shape in shapes.items()}
    return rows if agent.horizon == 1 else rows | {ENDS: np.zeros(_ROWS, np.float32)}
