"""OGBench's layout of a dataset of one's own: an `.npz` file with rewards and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mfql.data.arrays import refuse_missing, refuse_other_lengths
from mfql.data.opening import content_of, open_npz
from mfql.data.own_rows import ANEW, AS_MANY, LAYOUT, MASKS, ROWS, following, with_next_observations
from mfql.data.plausible import refuse_unmarked_ends
from mfql.data.transitions import Transitions
from mfql.data.values import flags, real_numbers, refuse
from mfql.errors import UserError, note

_FLAT = ("rewards", "masks", "terminals")


def read_npz(path: Path, limit: int) -> Transitions:
    """A trajectory's last row is a next observation alone, unless there are `next_observations`.

    Args:
        path: the file.
        limit: the steps after which the environment ends an episode.

    Raises:
        UserError: it cannot be read, lacks an array, or has one of another shape, or values that mean nothing.
    """
    arrays = _arrays(path)
    refuse_other_lengths(path, {name: values.shape for name, values in arrays.items()}, AS_MANY)
    arrays = {name: _shaped(path, name, values, arrays["observations"].shape) for name, values in arrays.items()}
    if len(arrays["rewards"]) == 0:
        raise UserError(f"{path} has no rows", f"Write some, or remove it. {LAYOUT}")
    last = flags(arrays["terminals"], f"{path}: terminals", "Set terminals to 1 in a trajectory's last row, else to 0.")
    if not last[-1]:
        raise UserError(
            f"{path}: the last row does not end its trajectory", "Set terminals to 1 in the last row of each."
        )
    # Of all rows, those that nobody reads among them: what is meant must not hang on which row it stands in.
    refuse((arrays["masks"] < 0) | (arrays["masks"] > 1), f"{path}: masks", "not between 0 and 1", MASKS, "row")
    if "next_observations" in arrays:
        given = Transitions(**{name: arrays[name] for name in (*ROWS, "next_observations")} | {"terminals": last})
        found = with_next_observations(given, str(path))
        unmarked = int((found.terminals & ~last).sum())
        if unmarked and not found.fragmented():
            note(
                f"{path}: next_observations of {unmarked} rows are not those of the row that follows: trajectories end"
                " there, too, though terminals do not say so"
            )
        return found
    kept = np.flatnonzero(~last)
    if len(kept) == 0:
        raise UserError(
            f"{path} has no transition: each of its {len(last)} rows ends a trajectory, and what follows a"
            " trajectory's last row is not in the file",
            "Set terminals to 1 in the last row of each trajectory alone, or write next_observations.",
        )
    ended = arrays["masks"] == 0
    over = ended | np.append(False, ended[:-1])
    refuse_unmarked_ends(arrays["observations"], last, over, limit, str(path))
    rows = {name: arrays[name][kept] for name in ("observations", "actions", "rewards", "masks")}
    return following(rows, last[kept + 1], arrays["observations"][kept + 1])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    wanted = (*ROWS, "next_observations")
    with content_of(path, "is no readable .npz file", ANEW), open_npz(path) as file:
        for name in wanted:
            if name in file and file.header(name)[1].hasobject:
                raise UserError(
                    f"{path}: {name} holds Python's objects",
                    "Write numbers, such as numpy.asarray(rows, numpy.float32) of rows of one length.",
                )
        refuse_missing(path, ROWS, file.names, MASKS if file.names.issuperset(set(ROWS) - {"masks"}) else LAYOUT)
        return {name: file[name] for name in wanted if name in file}


def _shaped(path: Path, name: str, values: np.ndarray, observations: tuple[int, ...]) -> np.ndarray:
    what = f"{path}: {name}"
    if name in _FLAT and values.shape == (*observations[:1], 1):
        note(f"{what} is a column {list(values.shape)}, read as {list(observations[:1])}")
        values = values[:, 0]
    if values.shape[:1] != observations[:1] or values.ndim != (1 if name in _FLAT else 2):
        raise UserError(f"{what} has the shape {list(values.shape)}, observations {list(observations)}", LAYOUT)
    return real_numbers(values, what, "Write numbers.")
