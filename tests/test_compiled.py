"""The compiled update is the eager one."""

from __future__ import annotations

import shutil

import pytest
import torch

from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.update import TrainState, Updater, initial_state
from mfql.draws import Draw, DrawStream, generator
from mfql.training.memory import Memory
from mfql.training.step import Step

CPU = torch.device("cpu")
SEEDS, ROWS, UPDATES = [0, 1], 200, 100
SETTINGS = MFQLSettings(
    # Long past the warm-up at the first update, so that weights move.
    offline_steps=1000, online_steps=0, discount=0.9, alpha=1.0, batch_size=16, num_candidates=3, time_steps=8,
    policy_hidden=16, policy_blocks=1, critic_hidden=(16,), warmup_share=0.0, alpha_interval=5, alpha_window=2,
    alpha_threshold=1.01, alpha_warmup=0.0,
)  # fmt: skip


def trained(*, compiled: bool) -> tuple[TrainState, TrainState]:
    """The state before and after the updates, on random rows."""
    agent = MFQL(SETTINGS, (4,), 2)
    state = initial_state(agent, [generator(CPU, seed, "initial") for seed in SEEDS], CPU)
    before = initial_state(agent, [generator(CPU, seed, "initial") for seed in SEEDS], CPU)
    source = generator(CPU, "rows")
    rows = {
        "observations": torch.randn(ROWS, 4, generator=source).numpy(),
        "next_observations": torch.randn(ROWS, 4, generator=source).numpy(),
        "actions": (2 * torch.rand(ROWS, 2, generator=source) - 1).numpy(),
        "rewards": -torch.rand(ROWS, generator=source).numpy(),
        "masks": (torch.rand(ROWS, generator=source) < 0.9).float().numpy(),
    }
    draws = {"rows": Draw("integer", (SETTINGS.batch_size,)), **agent.update_draws()}
    stream = DrawStream(
        {name: Draw(draw.kind, (1, *draw.shape)) for name, draw in draws.items()}, SEEDS, "offline/update", CPU
    )
    updater = Updater(agent, state, 1e9, compiled=compiled)
    step = Step(updater, Memory(rows, len(SEEDS), 0, None, CPU), stream, 1, 0.0)
    for number in range(UPDATES):
        step(number)
    return before, state


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a processor needs g++")
def test_a_hundred_compiled_updates_equal_eager_ones():
    before, eager = trained(compiled=False)
    _, compiled = trained(compiled=True)
    moved = eager.flat["policy"] - before.flat["policy"]
    assert moved.abs().max() > 1e-3
    for name, expected in eager.flat.items():
        torch.testing.assert_close(compiled.flat[name], expected, rtol=0, atol=1e-4)
    for ours, expected in zip(compiled.tensors(), eager.tensors(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    assert eager.own["alpha_moves"].min() > 0
