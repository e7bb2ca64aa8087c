"""Chunks of actions: the rows of a memory, targets and losses by a loop in float64, and what is done open loop."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mfql
from mfql.agents.interface import load_agent
from mfql.agents.meanflow import flow_terms
from mfql.agents.update import initial_state, views_of
from mfql.documents import read_json
from mfql.errors import UserError
from mfql.evaluation.evaluate import evaluate
from mfql.evaluation.policy import Actor
from mfql.methods import declared_settings, settings_hash
from mfql.settings import identified
from mfql.training.checkpoint import Checkpoints
from mfql.training.chunks import ChunkMemory, chunk_starts, memory_for
from mfql.training.memory import Memory
from mfql.training.online import Environments
from tests.support.equal_runs import assert_equal_runs
from tests.support.training_runs import TASK, Workplace

CPU = torch.device("cpu")
DISCOUNT = 0.9
HORIZON = 4
FLOWS = ("mfql", "fql", "ifql", "flow_bc")


def fields(masks: np.ndarray, ends: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Random rows with these masks and ends."""
    draw, rows = np.random.default_rng(seed), len(masks)
    numbers = {"observations": 2, "next_observations": 2, "actions": 2}
    return {name: draw.normal(size=(rows, size)).astype(np.float32) for name, size in numbers.items()} | {
        "rewards": draw.normal(size=rows).astype(np.float32),
        "masks": masks.astype(np.float32),
        "ends": ends.astype(np.float32),
    }


def chunk_of(rows: dict[str, np.ndarray], first: int, horizon: int) -> dict[str, np.ndarray] | None:
    """The chunk from a row, step by step; None where the trajectory stops short of it and of success."""
    actions, kept, reward, mask, row = [], [], 0.0, 1.0, first
    for step in range(horizon):
        if row >= len(rows["masks"]):
            if mask == 1.0:
                return None
            row = len(rows["masks"])
        here = row < len(rows["masks"]) and (step == 0 or (kept[-1] and rows["ends"][row - 1] == 0))
        if not here and mask == 1.0:
            return None
        kept.append(bool(here))
        actions.append(rows["actions"][row] if here else actions[-1])
        if here:
            reward += mask * DISCOUNT**step * float(rows["rewards"][row])
            mask *= float(rows["masks"][row])
            row += 1
    return {
        "actions": np.concatenate(actions),
        "kept": np.array(kept),
        "rewards": reward,
        "masks": mask,
        "observations": rows["observations"][first],
        "next_observations": rows["next_observations"][row - 1],
    }


def assert_chunks(batch: dict[str, torch.Tensor], row: int, column: int, expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(batch[name][row, column], value, rtol=1e-5, atol=1e-6, err_msg=name)


flags = st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, False])), min_size=1, max_size=25)


