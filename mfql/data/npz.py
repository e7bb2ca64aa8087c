"""Arrays of `.npz` files by their headers, without reading them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mfql.data.arrays import refuse_missing, refuse_other_lengths
from mfql.data.description import REPLACE
from mfql.data.opening import content_of, open_npz
from mfql.data.values import require_real
from mfql.errors import UserError


def check_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]], lacking: str, mapped: Collection[str] = ()) -> None:
    """Refuse an `.npz` file whose arrays are not those of the environment; reads the arrays' headers alone.

    Args:
        shapes: of a row of each array.
        lacking: what to do about a file that lacks one.
        mapped: the arrays that are not read into memory; for all others there must be some.

    Raises:
        UserError: the file is absent or unreadable, or lacks an array, or one has another shape, no numbers, or more of
            them than there is memory for.
    """
    absent = "Make it with mfql data generate, or mfql data fetch."
    with content_of(path, "is no readable .npz file", REPLACE, absent), open_npz(path) as arrays:
        headers = {name: arrays.header(name) for name in shapes if name in arrays}
        for name in headers.keys() - set(mapped):
            arrays.require(name)
        refuse_missing(path, shapes, arrays.names, lacking)
    refuse_other_lengths(path, {name: shape for name, (shape, _) in headers.items()}, REPLACE)
    rows = next(iter(headers.values()))[0][:1]
    for name, (shape, dtype) in headers.items():
        if shape != rows + shapes[name]:
            expected = f"[{rows[0] if rows else 'N'}{''.join(f', {size}' for size in shapes[name])}]"
            raise UserError(
                f"{path}: {name} has the shape {list(shape)}, and the task's environment needs {expected}",
                f"It is the dataset of another environment. {REPLACE}",
            )
        require_real(dtype, f"{path}: {name}", REPLACE)
