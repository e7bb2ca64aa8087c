"""What results that are given away leave out: where they lay on a machine, and what the machine was called."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mfql.documents import read_json, write_json
from mfql.errors import UserError

# An absolute path in a text; an address, a fraction, a closing tag and an image in base64 have none.
_PATH = re.compile(r"(?<![\w.~:/<+%$&;@*-])(?<!base64,)/(?:[\w.~@+=,%-]+/)+[\w.~@+=,%-]*")
NOWHERE = "nowhere:"
_HOST = "host"
_ALIAS = re.compile(r"host-[0-9a-f]{8}")
# What a run's identity rests on in its manifest, and the files whose sha256 stand there.
_MANIFEST, _IDENTIFYING = "manifest.json", ("agent", "settings", "dataset")
_VOUCHED_FOR, _TEXTS = ("evaluation.json", "policy.json", "metrics.csv"), (".csv", ".json", ".md", ".svg")


def alias(host: str) -> str:
    """A name for a host that does not tell the host's own: the same for the same host, everywhere."""
    if _ALIAS.fullmatch(host):
        return host
    return f"{_HOST}-{hashlib.sha256(f'mfql {host}'.encode()).hexdigest()[:8]}"


def home() -> Path:
    """The home of whoever runs this; the root for a user without one, as in a container."""
    found = Path(os.path.expanduser("~"))
    return found if found.is_absolute() else Path("/")


def without_places(text: str) -> str:
    """A text with each absolute path cut to its last name, and one below the current folder to what follows that."""
    if "/" not in text:
        return text
    here, own = os.getcwd(), str(home())
    # These two also where their names have blanks, which no pattern tells from the text around.
    if here != "/":
        text = re.sub(rf"(?<![\w.-]){re.escape(here)}/", "", text)
    if own != "/":
        text = re.sub(rf"(?<![\w.-]){re.escape(own)}(?![\w.-])", "~", text)
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


def link(path: Path, folder: Path) -> str:
    """The address of a file or folder from a page in `folder`; `NOWHERE` if it led through a folder above the home."""
    common = Path(os.path.commonpath([path.absolute(), folder.absolute()]))
    if common in (Path("/"), *home().parents):
        return NOWHERE
    return quote(os.path.relpath(path, folder))


def without_dead_links(page: str) -> str:
    """A page in which what links to `NOWHERE`, or below it, is text."""
    return re.sub(rf'<a href="{NOWHERE}[^"]*">(.*?)</a>', r"\1", page)


def copy_given(source: Path, target: Path) -> None:
    """Copy a file without what it says of the machine; what a manifest vouches for is copied byte for byte.

    Raises:
        UserError: what must stay as it is names a folder of the machine, or a text is none.
    """
    if source.name == _MANIFEST:
        manifest = read_json(source)
        given = without_machine(manifest)
        for key in _IDENTIFYING:
            if given.get(key) != manifest.get(key):
                raise UserError(
                    f"{source} names a folder of this machine in its {key}, on which the run's identity rests",
                    "An agent in agents/ of an extension is named without a path: its runs can be given away.",
                )
        write_json(target, given)
    elif source.suffix in _TEXTS and source.name not in _VOUCHED_FOR:
        try:
            text = source.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{source} is no text in UTF-8: {error}", "Write it anew, then give it away.") from error
        target.write_bytes(without_places(text).encode())
    else:
        shutil.copyfile(source, target)
    if home() != Path("/") and os.fsencode(home()) in target.read_bytes():
        raise UserError(f"{source} names {home()}, and what it says is vouched for", "It cannot be given away.")
