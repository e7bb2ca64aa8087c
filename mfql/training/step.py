"""One step's updates: draws, rows, losses, gradients, optimiser, targets, with no Python decision on a tensor's value.

On CUDA the whole step is captured once as a graph and replayed: a step is one launch, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mfql.agents.update import Updater
from mfql.draws import BLOCK, DrawStream
from mfql.training.compiled import CompiledUpdate
from mfql.training.images import shifted
from mfql.training.memory import Memory

# Updates before a capture, which compile and choose algorithms; they leave no trace in the state.
_WARM_UP = 3


class Step:
    """Runs the updates of a step, by its number.

    Args:
        updater: updates the state in place.
        memory: gives the rows.
        stream: draws of a step, each `[seeds, updates, *shape]`; `rows` are row indices.
        updates: of a step.
        augment_probability: of random crops, for pixel tasks.
        captured: capture the step as a CUDA graph; needs an agent that is `compilable`.

    Raises:
        ValueError: `captured`, and the agent's update cannot be.
    """

    def __init__(
        self,
        updater: Updater | CompiledUpdate,
        memory: Memory,
        stream: DrawStream,
        updates: int,
        augment_probability: float,
        *,
        captured: bool = False,
    ) -> None:
        if captured and not updater.agent.compilable:
            raise ValueError("an update whose objectives are weighed on the processor cannot be captured")
        self.updater, self.memory, self.stream = updater, memory, stream
        self.updates, self.augment_probability, self.captured = updates, augment_probability, captured
        self._block = -1
        # At addresses that never change: a graph reads them again at each replay.
        self._draws: dict[str, Tensor] = {}
        self._offset = torch.zeros(1, dtype=torch.int64, device=stream.device)
        self._run: Callable[[], None] | None = None

    def __call__(self, step: int) -> None:
        """The updates of a step."""
        block, offset = divmod(step, BLOCK)
        if block != self._block:
            self._load(block)
        self._offset.fill_(offset)
        if self._run is None:
            self._run = self._capture() if self.captured else self._update
        self._run()

    def _load(self, block: int) -> None:
        drawn = self.stream.block(block)
        if self._draws:
            for name, array in drawn.items():
                self._draws[name].copy_(array)
        else:
            self._draws = drawn
        self._block = block

    def _update(self) -> None:
        draws = {name: array.index_select(0, self._offset)[0] for name, array in self._draws.items()}
        for repeat in range(self.updates):
            one = {name: value[:, repeat] for name, value in draws.items()}
            batch = self.memory.batch(one.pop("rows"))
            if self.memory.images:
                batch = shifted(batch, one, self.augment_probability)
            self.updater(batch, one)

    def _capture(self) -> Callable[[], None]:
        state = self.updater.state
        before = [(tensor, tensor.clone()) for tensor in state.tensors()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._update()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._update()
        for total in state.logged.values():
            total.zero_()  # The first update makes them.
        for tensor, value in before:
            tensor.copy_(value)
        return graph.replay
