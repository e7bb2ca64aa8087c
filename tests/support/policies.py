"""Policies without training, and their descriptions changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mfql.agents.interface import load_agent
from mfql.agents.update import initial_state
from mfql.draws import generator
from mfql.evaluation.policy import Actor, save_policy
from mfql.evaluation.usage import usage_of
from mfql.methods import raw_settings
from mfql.settings import build_settings
from mfql.suites import make_env
from tests.support.training_runs import ROOT

CONFIG, CPU = ROOT / "config", torch.device("cpu")
POINTMAZE, ANTMAZE, PEN = "pointmaze-medium-navigate-singletask-task1-v0", "antmaze-umaze-v2", "pen-human-v1"
CUBE = "cube-single-play-singletask-task1-v0"


def write(folder: Path, task: str, method: str = "mfql-miniature", seed: int = 3, **more: Any) -> Path:
    """A policy whose weights are drawn, and so far from nothing that observation and noise decide on its actions."""
    raw = raw_settings(method, POINTMAZE, "online", CONFIG)
    name = raw.pop("agent")
    usage, kind = usage_of(task), load_agent(name)
    settings = build_settings(kind.settings_type, raw, "this test")
    env = make_env(task)
    (size,), (actions,) = env.observation_space.shape, env.action_space.shape
    env.close()
    agent = kind(settings, (size,), actions)
    flat = initial_state(agent, [generator(CPU, seed, "initial")], CPU).flat
    drawn = {
        group: value + 0.2 * torch.randn(value.shape, generator=generator(CPU, group)) for group, value in flat.items()
    }
    actor = Actor(agent, drawn, np.full(size, 0.1, np.float32), np.full(size, 1.5, np.float32), CPU)
    described = {"method": method, "agent": name, "task": task, "seed": seed, "stage": "offline", "identity": "none"}
    save_policy(folder, actor, 0, described | {"settings": settings.as_dict()} | usage | more)
    return folder


def edited(folder: Path, **changes: Any) -> None:
    """Change entries of a policy's description; `...` takes one away."""
    path = folder / "policy.json"
    description = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(
        json.dumps({key: value for key, value in description.items() if value is not ...}), encoding="utf-8"
    )
