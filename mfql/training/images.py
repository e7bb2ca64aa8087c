"""Batches of a pixel task: stacked images by index, and random crops."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mfql.agents.interface import Draw
from mfql.data.transitions import StackedImages

# Pixels that a random crop pads each side by.
_PADDING = 3
# Images may take this share of the free memory of a device.
_IMAGE_SHARE = 0.8


class DeviceImages:
    """Stacked images of a pixel task: the images on the device, or in the host's memory where they do not fit.

    Args:
        images: `[F, H, W, C]` uint8.
        indices: of the images of each row `[N, K]`, on the device.
    """

    def __init__(self, images: Tensor, indices: Tensor) -> None:
        self.images, self.indices = images, indices

    @property
    def on_device(self) -> bool:
        """Whether the images lie where the indices do."""
        return self.images.device == self.indices.device

    @classmethod
    def of(cls, fields: Mapping[str, StackedImages], device: torch.device) -> dict[str, DeviceImages]:
        """Fields by name; those that share images share them on the device too."""
        placed = {id(field.images): field.images for field in fields.values()}
        tensors = {key: _place(images, device) for key, images in placed.items()}
        return {
            name: cls(tensors[id(field.images)], torch.as_tensor(field.indices, device=device))
            for name, field in fields.items()
        }

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows `[S, B]` to stacked images `[S, B, H, W, K * C]`, on the device."""
        indices = self.indices[rows]
        taken = self.images[indices.to(self.images.device)].to(indices.device)
        return taken.movedim(2, 4).flatten(4)


def _place(images: np.ndarray, device: torch.device) -> Tensor:
    """The images on the device where they fit beside the training, else memory-mapped on the host."""
    on_host = torch.from_numpy(images)
    if device.type == "cpu":
        return on_host
    free, _ = torch.cuda.mem_get_info(device)
    return on_host.to(device) if images.nbytes < _IMAGE_SHARE * free else on_host


def shift_draws(batch_size: int) -> dict[str, Draw]:
    """The random arrays that `shifted` takes."""
    return {"shift": Draw("uniform", (batch_size, 2)), "augment": Draw("uniform", ())}


def shifted(batch: Mapping[str, Tensor], draws: Mapping[str, Tensor], probability: float) -> dict[str, Tensor]:
    """Random crops of a pixel task's batch: images are padded by 3 pixels of their edges and cut out at a random place.

    Observations and next observations of a row are cut alike. A seed's whole batch is cut, or none of it.

    Args:
        batch: with images `[S, B, H, W, C]`.
        draws: uniform on [0, 1): `shift` `[S, B, 2]`, `augment` `[S]`.
        probability: that a batch is cut.
    """
    places = torch.floor(draws["shift"] * (2 * _PADDING + 1)).long() - _PADDING
    places = torch.where((draws["augment"] < probability).view(-1, 1, 1), places, 0)
    images = {name: _shift(batch[name], places) for name in ("observations", "next_observations")}
    return {**batch, **images}


def _shift(images: Tensor, places: Tensor) -> Tensor:
    """Images `[S, B, H, W, C]` moved by whole pixels `[S, B, 2]` (rows, columns); edges are repeated."""
    seeds, batch, height, width, _ = images.shape
    rows, columns = (
        (torch.arange(size, device=images.device) + places[..., axis, None]).clamp(0, size - 1)
        for axis, size in enumerate((height, width))
    )
    seed = torch.arange(seeds, device=images.device).view(-1, 1, 1, 1)
    row = torch.arange(batch, device=images.device).view(1, -1, 1, 1)
    return images[seed, row, rows.unsqueeze(3), columns.unsqueeze(2)]
