"""Balances of two objectives' gradients, which take alpha's place: worked by hand, by seed, and in training."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mfql.agents.balance import combined, weighting_of
from mfql.agents.mfql import MFQLSettings
from mfql.agents.update import Updater, gradients, views_of
from tests.support.updates import SMALL, batch_of, draws_of, make

CPU = torch.device("cpu")


CONFLICT = torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]])
AGREEMENT = torch.tensor([[[1.0, 0.0, 0.0], [3.0, 4.0, 0.0]]])


@pytest.mark.parametrize(
    ("name", "of_conflict", "of_agreement"),
    [
        # Each gradient loses what opposes the other: (1, 0) -> (0.5, 0.5), (-1, 1) -> (0, 1).
        ("upgrad", (0.5, 1.5, 0.0), (4.0, 4.0, 0.0)),
        ("pcgrad", (0.5, 1.5, 0.0), (4.0, 4.0, 0.0)),
        # The sum (0, 1) opposes neither.
        ("dualproj", (0.0, 1.0, 0.0), (4.0, 4.0, 0.0)),
        # The shortest point between the two; of the second pair that is the shorter one.
        ("mgda", (0.2, 0.4, 0.0), (1.0, 0.0, 0.0)),
        # Equal products with both unit gradients, weights that add up to 1.
        ("imtl_g", (1 - 2 / (1 + 2**0.5), 1 / (1 + 2**0.5), 0.0), None),
        ("norms", (1 - 0.5**0.5, 0.5**0.5, 0.0), (1.6, 0.8, 0.0)),
    ],
)
def test_balances_of_two_gradients_worked_by_hand(name, of_conflict, of_agreement):
    for jacobian, expected, conflict in ((CONFLICT, of_conflict, 1.0), (AGREEMENT, of_agreement, 0.0)):
        gradient, told = combined(jacobian, weighting_of(name))
        if expected is not None:
            torch.testing.assert_close(gradient[0], torch.tensor(expected), rtol=0, atol=2e-3)
        assert told["conflict"].tolist() == [conflict]


@pytest.mark.parametrize("ratio", [1.0, 3.0, 10.0, 25.0, 26.0, 100.0, 1000.0])
def test_upgrad_is_pcgrad_but_for_what_torchjd_adds_to_the_gramian(ratio):
    """At 120 degrees; `mfql/agents/balance.py` has the closed form, docs/ablations.md what follows."""
    jacobian = torch.tensor([[1.0, 0.0], [-0.5 * ratio, 0.75**0.5 * ratio]], dtype=torch.float64)
    gramian = jacobian @ jacobian.T

    def weights(regularised: float) -> torch.Tensor:
        lengths = gramian.diagonal().flip(0) + regularised * gramian.trace()
        return (1 - gramian[0, 1] / lengths).flip(0)

    found = {name: weighting_of(name)(gramian[None])[0] for name in ("upgrad", "pcgrad", "dualproj")}
    torch.testing.assert_close(found["upgrad"], weights(1e-4), rtol=1e-9, atol=0)
    torch.testing.assert_close(found["pcgrad"], weights(0.0), rtol=1e-6, atol=0)
    along_the_shorter = {name: (own @ gramian)[0].item() for name, own in found.items()}
    assert along_the_shorter["pcgrad"] == pytest.approx(0.75, rel=1e-4)
    assert (along_the_shorter["upgrad"] < 0) == (ratio > 25)
    assert (along_the_shorter["dualproj"] < 0) == (ratio > 2)
    tiny = 9e-5 * gramian / gramian.trace()
    for name in ("upgrad", "dualproj"):
        torch.testing.assert_close(weighting_of(name)(tiny[None])[0], torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", ["norms", "upgrad", "dualproj", "mgda", "pcgrad", "aligned_mtl", "imtl_g"])
def test_each_seed_is_balanced_by_its_own_gradients_and_a_broken_one_harms_no_other(name):
    broken = torch.full_like(CONFLICT, math.nan)
    together, _ = combined(torch.cat([AGREEMENT, broken, CONFLICT]), weighting_of(name))
    for row, alone in ((0, AGREEMENT), (2, CONFLICT)):
        torch.testing.assert_close(together[row], combined(alone, weighting_of(name))[0][0])
    assert together[1].isnan().any()


def gradients_of(options: MFQLSettings, seeds: list[int]) -> dict[str, torch.Tensor]:
    agent, state = make(seeds, options)

    def losses(flat, batch, draws, own):
        return agent.losses(views_of(agent, flat), batch, draws, own)

    return gradients(agent, state.flat, batch_of(agent, seeds), draws_of(agent, seeds), state.own, losses)[0]


def test_a_balance_leaves_the_critic_alone_and_without_conflict_is_alphas_sum():
    seeds = list(range(6))
    plain = gradients_of(SMALL, seeds)
    agent, state = make(seeds, replace(SMALL, balance="upgrad"))
    balanced = gradients_of(agent.settings, seeds)
    torch.testing.assert_close(balanced["critic"], plain["critic"])
    updater = Updater(agent, state, 1e9)
    updater(batch_of(agent, seeds), draws_of(agent, seeds))
    conflicts = state.logged["conflict"].bool()
    assert 0 < conflicts.sum() < len(seeds)  # The test is about both.
    scale = plain["policy"].norm(dim=1)
    off = (balanced["policy"] - plain["policy"]).norm(dim=1) / scale
    assert (off[~conflicts] < 1e-3).all()
    assert (off[conflicts] > 1e-2).all()


def test_equal_norms_make_alpha_irrelevant():
    low, high = (gradients_of(replace(SMALL, balance="norms", alpha=alpha), [0, 1]) for alpha in (0.5, 50.0))
    torch.testing.assert_close(low["policy"], high["policy"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("balance", ["norms", "upgrad", "dualproj", "mgda", "pcgrad", "aligned_mtl", "imtl_g"])
def test_every_balance_trains_and_is_not_compiled(balance):
    agent, state = make([0, 1], replace(SMALL, balance=balance))
    before = state.flat["policy"].clone()
    updater = Updater(agent, state, 1e9)
    for index in range(3):
        updater(batch_of(agent, [0, 1], index), draws_of(agent, [0, 1], index))
    assert state.active.all()
    assert (state.flat["policy"] != before).any(1).all()
    with pytest.raises(ValueError, match="cannot be compiled"):
        Updater(agent, state, 1e9, compiled=True)
