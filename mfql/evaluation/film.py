"""Films: which formats there are, by the ending of a file's name, and frames written as one."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from PIL import Image

from mfql.errors import UserError, install
from mfql.files import write_whole

FRAMES_PER_SECOND = 30
# What Pillow calls the formats that it writes itself, and the codecs of those that ffmpeg does.
_PICTURES = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
_CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}


def require_format(path: Path) -> None:
    """Refuse a file's name whose ending is no format of films, or one that cannot be written here.

    Raises:
        UserError: names the formats.
    """
    ending = path.suffix.lower()
    if ending in _PICTURES or (ending in _CODECS and find_spec("imageio_ffmpeg")):
        return
    if ending in _CODECS:
        raise UserError(f"{path}: {ending} is written by ffmpeg, which is not here", f"{install('video')}, or .gif.")
    said = f"the ending {ending} is" if ending else "a name without an ending says"
    raise UserError(f"{path}: {said} no format of films", f"Name it {', '.join([*_PICTURES, *_CODECS])}.")


def write_film(path: Path, frames: np.ndarray) -> None:
    """Write frames as the film that the file's name says; it begins anew where it can.

    Args:
        frames: [T, H, W, 3], uint8.
    """
    ending = path.suffix.lower()
    with write_whole(path, "wb") as file:
        file.write(_animated(_PICTURES[ending], frames) if ending in _PICTURES else _encoded(ending, frames))


def _encoded(ending: str, frames: np.ndarray) -> bytes:
    # The colours that all players show are of pairs of pixels.
    pairs = frames.shape[1] % 2 == 0 == frames.shape[2] % 2
    options: dict[str, Any] = {"macro_block_size": 1, "pixelformat": "yuv420p" if pairs else "yuv444p"}
    options |= {"codec": _CODECS[ending], "fps": FRAMES_PER_SECOND, "ffmpeg_log_level": "error"}
    return bytes(imageio.imwrite("<bytes>", frames, extension=ending, plugin="FFMPEG", **options))


def _animated(kind: str, frames: np.ndarray) -> bytes:
    first, *others = (Image.fromarray(frame) for frame in frames)
    content = BytesIO()
    first.save(content, kind, save_all=True, append_images=others, duration=1000 / FRAMES_PER_SECOND, loop=0)
    return content.getvalue()