@settings(deadline=None, max_examples=60)
@given(flags, st.integers(2, 6))
def test_the_chunks_of_a_dataset_are_those_that_a_loop_finds(drawn, horizon):
    masks, ends = (1.0 - np.array([mask and end for mask, end in drawn])), np.array([end for _, end in drawn], float)
    masks[len(drawn) // 2] = 0.0  # Of a trajectory that goes on, too.
    ends[-1] = 1.0
    rows = fields(masks, ends)
    known = {first: chunk for first in range(len(masks)) if (chunk := chunk_of(rows, first, horizon)) is not None}
    memory = ChunkMemory(rows, 2, 0, CPU, horizon=horizon, discount=DISCOUNT)
    assert chunk_starts(masks, ends, horizon).tolist() == list(known)
    batch = memory.batch(torch.arange(len(known)).expand(2, -1) + 7 * len(known))
    for column, chunk in enumerate(known.values()):
        for seed in range(2):
            assert_chunks(batch, seed, column, chunk)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["on", "on", "success", "time", "break"]), min_size=1, max_size=25),
    st.integers(2, 5),
    st.integers(0, 12),
)
def test_the_chunks_of_a_tail_are_drawn_when_they_are_done_and_the_oldest_are_overwritten(steps, horizon, least):
    """Two seeds, of which the second is some steps behind; a memory put together from its rows draws the same."""
    known = fields(np.ones(horizon + 1), np.eye(horizon + 1)[-1], seed=1)
    scripts = [steps, ["on", "on", *steps][: len(steps)]]
    tails = [
        fields(
            1.0 - np.array([s == "success" for s in script]), np.array([s in ("success", "time") for s in script]), 2
        )
        for script in scripts
    ]
    options = {"horizon": horizon, "discount": DISCOUNT, "replay_rows": least}
    memory = ChunkMemory(known, 2, len(steps), CPU, **options)
    of_dataset = [chunk_of(known, first, horizon) for first in range(2)]
    for row in range(len(steps)):
        memory.append(row, {name: torch.tensor(np.stack([tail[name][row] for tail in tails])) for name in known})
        for seed, script in enumerate(scripts):
            if script[row] == "break":
                memory.end(seed, row)
                tails[seed]["ends"][row] = 1.0
        again = ChunkMemory(known, 2, len(steps), CPU, **options)
        for seed in range(2):
            again.restore(seed, 0, memory.tail_rows(seed, 0, row + 1))
        again.restored(row + 1)
        for seed, tail in enumerate(tails):
            so_far = {name: value[: row + 1] for name, value in tail.items()}
            chunks = of_dataset + [c for first in range(row + 1) if (c := chunk_of(so_far, first, horizon))]
            slots = max(least, 3) if least else len(chunks) + 1
            present = min(len(chunks), slots - 1)
            indices = torch.arange(present).expand(2, -1)
            batch, same = memory.batch(indices), again.batch(indices)
            for slot in range(present):
                newest = max(number for number in range(slot, len(chunks), slots))
                assert_chunks(batch, seed, slot, chunks[newest])
            assert all(torch.equal(batch[name][seed], same[name][seed]) for name in batch)


def agent_of(name: str, horizon: int):
    """A small agent of two observations and two actions, and a state in float64."""
    kind = load_agent(name)
    hidden = {"policy_hidden": 8, "policy_blocks": 1, "zero_init": False} if name in ("mfql", "flow_bc") else {}
    hidden |= {"critic_hidden": (8, 8)} if name != "flow_bc" else {}
    hidden |= {"actor_hidden": (8, 8)} if name in ("fql", "ifql") else {}
    hidden |= {"alpha": 2.0} if name in ("mfql", "fql") else {}
    values = kind.settings_type(
        offline_steps=10, online_steps=0, discount=DISCOUNT, batch_size=6, horizon=horizon, **hidden
    )
    agent = kind(values, (2,), 2)
    state = initial_state(agent, [torch.Generator().manual_seed(seed) for seed in range(2)], CPU)
    return agent, {name: flat.double() for name, flat in state.flat.items()}, state.own


def drawn_for(agent) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    return {
        name: (torch.randn if draw.kind == "normal" else torch.rand)(
            (2, *draw.shape), generator=source, dtype=torch.float64
        )
        for name, draw in agent.update_draws().items()
    }


def chunk_batch(horizon: int = HORIZON) -> tuple[dict[str, torch.Tensor], list[dict[str, np.ndarray]]]:
    """The six chunks of ten rows with a success in the middle, in float64, and the same by the loop."""
    masks, ends = np.ones(10), np.zeros(10)
    masks[4], ends[4], ends[9] = 0.0, 1.0, 1.0
    rows = fields(masks, ends)
    chunks = [chunk for first in range(10) if (chunk := chunk_of(rows, first, horizon)) is not None][:6]
    batch = {
        name: torch.tensor(np.stack([chunk[name] for chunk in chunks]), dtype=torch.float64).expand(
            2, *np.stack([chunk[name] for chunk in chunks]).shape
        )
        for name in chunks[0]
    }
    return batch, chunks


