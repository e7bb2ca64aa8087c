"""Acting on one observation: what the batched path does, within rounding and with the same draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mfql.agents.interface import Agent, Draw, Parameters, load_agent
from mfql.agents.update import initial_state, views_of
from mfql.draws import DrawStream, generator
from mfql.evaluation.policy import load_policy
from mfql.methods import raw_settings
from mfql.settings import build_settings
from tests.support.policies import POINTMAZE, write
from tests.support.training_runs import ROOT

CPU = torch.device("cpu")
# As far as float32 may be off, where actions lie in [-1, 1].
ROUNDING = 1e-5


def made(method: str, shape: tuple[int, ...] = (6,), **changes: Any) -> tuple[Agent, Parameters]:
    """An agent whose weights are drawn wide enough that candidates and their values differ."""
    raw = raw_settings(method, POINTMAZE, "online", ROOT / "config") | changes
    kind = load_agent(raw.pop("agent"))
    agent = kind(build_settings(kind.settings_type, raw, "this test"), shape, 3)
    flat = initial_state(agent, [generator(CPU, 0, "initial")], CPU).flat
    drawn = {
        group: value + 0.2 * torch.randn(value.shape, generator=generator(CPU, group)) for group, value in flat.items()
    }
    return agent, agent.prepared(views_of(agent, {name: drawn[name] for name in agent.act_groups()}))


def noise_of(agent: Agent, rows: int) -> torch.Tensor | None:
    draw = agent.act_draw()
    if draw is None:
        return None
    return DrawStream({"noise": Draw(draw.kind, (rows, *draw.shape))}, [0], "test", CPU).at(0)["noise"]


STEPS = {"sample_b": True, "generation_steps": 3}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mfql-miniature", {}),
        ("mfql-miniature", {"num_candidates": 1}),
        ("mfql-miniature", {"acting_candidates": 32, "ranking": "target_critic", "q_agg": "min", "num_critics": 3}),
        ("mfql-miniature", {"horizon": 4}),
        (
            "mfql-miniature",
            {"formulation": "velocity", "noise_type": "uniform", "noise_std": 0.5, "norm_epsilon": 1e-6},
        ),
        ("mfql-miniature", {"formulation": "residual", **STEPS}),
        ("mfql-miniature", {"formulation": "naive", **STEPS}),
        ("mfql-miniature", {"formulation": "naive_noise", **STEPS}),
        ("flow_bc-miniature", {}),
        ("flow_bc-miniature", {"formulation": "velocity", "horizon": 2, **STEPS}),
        ("fql-miniature", {}),
        ("ifql-miniature", {}),
        ("fawac-miniature", {}),
        ("bc-miniature", {}),
        ("rlpd-miniature", {}),
    ],
)
@torch.no_grad()
def test_one_seed_acts_as_several_do(method: str, changes: dict[str, Any]) -> None:
    agent, parameters = made(method, **changes)
    observations, noise = torch.randn(200, 6, generator=generator(CPU, "observations")), noise_of(agent, 200)
    expected = agent.act(parameters, observations[None], noise)[0]
    act = agent.single(parameters)
    together = act(observations, None if noise is None else noise[0])
    alone = torch.cat([act(observations[[row]], None if noise is None else noise[0, [row]]) for row in range(200)])
    assert expected.std() > 0.1
    for found in (together, alone):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=ROUNDING)


@torch.no_grad()
def test_images_are_encoded_for_each_network() -> None:
    agent, parameters = made("mfql-miniature", (16, 16, 9), encoder_channels=[2], encoder_features=4)
    images = torch.randint(0, 256, (3, 16, 16, 9), dtype=torch.uint8, generator=generator(CPU, "images"))
    noise = noise_of(agent, 3)
    assert noise is not None
    expected = agent.act(parameters, images[None], noise)[0]
    torch.testing.assert_close(agent.single(parameters)(images, noise[0]), expected, rtol=0.0, atol=ROUNDING)


@torch.no_grad()
def test_a_candidate_is_taken_that_is_ranked_highest() -> None:
    agent, parameters = made("mfql-miniature")
    observations, noise = torch.randn(50, 6, generator=generator(CPU, "some")), noise_of(agent, 50)
    assert noise is not None
    ranked = agent.ranked(parameters, observations[None], noise)
    assert ranked is not None
    (actions,), (values,) = ranked
    assert len(values.argmax(-1).unique()) == agent.settings.num_candidates
    best = actions[torch.arange(50), values.argmax(-1)]
    torch.testing.assert_close(agent.single(parameters)(observations, noise[0]), best, rtol=0.0, atol=ROUNDING)


@pytest.mark.parametrize("method", ["mfql-miniature", "flow_bc-miniature", "ifql-miniature", "iql-miniature"])
def test_a_policy_acts_on_one_observation_as_on_a_batch_of_it_with_the_same_draws(tmp_path: Path, method: str) -> None:
    write(tmp_path, POINTMAZE, method)
    one, several = load_policy(tmp_path, seed=7), load_policy(tmp_path, seed=7)
    observations = np.random.default_rng(0).normal(size=(70, 2))
    found = np.array([one(observation) for observation in observations])
    expected = np.array([several(observation[None])[0] for observation in observations])
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=ROUNDING)


def test_an_episode_is_acted_in_as_evaluations_do_bit_by_bit(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, POINTMAZE))
    policy.begin(1, 4)
    observation = np.array([0.3, -0.2], np.float32)
    found = policy(observation)
    assert policy._episode is not None
    noise = policy._episode._noise.at(0)["noise"].unsqueeze(0).repeat_interleave(4, dim=1)
    expected = policy.actor(np.repeat(observation[None, None], 4, axis=1), noise)[0, 1]
    assert np.array_equal(found, expected)
