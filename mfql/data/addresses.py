"""Addresses of files: what is shown of them, since a mirror's may hold a password or a token."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from mfql.errors import in_one_line

# Of a text that may hold addresses: who asks (user:password@, perhaps with a slash that should have been escaped: a
# host and a path with @ look like that, and go too), and what is asked for beside the path (?token=...).
_WHO = re.compile(r"(?:(?<=://)|^(?!\w+://))\S*@")
_ASKED = re.compile(r"\?\S+")


def shown(text: str) -> str:
    """An address, or a text that may hold some, without credentials: what stands before `@`, and what after `?`.

    It is one line: a server words some of the messages.
    """
    return in_one_line(_ASKED.sub("?...", _WHO.sub("...@", text)))


def is_private(address: str) -> bool:
    """Whether an address holds what `shown` leaves out."""
    return shown(address) != address


def within(folder: str, name: str) -> str:
    """The address of a file in a folder; what the folder's asks for beside its path is asked for of the file."""
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment=""))


def is_address(text: str) -> bool:
    """Whether a text is the address of something that can be asked for over http or https."""
    try:
        parts = urlsplit(text)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host that an address names, with its port where that stands there."""
    return urlsplit(address).netloc.rpartition("@")[2].lower()


def is_plain(address: str) -> bool:
    """Whether the way to an address is unencrypted, so that whoever is on it can alter what comes."""
    return urlsplit(address).scheme.lower() == "http"
