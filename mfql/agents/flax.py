"""Weights under the released code's (flax) names, in this project's layout and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mfql.agents.interface import Agent
from mfql.agents.mlp import ActorSettings
from mfql.agents.parameters import Layout
from mfql.errors import UserError
from mfql.unpickle import load_arrays

Arrays = Mapping[str, np.ndarray]

_ALL = slice(None)
# What the names of all actors begin with, and MFQL's.
_ACTOR, _POLICY = "modules_actor", "modules_actor_bc_flow"
# The baselines' modules by the group that they are here.
_MODULES = {
    "modules_critic": "critic",
    "modules_target_critic": "target_critic",
    "modules_value": "value",
    "modules_actor": "policy",
    "modules_target_actor": "target_policy",
    "modules_actor_flow": "policy",
    "modules_actor_onestep_flow": "policy",
    "modules_actor_bc_flow": "flow",
}
_LEAVES = {
    ("Dense", "kernel"): "kernel",
    ("Dense", "bias"): "bias",
    ("LayerNorm", "scale"): "norm_gain",
    ("LayerNorm", "bias"): "norm_bias",
}


@dataclass(frozen=True)
class Place:
    """Where a released array lives here.

    Args:
        group, name: of our parameter.
        part: of our parameter's last axis that it fills.
        taken: what of its own last axis does so; the rest never changes an output.
    """

    group: str
    name: str
    part: slice = field(default_factory=lambda: _ALL)
    taken: slice = field(default_factory=lambda: _ALL)


# The place of a released name; None for arrays that never change an output. A name that it does not know: KeyError.
Places = Callable[[str], Place | None]


def places_of(agent: Agent) -> Places:
    """Where the released arrays of an agent's method live in the agent."""
    settings = agent.settings
    if isinstance(settings, ActorSettings):
        return partial(_baseline_place, depth=len(settings.actor_hidden))
    return partial(_place, hidden=settings.policy_hidden, blocks=settings.policy_blocks)


def _baseline_place(name: str, depth: int) -> Place:
    """The place of a layer in networks of plain layers; a mean's layer comes after the actor's `depth` hidden ones."""
    match = re.fullmatch(r"(\w+)/(?:(?:value_net|mlp|actor_net)/(Dense|LayerNorm)_(\d+)|mean_net)/(\w+)", name)
    if match is None:
        raise KeyError(name)
    module, kind, layer, leaf = match.groups()
    return Place(_MODULES[module], f"layer{layer or depth}.{_LEAVES[kind or 'Dense', leaf]}")


def _place(name: str, hidden: int, blocks: int) -> Place | None:
    """The place of a layer in MFQL's networks; query and key norms have none."""
    if name.startswith(_POLICY):
        return _policy_place(name.removeprefix(f"{_POLICY}/"), hidden, blocks)
    return _baseline_place(name, 0)


def _policy_place(name: str, hidden: int, blocks: int) -> Place | None:
    fixed = {
        "FeatureEmbed_0/Dense_0": "embed",
        "t_embedder/Dense_0": "time_in",
        "t_embedder/Dense_1": "time_out",
        "FinalLayer_0/Dense_1": "output",
    }
    if name == "pos_embed":
        return Place("policy", "position")
    if name == "FinalLayer_0/RMSNorm_0/g":
        return Place("policy", "final_norm")
    layer, leaf = name.rsplit("/", 1)
    if layer in fixed:
        return Place("policy", f"{fixed[layer]}.{leaf}")
    if layer == "FinalLayer_0/Dense_0":
        return Place("policy", f"modulation.{leaf}", slice(6 * blocks * hidden, None))
    match = re.fullmatch(r"blocks_(\d+)/(.+)", layer)
    if match is None:
        raise KeyError(name)
    block, part = int(match[1]), match[2]
    if part == "Dense_0":
        return Place("policy", f"modulation.{leaf}", slice(6 * block * hidden, 6 * (block + 1) * hidden))
    parameter = {
        "Attention_0/qkv": f"value.{leaf}",
        "Attention_0/Dense_0": f"attention_out.{leaf}",
        "MlpBlock_0/Dense_0": f"mlp_in.{leaf}",
        "MlpBlock_0/Dense_1": f"mlp_out.{leaf}",
        "RMSNorm_0": "attention_norm",
        "RMSNorm_1": "mlp_norm",
        "Attention_0/RMSNorm_0": None,
        "Attention_0/RMSNorm_1": None,
    }[part]
    if parameter is None:
        return None
    # Side by side are the projections of query, key and value, of which one token needs the last.
    return Place("policy", f"block{block}.{parameter}", taken=slice(-hidden, None) if "qkv" in part else _ALL)


