"""What a seed's training holds on its device, in bytes: asked of an agent where torch is, and told where it is not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """Bytes of one seed, by what holds them.

    Args:
        parameters: numbers, targets not counted.
        state: all that training carries from one update to the next: weights, targets, both moments of Adam, the
            method's own; without the sums for the log, which are a few numbers.
        draws: random arrays of a block of steps with one update each.
        update: the most that an update holds beside state, draws and rows: batch, activations, gradients, Adam's.
        acting: the most that an evaluation's acting and diagnostics hold.
        updates_per_step: of the online part.
        fields: of a transition that are kept beside the usual.
        known: False of an assumption.
    """

    parameters: int
    state: int
    draws: int
    update: int
    acting: int
    updates_per_step: int
    fields: tuple[str, ...]
    known: bool = True