@pytest.mark.parametrize("name", FLOWS)
def test_targets_bootstrap_h_steps_on_and_padding_is_no_part_of_the_flow_loss(name):
    agent, flat, own = agent_of(name, HORIZON)
    batch, chunks = chunk_batch()
    draws, parameters = drawn_for(agent), views_of(agent, flat)
    _, info = agent.losses(parameters, batch, draws, {**own, "step": torch.tensor(0)})
    assert (batch["kept"] == 0.0).any()
    if name == "mfql":
        _, values = agent.best_candidate(
            parameters["policy"], parameters["target_critic"], batch["next_observations"], draws["noise_next"]
        )
    elif name == "fql":
        following = agent.act(parameters, batch["next_observations"], draws["noise_next"])
        values = agent.next_values(parameters, batch, following)
    elif name == "ifql":
        values = agent.state_values(parameters, batch["next_observations"])
    if name != "flow_bc":
        by_hand = [
            np.mean(
                [
                    c["rewards"] + DISCOUNT**HORIZON * c["masks"] * float(values[seed, i].detach())
                    for i, c in enumerate(chunks)
                ]
            )
            for seed in range(2)
        ]
        np.testing.assert_allclose(info["q_target"].detach(), by_hand, rtol=1e-10)
    if name in ("fql", "ifql"):
        flow = agent.flow if name == "fql" else agent.policy
        views = parameters["flow" if name == "fql" else "policy"]
        noise, time = draws["noise_bc"], draws["time"]
        velocity = flow(views, batch["observations"], torch.lerp(noise, batch["actions"], time), time)
        for seed in range(2):
            errors = []
            for row, chunk in enumerate(chunks):
                wrong = (velocity - batch["actions"] + noise)[seed, row].detach().numpy().reshape(HORIZON, 2) ** 2
                errors.append(np.mean([wrong[step] for step in range(HORIZON) if chunk["kept"][step]]))
            assert float(info["flow_loss"][seed]) == pytest.approx(np.mean(errors), rel=1e-10)
    else:
        terms = flow_terms(
            agent.policy, agent.prepared(parameters)["policy"], batch["observations"], batch["actions"], draws,
            agent.settings, own, batch["kept"],
        )  # fmt: skip
        for seed in range(2):
            losses = []
            for row, chunk in enumerate(chunks):
                wrong = (terms.prediction - terms.target)[seed, row].detach().numpy().reshape(HORIZON, 2) ** 2
                error = np.mean([wrong[step] for step in range(HORIZON) if chunk["kept"][step]])
                losses.append(error * (error + agent.settings.loss_constant) ** (agent.settings.loss_gamma - 1.0))
            assert float(info["flow_loss"][seed]) == pytest.approx(np.mean(losses), rel=1e-10)


def test_a_memory_of_one_step_is_todays_and_an_agent_of_one_is_unchanged():
    agent, *_ = agent_of("mfql", 1)
    rows = fields(np.ones(5), np.eye(5)[-1])
    assert type(memory_for(agent, rows, 1, 0, CPU)) is Memory
    assert (agent.chunk_dim, agent.discount) == (2, DISCOUNT)


def test_data_without_a_chunk_are_refused_by_name():
    with pytest.raises(UserError, match="mine: no trajectory has 3 steps"):
        ChunkMemory(fields(np.ones(4), np.array([0, 1, 0, 1.0])), 1, 0, CPU, horizon=3, discount=0.9, name="mine")


def test_a_horizon_of_1_is_no_part_of_what_a_run_is_known_by():
    for method in FLOWS:
        _, found = declared_settings(method, TASK, "offline")
        assert found.horizon == 1
        assert "horizon" not in identified(found.as_dict())
        assert settings_hash(f"{method}+horizon=1", TASK, "offline") == settings_hash(method, TASK, "offline")
        assert settings_hash(f"{method}+horizon=4", TASK, "offline") != settings_hash(method, TASK, "offline")


