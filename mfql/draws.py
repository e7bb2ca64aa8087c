"""Random numbers as arguments: block k of purpose p for key s is a pure function of (s, p, k).

Each block has a fresh generator. No generator's state is ever saved, and neither evaluation intervals, nor resume
points, nor the other seeds of a job can shift a draw.

A key becomes a seed of 63 bits. On a processor torch's generator uses the lower 32 bits of a seed, so that there two
blocks have the same stream of random bits with probability 2^-32: among n blocks n (n - 1) / 2^33 such pairs are to be
expected. Those are 0.03 among the 15,625 blocks of a run's 1,000,000 updates, and 16 among the 375,000 blocks of the
updates and online actions of eight seeds that train 1,000,000 steps offline and as many online (of seeds 0 to 7 there
are 15). Of such a pair 64 updates draw what 64 others draw, at another time or in another seed; or, of two purposes,
the same bits in other shapes. In none of the 15 do two seeds draw the same at the same step. On CUDA torch draws by
Philox, whose seed has 64 bits by cuRAND's documentation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mfql.agents.interface import Draw

# Draws of this many consecutive indices come from one generator.
BLOCK = 64
# Row indices are drawn below this and taken modulo the rows present.
_LARGEST_INDEX = 2**62


def derived_seed(*key: object) -> int:
    """A whole number below 2^31 that depends on every part of the key; two keys share one with probability 2^-31."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 2**31


def generator(device: torch.device, *key: object) -> torch.Generator:
    """A fresh generator for a key; the module's first lines say how surely two keys have different ones."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


class DrawStream:
    """Draws of one purpose for several keys, index by index.

    Args:
        draws: what each index takes, by name.
        keys: one for each position of the leading axis, such as the seeds.
        purpose: what the draws are for.
        device: where they are made and used; the numbers depend on its kind.
    """

    def __init__(self, draws: Mapping[str, Draw], keys: Sequence[object], purpose: str, device: torch.device) -> None:
        self.draws, self.keys, self.purpose, self.device = dict(draws), list(keys), purpose, device
        self._block = -1
        self._arrays: dict[str, Tensor] = {}

    def at(self, index: int) -> dict[str, Tensor]:
        """The draws of an index, each `[keys, *shape]`."""
        block, offset = divmod(index, BLOCK)
        if block != self._block:
            self._arrays, self._block = self.block(block), block
        return {name: array[offset] for name, array in self._arrays.items()}

    def block(self, block: int) -> dict[str, Tensor]:
        """The draws of the indices from `block * BLOCK` on, each `[BLOCK, keys, *shape]`."""
        arrays = {
            name: torch.empty(
                (BLOCK, len(self.keys), *draw.shape),
                device=self.device,
                dtype=torch.int64 if draw.kind == "integer" else torch.float32,
            )
            for name, draw in self.draws.items()
        }
        for position, key in enumerate(self.keys):
            source = generator(self.device, key, self.purpose, block)
            for name, draw in self.draws.items():
                arrays[name][:, position] = _fill(draw, source, self.device)
        return arrays


def _fill(draw: Draw, source: torch.Generator, device: torch.device) -> Tensor:
    shape = (BLOCK, *draw.shape)
    if draw.kind == "normal":
        return torch.randn(shape, generator=source, device=device)
    if draw.kind == "uniform":
        return torch.rand(shape, generator=source, device=device)
    return torch.randint(0, _LARGEST_INDEX, shape, generator=source, device=device)
