"""Every method's step on torch's meta device, whose tensors have a shape and a device and no numbers.

Who asks for a number fails there: `.item()`, `bool()`, `.cpu()`, `nonzero`. On a GPU that is what makes the processor
wait, and what cannot be captured as a graph. Within a step a tensor of another device fails too.

One thing is not the product's: torch has no generator for the meta device, so that a block's draws, which on a GPU
come from a generator there, are asked of the processor's; they are filled on the meta device all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mfql.agents.interface import Agent, Losses, load_agent
from mfql.agents.update import views_of
from mfql.data.transitions import Dataset, StackedImages, Transitions
from mfql.declared import agent_stages
from mfql.draws import BLOCK, DrawStream, generator
from mfql.experiment.run import RunFolder
from mfql.methods import raw_settings
from mfql.settings import build_settings
from mfql.tasks import find_task
from mfql.training.loop import Execution, Trainer
from tests.support.choices import AGENTS, CONFIG, METHODS, TASK, choices, solved

pytestmark = pytest.mark.slow

META, CPU = torch.device("meta"), torch.device("cpu")
PIXELS = "visual-cube-single-play-singletask-task1-v0"
SEEDS, ROWS, OBSERVATIONS, ACTIONS, SIDE, FRAMES = (0, 1), 40, 69, 21, 64, 3
# The methods at the paper's sizes: here the rows of a million online steps take no memory.
STAGES = [
    (method, stage) for method in METHODS for stage in ("offline", "online") if stage in agent_stages(AGENTS[method])
]
# What decides in a step and is no choice of a few.
MORE = [
    "mfql+precision=bf16",
    "mfql+replay_rows=60",
    "mfql+derivative_interval=4",
    "mfql+generation_steps=2+sample_b=true",
    "mfql+acting_candidates=3",
    "mfql-released",
    "rlpd+updates_per_step=2",
]


class OneDevice(TorchDispatchMode):
    """Every tensor that an operation takes or gives is on the meta device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, found)) if isinstance(one, Tensor)]
        # Forward-mode differentiation gives a Python number a derivative of zero, which has no memory anywhere.
        elsewhere = {str(one.device) for one in tensors if not one._is_zerotensor()} - {"meta"}
        assert not elsewhere, f"{func} in a step has a tensor on {elsewhere.pop()}"
        return found


class NoHostData(TorchFunctionMode):
    """No tensor is made of Python's or numpy's numbers: on a GPU each is a copy from the host.

    The meta device leaves that copy out, so that no operation shows it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), (
            f"{func.__name__} in a step copies from the host"
        )
        return func(*args, **(kwargs or {}))


@contextmanager
def within_a_step() -> Iterator[None]:
    with NoHostData(), OneDevice():
        yield


@pytest.fixture(autouse=True)
def draws(monkeypatch):
    monkeypatch.setattr("mfql.draws.generator", lambda device, *key: generator(CPU, *key))


def dataset(pixels: bool = False) -> Dataset:
    rng = np.random.default_rng(0)
    observations: Any = rng.standard_normal((ROWS, OBSERVATIONS), dtype=np.float32)
    if pixels:
        images = rng.integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8)
        observations = StackedImages(images, np.tile(np.arange(ROWS)[:, None], FRAMES))
    terminals = np.zeros(ROWS, np.float32)
    terminals[-1] = 1.0
    fields = {
        "observations": observations,
        "actions": rng.uniform(-0.9, 0.9, (ROWS, ACTIONS)).astype(np.float32),
        "rewards": -np.ones(ROWS, np.float32),
        "masks": np.ones(ROWS, np.float32),
        "terminals": terminals,
        "next_observations": observations,
    }
    size = 1 if pixels else OBSERVATIONS
    mean, std = np.zeros(size, np.float32), np.ones(size, np.float32)
    return Dataset(
        **fields, val=Transitions(**fields), observation_mean=mean, observation_std=std, sha256="", name="", source=""
    )


def trainer_of(
    method: str, stage: str, *, pixels: bool = False, of: Callable[[type[Agent]], type[Agent]] = lambda kind: kind
) -> Trainer:
    """A job of two seeds, made as a run's is; the agent's class is `of` the method's."""
    task = PIXELS if pixels else TASK
    raw = raw_settings(method, task, stage, CONFIG)
    kind = of(load_agent(raw.pop("agent")))
    data = dataset(pixels)
    agent = kind(build_settings(kind.settings_type, raw, method), data.observations.shape[1:], ACTIONS)
    runs = [RunFolder(Path("results"), method, task, seed, stage) for seed in SEEDS]
    return Trainer(agent, data, find_task(task, CONFIG), runs, Execution(META, workers=0))


