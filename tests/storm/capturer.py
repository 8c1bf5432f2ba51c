"""A program that captures events.

After a capture has kept its mode's promise, the event's id goes to the file of notes, and not before. In mode `fsync`
the file `notes.synced` gets a line `segment bytes` after every sync: what a machine without power would still have.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from app.capture import SessionCompletionRuntime
from app.capture_settings import CaptureSettings
from tests.storm.events import made

AT_ONCE: Final = 20
"""Events that may be in flight: kept, but not noted yet."""

SLOW_DISK_S: Final = 0.02
"""What every sync takes longer, so that there is something to lose."""


@dataclass(frozen=True)
class Task:
    """What is to be captured, and where to."""

    spool: Path
    notes: Path
    prefix: str
    """Of the events' ids."""
    events: int
    per_second: float
    mode: str


def capture(task: Task, ready: Connection) -> None:
    """Capture all of it."""
    if task.mode == "fsync":
        _write_down_syncs(Path(f"{task.notes}.synced"))
    ready.send(None)
    asyncio.run(_captured(task))


def _write_down_syncs(path: Path) -> None:
    """Have every sync of a segment noted, with the bytes that it was about."""
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def sync_and_note(fd: int) -> None:
            size, name = os.fstat(fd).st_size, Path(f"/proc/self/fd/{fd}").readlink().stem
            time.sleep(SLOW_DISK_S)
            sync(fd)
            os.write(notes, f"{name} {size}\n".encode())

        return sync_and_note

    os.fdatasync, os.fsync = noting(os.fdatasync), noting(os.fsync)


async def _captured(task: Task) -> None:
    events = task.events
    fd = os.open(task.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    settings: Any = CaptureSettings(mode=task.mode, spool_dir=task.spool, endpoint=None)  # pyright: ignore[reportArgumentType]
    runtime = SessionCompletionRuntime(settings=settings)
    began = time.monotonic()
    for first in range(0, events, AT_ONCE):
        batch = [made(f"{task.prefix}.{number}") for number in range(first, min(events, first + AT_ONCE))]
        # Half of them one by one, half of them together.
        taken = (
            runtime.capture_many(batch).events if first // AT_ONCE % 2 else [runtime.capture(event) for event in batch]
        )
        for one in taken:
            await one
        os.write(fd, "".join(f"{one.event_id}\n" for one in taken if one.settled).encode())
        await asyncio.sleep(max(0.0, began + first / task.per_second - time.monotonic()))
    if not runtime.close():
        sys.exit("the spool could not be closed in order")
    if runtime.get_metrics().captured != events:
        sys.exit("events were refused or dropped")