@pytest.mark.parametrize(
    ("method", "task", "named"),
    [
        ("iql+horizon=4", TASK, "horizon"),
        ("fbrac+horizon=4", TASK, "horizon"),
        ("mfql+horizon=0", TASK, "horizon is 0"),
        ("mfql+horizon=4", "visual-cube-single-play-singletask-task1-v0", "1 on pixel tasks"),
    ],
)
def test_a_horizon_is_refused_where_there_is_none(method, task, named):
    with pytest.raises(UserError, match=named):
        declared_settings(method, task, "offline")


METHOD = f"mfql-miniature+horizon={HORIZON}"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    place = Workplace.make(tmp_path_factory.mktemp("chunks"))
    for stage in ("pretrain", "online"):
        place.train_here(METHOD, stage, (0, 1))
    return place


def test_a_policy_does_a_chunk_open_loop_in_its_environment(place):
    policy, other = (mfql.load_policy(place.run(METHOD, 0, "online")) for _ in range(2))
    assert policy.description["horizon"] == policy.horizon == HORIZON
    env = policy.make_env()
    try:
        observation, _ = env.reset(seed=0)
        for _ in range(2):
            chunk = other.chunk(observation)
            assert chunk.shape == (HORIZON, 2)
            for action in chunk:
                np.testing.assert_array_equal(policy(observation), action)
                observation, *_ = env.step(action)
    finally:
        env.close()
    policy(observation)
    several = np.stack([observation, observation])
    with pytest.raises(ValueError, match="call `reset`"):
        policy(several)
    policy.reset()
    assert policy(several).shape == (2, 2)


def test_an_episode_acted_in_alone_is_that_of_an_evaluation(place, tmp_path):
    run = place.run(METHOD, 0, "online")
    found = evaluate(run, 2, tmp_path / "scores.json", None, 0)
    policy = mfql.load_policy(run)
    env = policy.make_env()
    try:
        observation, _ = env.reset(seed=policy.begin(1, 2))
        total, steps, ended = 0.0, 0, False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total, steps, ended = total + reward, steps + 1, terminated or truncated
    finally:
        env.close()
    assert (total, steps) == (found["each"]["return"][1], found["each"]["length"][1])


def test_an_online_run_that_fails_within_a_chunk_goes_on_bit_equal(place, monkeypatch):
    for seed in (0, 1):
        start = place.run(METHOD, seed, "pretrain").parent
        shutil.copytree(start, place.run(METHOD, seed, "pretrain", "failed").parent)
    finish, calls = Environments.finish, []

    def failing(self, step):
        calls.append(step)
        if len(calls) == 15:  # The third action of a chunk.
            raise UserError("it failed", "Try again.")
        finish(self, step)

    monkeypatch.setattr(Environments, "finish", failing)
    with pytest.raises(UserError, match="it failed"):
        place.train_here(METHOD, "online", (0, 1), "failed")
    monkeypatch.undo()
    assert read_json(place.run(METHOD, 0, "online", "failed") / "manifest.json")["settings"]["horizon"] == HORIZON
    place.train_here(METHOD, "online", (0, 1), "failed")
    for seed in (0, 1):
        assert_equal_runs(place.run(METHOD, seed, "online"), place.run(METHOD, seed, "online", "failed"))


def test_online_the_policy_looks_where_a_chunk_or_an_episode_begins(place, monkeypatch):
    """The rows of a tail: within a chunk actions are those that were chosen at its begin."""
    chosen = []
    explore = Actor.explore
    shutil.copytree(place.run(METHOD, 0, "pretrain").parent, place.run(METHOD, 0, "pretrain", "seen").parent)

    def seen(self, observations, noise):
        chosen.append(explore(self, observations, noise)[0, 0].reshape(HORIZON, -1))
        return chosen[-1].reshape(1, 1, -1)

    monkeypatch.setattr(Actor, "explore", seen)
    place.train_here(METHOD, "online", (0,), "seen")
    run = place.run(METHOD, 0, "online", "seen")
    saved = Checkpoints(run / "checkpoint").load(40)
    done = saved["episode"]["actions"].numpy()
    np.testing.assert_array_equal(done, np.concatenate(chosen)[: len(done)])
    assert len(chosen) == 10
