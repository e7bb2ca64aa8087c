"""What the released code does otherwise than the paper says, rule by rule, against the rule written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfql.errors import UserError
from mfql.settings import Settings
from mfql.training.memory import Memory
from mfql.training.stopping import no_longer_improves

PLAIN = Settings(offline_steps=100, online_steps=40, discount=0.9)

# --- early stopping ---------------------------------------------------------------------------------------------------

SUCCESS = replace(PLAIN, early_stopping=6, early_stopping_rule="success")


def stops_at(scores: list[float], metric: str, rule: Settings) -> int | None:
    """The evaluation, from 0 on, after which a run stops; None if it goes on to the end."""
    ends = (end for end in range(len(scores)) if no_longer_improves(scores[: end + 1], metric, rule))
    return next(ends, None)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # The evaluation at step 0 counts: six without a new best one after it.
        ([10, 8, 8, 8, 8, 8, 8], 6),
        # Without any success it is no best one: at 500,000 the sixth has none.
        ([0, 0, 0, 0, 0, 0, 0], 5),
        ([0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0], 11),
        ([0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20], None),
        # An equal score is no better.
        ([50] * 11, 6),
        ([0, 50, 20, 20, 20, 20, 20, 52, 20, 20, 20], None),
    ],
)
def test_by_the_released_rule_a_run_stops_after_six_evaluations_without_a_new_best_success(scores, expected):
    assert stops_at(scores, "success", SUCCESS) == expected


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(1, 10))
def test_by_the_released_rule_a_task_without_success_never_stops(scores, patience):
    rule = replace(SUCCESS, early_stopping=patience)
    assert stops_at(scores, "normalized_return", rule) is None
    assert stops_at(scores, "return", rule) is None


@given(st.lists(st.integers(0, 50).map(lambda count: 2.0 * count), min_size=1, max_size=30), st.integers(1, 10))
def test_the_released_rule_is_a_counter_that_a_new_best_success_sets_back(scores, patience):
    counter, best, expected = 0, -1.0, None
    for number, score in enumerate(scores):
        better = score > max(best, 0.0)
        counter, best = (0, score) if better else (counter + 1, best)
        if counter >= patience:
            expected = number
            break
    assert stops_at(scores, "success", replace(SUCCESS, early_stopping=patience)) == expected


def test_by_the_scores_rule_the_first_evaluation_is_the_best_one_whatever_it_is():
    rule = replace(PLAIN, early_stopping=6)
    assert stops_at([0.0] * 8, "success", rule) == 6
    assert stops_at([-5.0] * 8, "normalized_return", rule) == 6
    assert stops_at([0.0] * 8, "success", PLAIN) is None


def test_a_rule_that_has_no_effect_is_refused():
    with pytest.raises(UserError, match="early_stopping_rule is success"):
        replace(SUCCESS, early_stopping=0).check()


# --- the online part's buffer -----------------------------------------------------------------------------------------

CPU = torch.device("cpu")


class Buffer:
    """A buffer as the released code has it: it begins with a dataset, and its size is where the next row goes."""

    def __init__(self, rows: int, least: int) -> None:
        self.slots: list[int] = [*range(rows), *[-1] * (max(least, rows + 1) - rows)]
        self.size = self.pointer = rows

    def add(self, row: int) -> None:
        """The row takes the place of the oldest one."""
        self.slots[self.pointer] = row
        self.pointer = (self.pointer + 1) % len(self.slots)
        self.size = max(self.pointer, self.size)

    def draw(self, index: int) -> tuple[int, int]:
        """The row that a large number draws, and the row in the following slot."""
        slot = index % self.size
        return self.slots[slot], self.slots[min(slot + 1, self.size - 1)]


def numbered(rows: int, capacity: int, seeds: int = 2, share: float | None = None, **options) -> Memory:
    """A memory whose rows, here and in `append_numbered`, hold their own number and, as action, minus it."""
    numbers = np.arange(rows, dtype=np.float32)
    fields = {"rewards": numbers, "masks": np.ones_like(numbers), "actions": -numbers[:, None]}
    return Memory(fields, seeds, capacity, share, CPU, **options)


def append_numbered(memory: Memory, row: int, seeds: int = 2) -> None:
    number = torch.full((seeds,), float(memory.size + row))
    memory.append(row, {"rewards": number, "masks": torch.ones(seeds), "actions": -number.unsqueeze(1)})


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 60), st.integers(0, 2**40))
def test_rows_are_drawn_as_from_a_buffer_that_overwrites_its_oldest_row(rows, least, online, first):
    memory = numbered(rows, max(online, 1), replay_rows=least, next_row_actions=True)
    buffer = Buffer(rows, least)
    indices = torch.arange(first, first + 2 * (rows + online + least)).expand(2, -1)
    for row in range(-1, online):
        if row >= 0:
            append_numbered(memory, row)
            buffer.add(rows + row)
        batch = memory.batch(indices)
        drawn = [buffer.draw(index) for index in indices[0].tolist()]
        for seed in range(2):
            assert batch["rewards"][seed].tolist() == [float(row) for row, _ in drawn]
            assert (-batch["next_row_actions"][seed, :, 0]).tolist() == [float(following) for _, following in drawn]


def test_of_two_million_rows_the_datasets_oldest_go_first():
    """As of humanoidmaze-medium: N = 2,000,000, so that the buffer has one slot more, which is never drawn."""
    memory = numbered(20, 10, replay_rows=20)
    for row in range(10):
        append_numbered(memory, row)
    drawn = set(memory.batch(torch.arange(1000).expand(2, -1))["rewards"].flatten().tolist())
    # Ten rows came; the first of them lies in the last slot, and nine of the dataset's are overwritten.
    assert drawn == set(range(9, 20)) | set(range(21, 30))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 2**40))
def test_a_buffer_that_is_never_full_draws_what_one_that_keeps_everything_draws(rows, online, first):
    both = [numbered(rows, 20), numbered(rows, 20, replay_rows=rows + 21)]
    for memory in both:
        for row in range(online):
            append_numbered(memory, row)
    indices = torch.arange(first, first + 100).expand(2, -1)
    kept, buffered = (memory.batch(indices)["rewards"] for memory in both)
    assert torch.equal(kept, buffered)
    assert kept[0].tolist() == [float(index % (rows + online)) for index in indices[0].tolist()]


def places_of(memory: Memory) -> list[int]:
    return [value.data_ptr() for value in (*memory.rows.values(), *memory.tail.values(), memory.filled)]


def test_a_buffer_has_no_copy_of_the_dataset_and_its_tensors_stay_where_they_are():
    memory = numbered(4, 6, replay_rows=5)
    places = places_of(memory)
    for row in range(6):
        append_numbered(memory, row)
        memory.batch(torch.arange(8).expand(2, -1))
    assert memory.rows["rewards"].shape == (4,)
    assert memory.tail["rewards"].shape == (2, 6)
    assert places_of(memory) == places


def test_rows_of_the_dataset_are_had_by_number_whatever_was_overwritten():
    for options in ({"replay_rows": 5}, {"share": 0.5}):
        memory = numbered(4, 6, **options)
        for row in range(6):
            append_numbered(memory, row)
        assert memory.dataset_rows(torch.tensor([[0, 3], [1, 2]]))["rewards"].tolist() == [[0, 3], [1, 2]]


def test_a_following_rows_action_is_that_of_another_trajectory_and_the_last_rows_own():
    memory = numbered(3, 0, next_row_actions=True)
    assert memory.batch(torch.arange(3).expand(2, -1))["next_row_actions"][0, :, 0].tolist() == [-1, -2, -2]
