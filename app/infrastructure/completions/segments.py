"""The form of a spool's files, which its writers and readers share."""

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

SUFFIX: Final = ".seg"
HEADER: Final = struct.Struct("<8sIIQQ32x")
"""Signature, version, process id, events dropped for want of room, events refused as wrong."""
FRAME: Final = struct.Struct("<4sII")
SIGNATURE: Final = b"SCRSPOOL"
MAGIC: Final = b"\xf5SCR"
MAX_BODY_BYTES: Final = 1 << 20


def framed(body: bytes) -> bytes:
    """Return an event as it stands in a file.

    Raises:
        ValueError: no reader would take one as large.
    """
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"An event has at most {MAX_BODY_BYTES} bytes.")
    return FRAME.pack(MAGIC, len(body), zlib.crc32(body)) + body


def segment_sizes(folder: Path) -> list[tuple[str, int]]:
    """Return the names and bytes of all files, the oldest first."""
    found: list[tuple[str, int]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    with suppress(FileNotFoundError):  # a reader was done with it
                        found.append((entry.name, entry.stat().st_size))
    except FileNotFoundError:
        return []
    return sorted(found)


def sync_folder(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
