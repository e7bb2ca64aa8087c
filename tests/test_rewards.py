"""Sparser rewards: dataset rows and online steps follow one rule, and scores know nothing of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfql.data.transitions import Transitions
from mfql.documents import read_json
from mfql.errors import UserError
from mfql.settings import Settings
from mfql.training.checkpoint import Checkpoints
from mfql.training.rewards import OnlineRewards, with_rewards
from tests.support.training_runs import SHORT, Workplace

PLAIN = Settings(offline_steps=10, online_steps=10, discount=0.9)
DELAYED = replace(PLAIN, reward="delayed")


def transitions(rewards: list[float], terminals: list[bool], masks: list[bool]) -> Transitions:
    """Rows whose last ends its trajectory; observations and actions do not matter."""
    empty = np.zeros((len(rewards), 1), np.float32)
    ends = np.array(terminals, np.float32)
    ends[-1] = 1.0
    return Transitions(empty, empty, np.array(rewards, np.float32), np.array(masks, np.float32), ends, empty)


rows = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.5]), st.integers(0, 6).map(lambda n: n == 0), st.integers(0, 6).map(bool)),
    min_size=1,
    max_size=60,
).map(lambda found: transitions(*map(list, zip(*found, strict=True))))


def stepped(found: Transitions, settings: Settings) -> np.ndarray:
    """The rewards that online training gives for the same steps."""
    online = OnlineRewards(settings, 1)
    return np.concatenate(
        [
            online(found.rewards[i : i + 1], found.masks[i : i + 1] == 0, found.terminals[i : i + 1] > 0)
            for i in range(len(found))
        ]
    )


@given(rows, st.sampled_from(["dataset", "goal", "delayed"]), st.integers(0, 5))
def test_rows_and_steps_are_rewarded_alike(found, reward, delay):
    settings = replace(PLAIN, reward=reward, reward_delay=delay)
    assert np.array_equal(with_rewards(found, settings).rewards, stepped(found, settings))


@given(rows, st.integers(0, 5))
def test_a_delay_keeps_the_sum_of_every_episode(found, delay):
    given_later = with_rewards(found, replace(DELAYED, reward_delay=delay)).rewards
    episode = np.cumsum((found.terminals > 0) | (found.masks == 0)) - ((found.terminals > 0) | (found.masks == 0))
    sums = [np.bincount(episode, weights=rewards) for rewards in (found.rewards, given_later)]
    assert np.array_equal(*sums)


def test_delayed_rewards_come_every_n_steps_of_an_episode_and_at_its_end():
    found = transitions([-1.0] * 9, [False] * 4 + [True] + [False] * 4, [True] * 7 + [False] + [True])
    assert with_rewards(found, replace(DELAYED, reward_delay=2)).rewards.tolist() == [0, -2, 0, -2, -1, 0, -2, -1, -1]
    assert with_rewards(found, DELAYED).rewards.tolist() == [0, 0, 0, 0, -5, 0, 0, -3, -1]


def test_the_goal_alone_is_rewarded_where_the_episode_ends_in_success():
    found = transitions([-1.0, -1.0, 0.0, -1.0], [False] * 4, [True, True, False, True])
    assert with_rewards(found, replace(PLAIN, reward="goal")).rewards.tolist() == [0, 0, 1, 0]


@given(rows, st.integers(1, 5), st.data())
def test_a_replayed_episode_goes_on_as_it_began(found, delay, data):
    """After a kill an environment replays its unfinished episode; another one beside it that replays less is masked."""
    settings = replace(DELAYED, reward_delay=delay)
    expected = stepped(found, settings)
    ends = np.flatnonzero((found.terminals > 0) | (found.masks == 0))
    cut = data.draw(st.integers(0, len(found)))
    first = int(ends[ends < cut].max(initial=-1)) + 1
    online, still = OnlineRewards(settings, 2), np.array([False, False])
    for i in range(first, cut):
        online(np.array([found.rewards[i], 9.0]), still, still, np.array([True, False]))
    again = [
        online(
            np.array([found.rewards[i], 0.0]),
            np.array([found.masks[i] == 0, False]),
            np.array([found.terminals[i] > 0, True]),
        )
        for i in range(cut, len(found))
    ]
    assert [one[0] for one in again] == expected[cut:].tolist()
    assert all(one[1] == 0.0 for one in again)


def test_a_negative_delay_is_refused_by_name():
    with pytest.raises(UserError, match="reward_delay is -1"):
        replace(PLAIN, reward_delay=-1).check()


@pytest.mark.slow
def test_online_rows_are_rewarded_late_and_scores_are_the_tasks(finished_runs: Workplace, tmp_path: Path):
    place = Workplace(tmp_path)
    for name in ("data", "config"):
        shutil.copytree(finished_runs.folder / name, place.folder / name)
    for name, change in (("sparse", "reward: delayed\nreward_delay: 4\n"), ("plain", "")):
        place.method(name, SHORT + change)
        for stage in ("offline", "online"):
            place.train_here(name, stage, (0,))
    tails, results = [], []
    for name in ("sparse", "plain"):
        checkpoints = Checkpoints(place.run(name, 0, "online") / "checkpoint")
        tails.append(checkpoints.load(checkpoints.steps()[-1])["tail"]["rewards"].tolist())
        results.append(read_json(place.run(name, 0, "online") / "evaluation.json")["evaluations"])
    assert tails == [[0, 0, 0, -4, 0, 0, 0, -4, 0, 0], [-1] * 10]
    assert [set(one) for one in results[0]] == [set(one) for one in results[1]]
    assert {one["return"] for one in results[0]} == {one["return"] for one in results[1]}
