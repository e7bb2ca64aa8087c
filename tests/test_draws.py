"""Random numbers: a draw is a function of seed, purpose and step alone, and blocks hardly ever coincide."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfql.draws import BLOCK, Draw, DrawStream, generator

CPU = torch.device("cpu")


def test_a_processors_generator_uses_the_lower_32_bits_of_a_seed():
    first, same, other = (torch.Generator().manual_seed(seed) for seed in (5, 5 + (3 << 32), 6))
    for draw in (torch.randn, torch.rand, partial(torch.randint, 2**62)):
        values = [draw((200,), generator=source) for source in (first, same, other)]
        assert torch.equal(values[0], values[1])
        assert not torch.equal(values[0], values[2])


def test_blocks_coincide_as_rarely_as_32_bits_let_them_and_never_at_one_step_of_two_seeds():
    seeds, blocks = range(8), range(1_000_000 // BLOCK)
    streams = [
        [generator(CPU, seed, "offline/update", block).initial_seed() % 2**32 for seed in seeds] for block in blocks
    ]
    assert all(len(set(of_block)) == len(seeds) for of_block in streams)
    count = len(seeds) * len(blocks)
    coincident = count - len({stream for of_block in streams for stream in of_block})
    assert coincident == 2
    assert count * (count - 1) / 2**33 == pytest.approx(1.8, abs=0.05)  # as many are expected
    one, two = (DrawStream({"noise": Draw("normal", (4,))}, [seed], "offline/update", CPU) for seed in (0, 1))
    assert torch.equal(one.block(6578)["noise"], two.block(5727)["noise"])
    assert not torch.equal(one.block(6578)["noise"], two.block(6578)["noise"])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    others=st.lists(st.integers(0, 1000), max_size=3),
    index=st.integers(0, 3 * BLOCK),
    detour=st.lists(st.integers(0, 3 * BLOCK), max_size=4),
)
def test_a_draw_depends_on_its_key_and_index_alone(seed, others, index, detour):
    draws = {"noise": Draw("normal", (3,)), "rows": Draw("integer", (2,))}
    alone = DrawStream(draws, [seed], "purpose", CPU).at(index)
    stream = DrawStream(draws, [*others, seed], "purpose", CPU)
    for other in detour:
        stream.at(other)
    among = stream.at(index)
    assert all(torch.equal(alone[name][0], among[name][-1]) for name in draws)


def test_other_purposes_and_indices_draw_other_numbers():
    draws = {"noise": Draw("normal", (4,))}
    first = DrawStream(draws, [0], "a", CPU)
    values = [
        first.at(0)["noise"],
        first.at(1)["noise"],
        first.at(BLOCK)["noise"],
        DrawStream(draws, [0], "b", CPU).at(0)["noise"],
    ]
    assert len({tuple(value.flatten().tolist()) for value in values}) == 4
