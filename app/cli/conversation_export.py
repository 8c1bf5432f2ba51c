"""Where an export goes: standard output, or a file that is whole or not there."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


@contextmanager
def export_file(output: Path | None) -> Generator[TextIO]:
    """Give a file to write an export to; None gives standard output.

    The file appears under its name, replacing another one, at the end of the block; a failure leaves nothing behind.

    Raises:
        OSError: the file cannot be written.
    """
    if output is None:
        yield sys.stdout
        return
    output = output.resolve()
    if output.exists() and not output.is_file():  # a pipe or a device keeps its place
        with output.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            yield file
        return
    # In the same folder, so that the last step is a rename; for the user's eyes only, as conversations are.
    descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            yield file
        partial.replace(output)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


async def write_parts(parts: AsyncIterator[str], file: TextIO) -> int:
    """Write all parts as they are, even to a terminal: they are data. Returns how many there were."""
    count = 0
    async for part in parts:
        file.write(part)
        count += 1
    file.flush()
    return count