def _group_layouts(agent: Agent) -> dict[str, Layout]:
    return {
        **{name: group.layout for name, group in agent.groups.items()},
        **{f"target_{name}": group.layout for name, group in agent.groups.items() if group.target},
    }


def load_released(agent: Agent, arrays: Arrays) -> dict[str, torch.Tensor]:
    """Flat parameters `[1, P]` of every group from released arrays (names without a prefix such as `param:`)."""
    layouts, places = _group_layouts(agent), places_of(agent)
    flat = {name: torch.zeros(1, layout.width) for name, layout in layouts.items()}
    for name, array in arrays.items():
        place = places(name)
        if place is None:
            continue
        value = torch.as_tensor(np.asarray(array, dtype=np.float32))[..., place.taken]
        view = layouts[place.group].views(flat[place.group])[place.name][0][..., place.part]
        view.copy_(value.reshape(view.shape))
    return flat


def as_released(agent: Agent, flat: Mapping[str, torch.Tensor], arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Our flat arrays `[1, P]` (weights, gradients or changes) under the released names and shapes.

    What the one-token network does not have (query and key projections and norms) is zero.
    """
    layouts, places = _group_layouts(agent), places_of(agent)
    for name, array in arrays.items():
        ours = np.zeros(array.shape, dtype=np.float32)
        place = places(name)
        if place is not None and place.group in flat:
            view = layouts[place.group].views(flat[place.group].detach())[place.name][0][..., place.part]
            into = ours[..., place.taken]
            into[...] = view.cpu().numpy().reshape(into.shape)
        yield name, ours


def load_checkpoint(agent: Agent, path: str | Path) -> dict[str, torch.Tensor]:
    """Flat parameters `[1, P]` of every group from a checkpoint of the released code, of which nothing is run.

    Raises:
        UserError: the file is no such checkpoint, or of other sizes than the agent's.
    """
    parameters = _parameters_in(load_arrays(path))
    if parameters is None:
        raise UserError(f"{path} holds no {_ACTOR}", "Give a params_N.pkl that the released code wrote.")
    arrays, places = dict(_flattened(parameters)), places_of(agent)
    try:
        flat = load_released(agent, arrays)
        found = {(place.group, place.name) for name in arrays if (place := places(name)) is not None}
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not fit the method's sizes: {error}", _OTHER_METHOD) from error
    expected = {(group, name) for group, layout in _group_layouts(agent).items() for name in layout.parameters}
    if expected - found:
        group, name = min(expected - found)
        raise UserError(f"{path} lacks {len(expected - found)} parameters, such as {group} {name}", _OTHER_METHOD)
    return flat


_OTHER_METHOD = "Name the method whose settings it was trained with, sizes such as critic_hidden among them."


def _parameters_in(content: Any) -> dict[str, Any] | None:
    """The innermost mapping that has an actor, wherever it stands; None without any."""
    if not isinstance(content, dict):
        return None
    if any(str(name).startswith(_ACTOR) for name in content):
        return content
    return next((found for value in content.values() if (found := _parameters_in(value)) is not None), None)


def _flattened(parameters: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Arrays by their path, with slashes."""
    for name, value in parameters.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
