"""Clear the random identifier and the dates in a SIF file's header, so that the same content gives the same file.

Apptainer dates the content by SOURCE_DATE_EPOCH, but not the header. Cleared fields are what the SIF library itself
writes for an image that is to be deterministic; a signed file has to be left as it is, or signed after this.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import BinaryIO

# Offsets of the format (SIF version 01, little-endian): 32 bytes of launch script, 10 of magic, 3 of version, 3 of
# architecture, then identifier, dates of creation and change, and counts and places of the descriptors.
MAGIC, VERSION, IDENTIFIER, DATES, TABLE = 32, 42, 48, 64, 80
DESCRIPTOR_BYTES, DESCRIPTOR_USED, DESCRIPTOR_DATES = 585, 4, 41


def main() -> None:
    """Clear the header of the file named on the command line."""
    path = Path(sys.argv[1])
    with open(path, "r+b") as file:
        header = file.read(128)
        if header[MAGIC : MAGIC + 10] != b"SIF_MAGIC\0" or header[VERSION : VERSION + 3] != b"01\0":
            sys.exit(f"{path} is not a SIF file of version 01; its header was left as it is")
        _, total, start, length = struct.unpack_from("<qqqq", header, TABLE)
        if length != total * DESCRIPTOR_BYTES:
            sys.exit(f"{path} has descriptors of an unknown size; its header was left as it is")
        write(file, IDENTIFIER, bytes(16))
        write(file, DATES, bytes(16))
        for descriptor in range(start, start + length, DESCRIPTOR_BYTES):
            file.seek(descriptor + DESCRIPTOR_USED)
            if file.read(1) != b"\0":
                write(file, descriptor + DESCRIPTOR_DATES, bytes(16))


def write(file: BinaryIO, place: int, content: bytes) -> None:
    """Replace bytes at a place of the file."""
    file.seek(place)
    file.write(content)


if __name__ == "__main__":
    main()