def step(trainer: Trainer, number: int) -> None:
    """What the device does in a step: the updates and, online, the new row."""
    memory = trainer.memory
    row = {name: value.new_zeros(len(SEEDS), *value.shape[2:]) for name, value in memory.tail.items()}
    with within_a_step():
        trainer._update(number)
        if trainer.online:
            memory.append(number, row)


@torch.no_grad()
def between_steps(trainer: Trainer) -> None:
    """The networks' part of acting and evaluating."""
    agent, memory, state = trainer.agent, trainer.memory, trainer.state
    drawn = {name: value[:, 0] for name, value in trainer._stream("diagnose", agent.diagnose_draws()).at(0).items()}
    noises = [
        None
        if draw is None
        else DrawStream({"noise": type(draw)(draw.kind, (1, *draw.shape))}, SEEDS, "act", META).at(0)["noise"]
        for draw in (agent.act_draw(), agent.explore_draw())
    ]
    with within_a_step():
        parameters, batch = views_of(agent, state.flat), memory.batch(drawn.pop("rows"))
        values = agent.diagnostics(parameters, batch, drawn, state.own)
        first = batch["observations"][:, :1]
        actions = [
            choose(agent.prepared(parameters), first, noise)
            for choose, noise in zip((agent.act, agent.explore), noises, strict=True)
        ]
        agent.data_values(parameters, batch)
    assert all(value.shape == (len(SEEDS),) for value in values.values())
    assert all(one.shape == (len(SEEDS), 1, ACTIONS) for one in actions)


def trains(trainer: Trainer) -> None:
    for number in (0, BLOCK):  # The second reads draws of another block.
        step(trainer, number)
    between_steps(trainer)
    assert all(tensor.device == META for tensor in trainer.state.tensors())


@pytest.mark.parametrize(("method", "stage"), STAGES)
def test_a_step_asks_for_no_number_and_stays_on_its_device(method, stage):
    trains(trainer_of(method, stage))


@pytest.mark.parametrize("method", [*choices(), *MORE])
def test_so_it_does_with_each_choice_of_a_setting(method):
    trains(trainer_of(method, "online"))


@pytest.mark.parametrize("method", solved())
def test_what_is_solved_on_the_processor_is_found_and_never_captured(method):
    trainer = trainer_of(method, "offline")
    assert not trainer.agent.compilable
    # The second is torch's, where the compiler's modules are loaded already.
    with pytest.raises((AssertionError, NotImplementedError), match=r"a tensor on cpu|copy out of meta tensor"):
        step(trainer, 0)


@pytest.fixture
def room_for_images(monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (2**40, 2**40))


@pytest.mark.parametrize("method", [method for method, stage in STAGES if stage == "offline"])
def test_a_step_on_images_that_lie_on_the_device_stays_there(room_for_images, method):
    trains(trainer_of(method, "offline", pixels=True))


def test_images_that_do_not_fit_on_the_device_are_found_and_never_captured(monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 2**40))
    trainer = trainer_of("mfql", "offline", pixels=True)
    assert not any(images.on_device for images in trainer.memory.images.values())
    with pytest.raises((AssertionError, NotImplementedError)):
        step(trainer, 0)


def item(loss: Tensor) -> Tensor:
    return loss / loss[0].item()


def condition(loss: Tensor) -> Tensor:
    return loss if loss[0] > 0 else -loss


def copied(loss: Tensor) -> Tensor:
    return loss * float(loss.detach().cpu().mean())


def places(loss: Tensor) -> Tensor:
    return loss[torch.nonzero(loss)[:, 0]]


def elsewhere(loss: Tensor) -> Tensor:
    return loss * torch.ones(len(SEEDS))


def one_number_elsewhere(loss: Tensor) -> Tensor:
    return loss * torch.ones(())


def index_elsewhere(loss: Tensor) -> Tensor:
    return loss[torch.arange(len(SEEDS))]


def host_data(loss: Tensor) -> Tensor:
    return loss * torch.tensor([1.0, 2.0], device=loss.device)


@pytest.mark.parametrize(
    "fault", [item, condition, copied, places, elsewhere, one_number_elsewhere, index_elsewhere, host_data]
)
def test_a_fault_in_a_losss_arithmetic_fails_a_step(fault):
    def faulty(kind: type[Agent]) -> type[Agent]:
        class Faulty(kind):
            def losses(self, *given: Any) -> Losses:
                loss, info = super().losses(*given)
                return fault(loss), info

        return Faulty

    with pytest.raises((AssertionError, RuntimeError)):  # Of which NotImplementedError is one.
        step(trainer_of("flow_bc", "offline", of=faulty), 0)
