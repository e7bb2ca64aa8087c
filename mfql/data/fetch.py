"""Download OGBench's own datasets."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from mfql.data.description import describe, description_path, split_paths
from mfql.errors import UserError
from mfql.files import write_whole

_TIMEOUT = 60  # seconds without a byte
_BLOCK = 1 << 20
_REMEDY = (
    "Check the network and the dataset's name; or make the dataset with mfql data generate (point mazes, cubes, scene, "
    "puzzles); or copy its two .npz files into the data folder from a machine that has them."
)


def fetch(dataset: str, folder: str | Path, *, base_url: str | None = None, progress: bool = True) -> Path:
    """Download `{dataset}.npz` and `{dataset}-val.npz`, then describe them in `{dataset}.json`.

    Args:
        dataset: such as `antmaze-large-navigate-v0`.
        folder: where to write.
        base_url: the address of the folder that holds the files; None is OGBench's.
        progress: whether to show progress bars.

    Returns:
        The training file's path.

    Raises:
        UserError: no network, no such dataset, a transfer cut short, or a folder that cannot be written.
    """
    if base_url is None:
        from ogbench.utils import DATASET_URL

        base_url = DATASET_URL
    paths = split_paths(folder, dataset)
    description_path(folder, dataset).unlink(missing_ok=True)
    for path in paths.values():
        _download(f"{base_url}/{path.name}", path, progress)
    describe(folder, dataset, "downloaded", seed=None)
    return paths["train"]


def _download(url: str, path: Path, progress: bool) -> None:
    with write_whole(path, "w+b") as file:
        for block in _blocks(url, path.name, progress):
            file.write(block)
        file.seek(0)
        if not zipfile.is_zipfile(file):
            raise UserError(f"{url} is no .npz file", _REMEDY)


def _blocks(url: str, name: str, progress: bool) -> Iterator[bytes]:
    """The content at an address, block by block."""
    from tqdm import tqdm

    received = 0
    try:
        with urlopen(url, timeout=_TIMEOUT) as answer:
            expected = int(answer.headers.get("Content-Length", 0))
            with tqdm(total=expected or None, desc=name, unit="B", unit_scale=True, disable=not progress) as bar:
                while block := answer.read(_BLOCK):
                    received += len(block)
                    bar.update(len(block))
                    yield block
    except HTTPError as error:
        raise UserError(f"{url} answers {error.code} {error.reason}", _REMEDY) from error
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"cannot download {url}: {getattr(error, 'reason', error)}", _REMEDY) from error
    if received < expected:
        raise UserError(f"{url} ended after {received} of {expected} bytes", "Try again.")
