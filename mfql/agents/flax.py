"""Weights under the released code's (flax) names, in this project's layout and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mfql.agents.interface import Agent
from mfql.agents.parameters import Layout
from mfql.errors import UserError
from mfql.unpickle import load_arrays

_POLICY = "modules_actor_bc_flow"
_CRITIC = {"critic": "modules_critic/value_net", "target_critic": "modules_target_critic/value_net"}

Arrays = Mapping[str, np.ndarray]
# One of our parameters and the slice along its last axis that a released array fills (None: all of it).
Place = tuple[str, str, slice | None]


def places(name: str, hidden: int, blocks: int) -> Place | None:
    """Where a released array lives here: group, parameter, slice of its last axis.

    None for arrays that never change the output: the query and key norms.
    """
    if name.startswith(_POLICY):
        return _policy_place(name.removeprefix(f"{_POLICY}/"), hidden, blocks)
    for group, prefix in _CRITIC.items():
        match = re.fullmatch(rf"{prefix}/(Dense|LayerNorm)_(\d+)/(\w+)", name)
        if match:
            kind, layer, leaf = match.groups()
            own = leaf if kind == "Dense" else {"scale": "norm_gain", "bias": "norm_bias"}[leaf]
            return group, f"layer{layer}.{own}", None
    raise KeyError(name)


def _policy_place(name: str, hidden: int, blocks: int) -> Place | None:
    fixed = {
        "FeatureEmbed_0/Dense_0": "embed",
        "t_embedder/Dense_0": "time_in",
        "t_embedder/Dense_1": "time_out",
        "FinalLayer_0/Dense_1": "output",
    }
    if name == "pos_embed":
        return "policy", "position", None
    if name == "FinalLayer_0/RMSNorm_0/g":
        return "policy", "final_norm", None
    layer, leaf = name.rsplit("/", 1)
    if layer in fixed:
        return "policy", f"{fixed[layer]}.{leaf}", None
    if layer == "FinalLayer_0/Dense_0":
        return "policy", f"modulation.{leaf}", slice(6 * blocks * hidden, None)
    match = re.fullmatch(r"blocks_(\d+)/(.+)", layer)
    if match is None:
        raise KeyError(name)
    block, part = int(match[1]), match[2]
    if part == "Dense_0":
        return "policy", f"modulation.{leaf}", slice(6 * block * hidden, 6 * (block + 1) * hidden)
    own = {
        "Attention_0/qkv": f"value.{leaf}",
        "Attention_0/Dense_0": f"attention_out.{leaf}",
        "MlpBlock_0/Dense_0": f"mlp_in.{leaf}",
        "MlpBlock_0/Dense_1": f"mlp_out.{leaf}",
        "RMSNorm_0": "attention_norm",
        "RMSNorm_1": "mlp_norm",
        "Attention_0/RMSNorm_0": None,
        "Attention_0/RMSNorm_1": None,
    }[part]
    return None if own is None else ("policy", f"block{block}.{own}", None)


def _group_layouts(agent: Agent) -> dict[str, Layout]:
    return {
        **{name: group.layout for name, group in agent.groups.items()},
        **{f"target_{name}": group.layout for name, group in agent.groups.items() if group.target},
    }


def load_released(agent: Agent, arrays: Arrays, hidden: int, blocks: int) -> dict[str, torch.Tensor]:
    """Flat parameters `[1, P]` of every group from released arrays (names without a prefix such as `param:`)."""
    layouts = _group_layouts(agent)
    flat = {name: torch.zeros(1, layout.width) for name, layout in layouts.items()}
    for name, array in arrays.items():
        place = places(name, hidden, blocks)
        if place is None:
            continue
        group, own, part = place
        value = torch.as_tensor(np.asarray(array, dtype=np.float32))
        if name.rsplit("/", 2)[-2] == "qkv":
            value = value[..., -hidden:]
        view = layouts[group].views(flat[group])[own][0]
        view = view if part is None else view[..., part]
        view.copy_(value.reshape(view.shape))
    return flat


def as_released(
    agent: Agent, flat: Mapping[str, torch.Tensor], arrays: Arrays, hidden: int, blocks: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Our flat arrays `[1, P]` (weights, gradients or changes) under the released names and shapes.

    What the one-token network does not have (query and key projections and norms) is zero.
    """
    layouts = _group_layouts(agent)
    for name, array in arrays.items():
        ours = np.zeros(array.shape, dtype=np.float32)
        place = places(name, hidden, blocks)
        if place is not None and place[0] in flat:
            group, own, part = place
            view = layouts[group].views(flat[group].detach())[own][0]
            value = (view if part is None else view[..., part]).numpy()
            if name.rsplit("/", 2)[-2] == "qkv":
                ours[..., -hidden:] = value
            else:
                ours = value.reshape(array.shape)
        yield name, ours


def load_checkpoint(agent: Agent, path: str | Path) -> dict[str, torch.Tensor]:
    """Flat parameters `[1, P]` of every group from a checkpoint of the released code, of which nothing is run.

    Raises:
        UserError: the file is no such checkpoint, or of other sizes than the agent's.
    """
    parameters = _parameters_in(load_arrays(path))
    if parameters is None:
        raise UserError(f"{path} holds no {_POLICY}", "Give a params_N.pkl that the released code wrote.")
    arrays = dict(_flattened(parameters))
    hidden, blocks = agent.settings.policy_hidden, agent.settings.policy_blocks
    try:
        flat = load_released(agent, arrays, hidden, blocks)
        found = {place[:2] for name in arrays if (place := places(name, hidden, blocks)) is not None}
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not fit the method's sizes: {error}", _OTHER_METHOD) from error
    expected = {(group, name) for group, layout in _group_layouts(agent).items() for name in layout.parameters}
    if expected - found:
        group, name = min(expected - found)
        raise UserError(f"{path} lacks {len(expected - found)} parameters, such as {group} {name}", _OTHER_METHOD)
    return flat


_OTHER_METHOD = "Name the method whose settings it was trained with (policy_hidden, policy_blocks, critic_hidden)."


def _parameters_in(content: Any) -> dict[str, Any] | None:
    """The innermost mapping that has the policy, wherever it stands; None without any."""
    if not isinstance(content, dict):
        return None
    if _POLICY in content:
        return content
    return next((found for value in content.values() if (found := _parameters_in(value)) is not None), None)


def _flattened(parameters: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Arrays by their path, with slashes."""
    for name, value in parameters.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
