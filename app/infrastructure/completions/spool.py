"""A folder of append-only files in which captured events wait: whoever was told that one is in it can be killed.

Every process writes files of its own, `<writer>-<number>.seg`, and holds a lock on the one it is writing. A file is a
header with the counts of what was not taken, then frames: magic, length, CRC-32, body. A frame is in the kernel's page
cache before `append` returns, so a killed process loses none; a machine that loses power may, up to the last `sync`.
Readers need no lock of the writer's: a frame that is not whole yet ends the file for them, a torn one is skipped.
"""

import errno
import fcntl
import os
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.domain.identifiers import uuid7_hex
from app.infrastructure.completions.segments import HEADER, SIGNATURE, SUFFIX, framed, segment_sizes, sync_folder

_COUNTS: Final = struct.Struct("<QQ")
_COUNTS_AT: Final = 16
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LOCK_WAIT_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.25
_LOOK_WHEN_FULL_EVERY_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How much may wait."""

    max_bytes: int = 1 << 30
    """Of all files of the folder together; events beyond are dropped and counted."""
    segment_bytes: int = 16 << 20
    """Of one file; its room is free again once it has been read to its end."""
    durable: bool = False
    """Whether files and folder are synced when a file is closed, as `sync` does for the open one."""


_writers: "weakref.WeakSet[SpoolWriter]" = weakref.WeakSet()


class SpoolBusy(OSError):
    """The writer was not free in time: another thread hangs in the disk."""


class SpoolWriter:
    """Appends events to the files of this process; for any thread, and for the children of a fork."""

    def __init__(self, folder: Path, limits: SpoolLimits | None = None) -> None:
        """Take the folder; it and its files are made when there is something to write."""
        self._folder = folder
        self._limits = limits or SpoolLimits()
        # Read files are free only when they are closed: every process may hold one, and all of them must leave room.
        self._segment_bytes = max(4096, min(self._limits.segment_bytes, self._limits.max_bytes // 32))
        self._lock = threading.RLock()
        self._held = False  # by whoever forks
        self._inside = False  # a call is half way; if this thread's own, a signal came
        self._inner: SpoolWriter | None = None
        self._owed: deque[int] = deque()  # drops that were counted without the lock
        self._begin()
        self._others_bytes = 0
        self._looked_at = 0.0
        self._lost: OSError | None = None
        _writers.add(self)

    def _begin(self) -> None:
        self._writer, self._number = uuid7_hex(), 0
        self._fd = self._syncing_fd = -1
        self._path: Path | None = None
        self._end = 0
        self._dropped = self._refused = 0  # what the header of the open file says
        self.synced_bytes = 0
        """Of the open file, as far as is known."""

    @property
    def path(self) -> Path | None:
        """The open file; None: nothing was written yet."""
        return self._path

    @property
    def end(self) -> int:
        """Where the open file ends, in bytes."""
        return self._end

    def append(self, body: bytes) -> bool:
        """Write an event; when it returns, killing the process loses nothing. False: there was no room; it is counted.

        Raises:
            OSError: the disk failed otherwise; the event is not in the spool, and not counted.
            SpoolBusy: the writer was not free within a second; likewise.
        """
        frame = framed(body)
        if not self._lock.acquire(timeout=LOCK_WAIT_S):
            raise SpoolBusy(errno.EBUSY, "The spool is busy")
        if self._inside:
            self._lock.release()
            return self._interrupting().append(body)
        try:
            self._inside = True
            # First: it may find that the file is gone.
            if self._is_full(len(frame)) or self._fd < 0 or self._end + len(frame) > self._segment_bytes:
                return self._append_elsewhere([frame]) == 1
            return self._write([frame]) == 1
        finally:
            self._inside = False
            self._lock.release()

    def append_many(self, bodies: Sequence[bytes]) -> int:
        """Write events with one system call; return how many were, from the first on. See `append`."""
        if not bodies:
            return 0
        frames = [framed(body) for body in bodies]
        with self._free() as free:
            return self._append_elsewhere(frames) if free else self._interrupting().append_many(bodies)

    def count_refused(self, events: int = 1) -> None:
        """Count events that were wrong; the count survives the process."""
        with self._free() as free:
            if free:
                self._refused += events
                self._write_counts()
            else:
                self._interrupting().count_refused(events)

    def count_dropped(self, events: int = 1) -> None:
        """Count events that were lost on the way here; safe where the writer is busy."""
        self._owed.append(events)
        if self._lock.acquire(blocking=False):
            try:
                if not self._inside:
                    self._write_counts()
            finally:
                self._lock.release()

    def sync(self) -> None:
        """Wait until everything that was appended before the call is on the disk.

        Raises:
            OSError: the disk failed; nothing is known of what it has.
        """
        with self._free():
            if self._lost is not None:  # a file could not be synced when it was closed
                lost, self._lost = self._lost, None
                raise lost
            # A file of its own number: a rotation may close the other one meanwhile, and syncs it then.
            fd, end, path = (os.dup(self._fd) if self._fd >= 0 else -1), self._end, self._path
            self._syncing_fd = fd
        if self._inner is not None:
            self._inner.sync()
        if fd < 0:
            return
        try:
            os.fdatasync(fd)
        finally:
            self._syncing_fd = -1
            os.close(fd)
        with self._free():
            if path == self._path:
                self.synced_bytes = max(self.synced_bytes, end)

    def close(self) -> None:
        """Give the open file up; what is in it is read by whoever reads the folder."""
        if self._inner is not None:
            self._inner.close()
        with self._free() as free:
            if self._owed and free:
                self._write_counts()
            if free:  # else the thread under this signal's handler is writing it
                fd, self._fd, self._path, self._end = self._fd, -1, None, 0
                self._dropped = self._refused = 0
                self._give_up(fd)

    def before_fork(self) -> None:
        """Let no thread be half way: the child would hold files it does not know of."""
        self._held = self._lock.acquire(timeout=LOCK_WAIT_S)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._held:
            self._held = False
            self._lock.release()

    def after_fork(self) -> None:
        """Leave the parent's file alone: the child writes its own."""
        self._lock = threading.RLock()
        self._held = self._inside = False
        for fd in (self._fd, self._syncing_fd):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self._owed = deque()
        self._lost = None
        self._begin()

    @contextmanager
    def _free(self) -> Generator[bool]:
        """Hold the writer; False: this thread is in the middle of another call, and must not touch it."""
        if not self._lock.acquire(timeout=LOCK_WAIT_S):
            raise SpoolBusy(errno.EBUSY, "The spool is busy")
        interrupted = self._inside
        try:
            self._inside = True
            yield not interrupted
        finally:
            self._inside = interrupted
            self._lock.release()

    def _interrupting(self) -> "SpoolWriter":
        """Return the writer for a signal's handler that came while this thread was half way through a write."""
        if self._inner is None:
            self._inner = SpoolWriter(self._folder, self._limits)
        return self._inner

    def _append_elsewhere(self, frames: Sequence[bytes]) -> int:
        """The slow way: make room, or count what there is none for."""
        size = sum(map(len, frames))
        if self._is_full(size):
            fitting = self._fitting(frames)
            if not fitting:
                if self._end > HEADER.size:
                    # What is read of it is free once nobody writes it any more.
                    self._rotate_or_stay()
                self._drop(len(frames))
                return 0
            written = self._append_elsewhere(frames[:fitting])
            self._drop(len(frames) - fitting)
            return written
        if (self._fd < 0 or (self._end > HEADER.size and self._end + size > self._segment_bytes)) and not (
            self._rotate_or_stay()
        ):
            self._drop(len(frames))
            return 0
        return self._write(frames)

    def _fitting(self, frames: Sequence[bytes]) -> int:
        room, fitting = self._limits.max_bytes - self._others_bytes - max(self._end, HEADER.size), 0
        for frame in frames[:-1]:
            room -= len(frame)
            if room < 0:
                break
            fitting += 1
        return fitting

    def _write(self, frames: Sequence[bytes]) -> int:
        """Write at the end. A reader may have taken whole frames already: those stay, whatever becomes of the rest."""
        data, start, written = frames[0] if len(frames) == 1 else b"".join(frames), self._end, 0
        try:
            written = os.pwrite(self._fd, data, start)
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], start + written)
        except OSError as error:
            whole = kept = 0
            for frame in frames:
                if whole + len(frame) > written:
                    break
                whole, kept = whole + len(frame), kept + 1
            self._end = start + whole
            with suppress(OSError):
                os.ftruncate(self._fd, self._end)
            if error.errno not in _FULL:
                if kept:
                    self._drop(len(frames) - kept)
                    return kept
                raise
            self._drop(len(frames) - kept)
            return kept
        self._end = start + written
        return len(frames)

    def _is_full(self, more_bytes: int) -> bool:
        now = time.monotonic()
        if now - self._looked_at > _LOOK_EVERY_S:
            self._look(now)
        full = self._others_bytes + max(self._end, HEADER.size) + more_bytes > self._limits.max_bytes
        if full and now - self._looked_at > _LOOK_WHEN_FULL_EVERY_S:
            self._look(now)
            full = self._others_bytes + max(self._end, HEADER.size) + more_bytes > self._limits.max_bytes
        return full

    def _look(self, now: float) -> None:
        sizes = dict(segment_sizes(self._folder))
        if self._path is not None:
            if self._path.name in sizes:
                del sizes[self._path.name]
            else:  # somebody tidied the folder up: what is written there now, nobody would find
                fd, self._fd, self._path, self._end = self._fd, -1, None, 0
                self._give_up(fd)
        self._others_bytes = sum(sizes.values())
        self._looked_at = now

    def _drop(self, events: int) -> None:
        if events:
            self._dropped += events
            self._write_counts()

    def _write_counts(self) -> None:
        while self._owed:
            self._dropped += self._owed.popleft()
        with suppress(OSError):  # a disk without room for a header; the next file carries the counts
            if self._fd < 0:
                self._rotate()
            os.pwrite(self._fd, _COUNTS.pack(self._dropped, self._refused), _COUNTS_AT)

    def _rotate_or_stay(self) -> bool:
        try:
            self._rotate()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return False
        return True

    def _rotate(self) -> None:
        carried = (0, 0) if self._fd >= 0 else (self._dropped, self._refused)
        name = f"{self._writer}-{self._number:08d}"
        hidden, path = self._folder / f"{name}.new", self._folder / f"{name}{SUFFIX}"
        self._folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Before readers see it: they take a file without a lock for one that nobody writes any more.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.pwrite(fd, HEADER.pack(SIGNATURE, 1, os.getpid(), *carried), 0) < HEADER.size:
                raise OSError(errno.ENOSPC, "No room for a header")
            if self._limits.durable:
                os.fsync(fd)
            hidden.rename(path)
            self._number += 1
            if self._limits.durable:
                sync_folder(self._folder)
        except BaseException:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        old, self._fd, self._path, self._end = self._fd, fd, path, HEADER.size
        self.synced_bytes = HEADER.size
        self._dropped, self._refused = carried
        self._looked_at = 0.0
        self._give_up(old)

    def _give_up(self, fd: int) -> None:
        """Close a file that is written no more; if it cannot be synced, the next `sync` says so."""
        if fd < 0:
            return
        try:
            if self._limits.durable:
                os.fdatasync(fd)
        except OSError as error:
            self._lost = error
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # a child may have the file open, too
            os.close(fd)


def _before_fork() -> None:
    for writer in list(_writers):
        writer.before_fork()


def _after_fork_in_parent() -> None:
    for writer in list(_writers):
        writer.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer.after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
