"""Arrays of `.npz` files by their headers, without reading them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from mfql.data.constant import array_header
from mfql.data.description import REPLACE
from mfql.data.opening import content_of
from mfql.data.values import require_real
from mfql.errors import UserError


def check_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]], lacking: str) -> None:
    """Refuse an `.npz` file whose arrays are not those of the environment; reads the arrays' headers alone.

    Args:
        shapes: of a row of each array.
        lacking: what to do about a file that lacks one.

    Raises:
        UserError: the file is absent or unreadable, or lacks an array, or one has another shape or no numbers.
    """
    absent = "Make it with mfql data generate, or mfql data fetch."
    with content_of(path, "is no readable .npz file", REPLACE, absent), zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        headers = {name: array_header(archive, f"{name}.npy") for name in shapes if f"{name}.npy" in names}
    missing = [name for name in shapes if name not in headers]
    if missing:
        raise UserError(f"{path} lacks the arrays {', '.join(missing)}", lacking)
    rows = next(iter(headers.values()))[0][:1]
    for name, (shape, dtype) in headers.items():
        if shape != rows + shapes[name]:
            expected = f"[{rows[0] if rows else 'N'}{''.join(f', {size}' for size in shapes[name])}]"
            raise UserError(
                f"{path}: {name} has the shape {list(shape)}, and the task's environment needs {expected}",
                f"It is the dataset of another environment. {REPLACE}",
            )
        require_real(dtype, f"{path}: {name}", REPLACE)
