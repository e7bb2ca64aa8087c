"""The online part's buffer: rows that overwrite the oldest, drawn as the released code draws them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfql.errors import UserError
from mfql.training.memory import Memory
from tests.support.training_runs import Workplace

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


def test_a_buffer_is_refused_where_dataset_and_online_rows_are_drawn_apart(tmp_path):
    place = Workplace.make(tmp_path)
    place.method("apart", "inherits: rlpd-miniature\nonline: {replay_rows: 100}\n")
    with pytest.raises(UserError, match="replay_rows is 100, which has no effect"):
        place.train_here("apart", "online", (0,))
