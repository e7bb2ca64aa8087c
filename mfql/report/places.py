"""What results that are given away leave out: where they lay on a machine, and what the machine was called."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

# An absolute path in a text; of an address, a closing tag or a fraction it is no part.
_PATH = re.compile(r"(?<![\w.~:/<+=%$&;@*-])/(?:[\w.~@+=,%-]+/)+[\w.~@+=,%-]*")
_ALIAS = re.compile(r"host-[0-9a-f]{8}")
_HOST = "host"


def alias(host: str) -> str:
    """A name for a host that does not tell the host's own: the same for the same host, everywhere."""
    if _ALIAS.fullmatch(host):
        return host
    return f"{_HOST}-{hashlib.sha256(f'mfql {host}'.encode()).hexdigest()[:8]}"


def without_places(text: str) -> str:
    """A text with each absolute path cut to its last name, and paths below the current folder to what follows it."""
    here = f"{Path.cwd()}/"
    home = str(Path.home())
    if here != "//":
        text = text.replace(here, "")
    if home != "/":  # Also where its name has blanks, which no pattern could tell from the text around.
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    return _PATH.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], text)


def without_machine(value: Any) -> Any:
    """What a manifest says, with `alias` for hosts and without absolute paths."""
    if isinstance(value, dict):
        return {
            key: alias(item) if key == _HOST and isinstance(item, str) else without_machine(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    return without_places(value) if isinstance(value, str) else value
