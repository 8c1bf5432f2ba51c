"""Reads a spool's files for a relay or a sender, which are never two at once.

How far it is, the counts of finished files, and events that the other side refused are in a SQLite file beside them.
"""

import fcntl
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.infrastructure.completions.segments import (
    FRAME,
    HEADER,
    MAGIC,
    MAX_BODY_BYTES,
    SIGNATURE,
    SUFFIX,
    segment_sizes,
)
from app.infrastructure.completions.spool import LOCK_WAIT_S

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS segments (
    name TEXT PRIMARY KEY, position INTEGER NOT NULL, finished INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS put_aside (
    number INTEGER PRIMARY KEY, body BLOB NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
);
"""
_CHUNK_BYTES: Final = 256 << 10
_WHOLE_BYTES: Final = FRAME.size + MAX_BODY_BYTES
"""A part of this size holds a whole frame, if one begins with it."""
_STALE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """What a spool holds and has lost; exact, and over all processes that ever wrote to it."""

    waiting_bytes: int
    """In files, not yet read to their end."""
    relayed: int
    dropped: int
    """Events for which there was no room."""
    refused: int
    """Events that were wrong when they were captured."""
    put_aside: int
    """Events that the other side refused; they are kept in `cursor.db`."""
    torn: int
    """Files whose last write was cut off, or that hold a damaged part."""


_readers: "weakref.WeakSet[SpoolReader]" = weakref.WeakSet()
_inherited: list[sqlite3.Connection] = []
"""Of a parent: SQLite allows a child neither to use nor to close them."""


class SpoolReader:
    """The one reader of a folder at a time; not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Open or make `cursor.db`.

        Raises:
            OSError: the folder cannot be made.
            sqlite3.Error: the file cannot be opened, or is no database.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._cursor = sqlite3.connect(folder / "cursor.db", isolation_level=None, check_same_thread=False, timeout=10)
        self._cursor.execute("PRAGMA journal_mode=WAL")
        self._cursor.execute("PRAGMA synchronous=NORMAL")
        self._cursor.executescript(_SCHEMA)
        # Nobody may fork while SQLite works: the child would hold its locks for ever.
        self._guard = threading.RLock()
        self._guarded = False
        self._lock_fd = -1
        self._positions: dict[str, int] = {}
        self._moved: dict[str, int] = {}
        self._relayed = 0
        self._last = ""
        _readers.add(self)

    def close(self) -> None:
        """Close the cursor."""
        with self._guard:
            self._cursor.close()

    @contextmanager
    def locked(self) -> Generator[bool]:
        """Hold the folder for one pass; False: another relay has it, and reads it now."""
        fd = self._lock_fd = os.open(self._folder / "relay.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            self._look_up()  # another relay may have gone on since
            self._moved, self._relayed = {}, 0
            yield True
        finally:
            self._lock_fd = -1
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # a child of a fork may have the file open, too
            os.close(fd)

    def passed(self, place: tuple[str, int]) -> bool:
        """Tell whether a file was read up to a position by whoever read it; one that is gone was read to its end."""
        name, position = place
        if self._positions.get(name, 0) >= position:
            return True
        self._look_up()
        return self._positions.get(name, 0) >= position or not (self._folder / name).exists()

    def next_batch(self, events: int, max_bytes: int) -> Sequence[bytes]:
        """Return the next events, as many as there are and the bounds allow, at least one; empty: there are none.

        The same ones come again until `advance` is called. Events of one writer are in order.
        """
        self._moved, batch, room = {}, list[bytes](), max_bytes
        for writer, names in self._turns():
            self._last = writer
            for name in names:
                for body, end in self._frames(name, self._positions.get(name, HEADER.size)):
                    if batch and (len(body) > room or len(batch) >= events):
                        self._relayed = len(batch)
                        return batch
                    batch.append(body)
                    room -= len(body)
                    self._moved[name] = end
        self._relayed = len(batch)
        return batch

    def advance(self) -> None:
        """Note that the last batch has arrived."""
        with self._transaction():
            for name, position in self._moved.items():
                self._keep(name, position)
            self._add("relayed", self._relayed)
        self._positions.update(self._moved)
        self._moved, self._relayed = {}, 0

    def put_aside(self, body: bytes, reason: str) -> None:
        """Keep an event that the other side refuses for good."""
        with self._transaction():
            statement = "INSERT INTO put_aside (body, reason, at) VALUES (?, ?, ?)"
            self._cursor.execute(statement, (body, reason[:500], time.time()))
            self._add("put_aside", 1)

    def stats(self) -> SpoolStats:
        """Return what there is and was."""
        sizes = segment_sizes(self._folder)  # first: a file that is finished meanwhile is not counted twice
        with self._transaction():
            totals = dict(self._cursor.execute("SELECT name, value FROM totals").fetchall())
            rows = self._cursor.execute("SELECT name, position, finished FROM segments").fetchall()
        positions = {name: position for name, position, _ in rows}
        finished = {name for name, _, done in rows if done}
        waiting = dropped = refused = 0
        for name, size in sizes:
            if name in finished:
                continue
            counts = self._counts(name)
            if counts is None:
                continue
            waiting += max(0, size - positions.get(name, HEADER.size))
            dropped, refused = dropped + counts[0], refused + counts[1]
        return SpoolStats(
            waiting_bytes=waiting,
            relayed=totals.get("relayed", 0),
            dropped=totals.get("dropped", 0) + dropped,
            refused=totals.get("refused", 0) + refused,
            put_aside=totals.get("put_aside", 0),
            torn=totals.get("torn", 0),
        )

    def sweep(self) -> None:
        """Delete files that are read to their end and that nobody writes any more; call it while holding the folder."""
        with self._guard:
            rows = self._cursor.execute("SELECT name FROM segments WHERE finished = 1").fetchall()
        for (name,) in rows:
            self._delete(name)
        for name, _ in segment_sizes(self._folder):
            self._finish(name)
        for left in self._folder.glob("*.new"):  # its maker was killed before anybody could know it
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()

    def before_fork(self) -> None:
        """Let SQLite come to an end."""
        self._guarded = self._guard.acquire(timeout=LOCK_WAIT_S)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._guarded:
            self._guarded = False
            self._guard.release()

    def after_fork(self) -> None:
        """Leave cursor and lock to the parent; this reader is of no use any more."""
        if self._lock_fd >= 0:
            with suppress(OSError):
                os.close(self._lock_fd)
        _inherited.append(self._cursor)
        self._guard, self._lock_fd = threading.RLock(), -1

    def _look_up(self) -> None:
        with self._guard:
            rows = self._cursor.execute("SELECT name, position FROM segments WHERE finished = 0")
            self._positions = dict(rows.fetchall())

    def _turns(self) -> list[tuple[str, list[str]]]:
        """Return every writer with its files: in their order, for so its events are, and the next writer first.

        A writer that has begun a file writes no earlier one any more. One that never pauses must not hold up others.
        """
        files: dict[str, list[str]] = {}
        for name, _ in segment_sizes(self._folder):
            files.setdefault(name.partition("-")[0], []).append(name)
        turns = list(files.items())
        later = [turn for turn in turns if turn[0] > self._last]
        return [*later, *turns[: len(turns) - len(later)]]

    def _finish(self, name: str) -> None:
        path, position = self._folder / name, self._positions.get(name, HEADER.size)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # its writer lives
            os.close(fd)
            return
        try:
            if next(self._frames(name, position), None) is not None:
                return
            torn = os.fstat(fd).st_size != position
            dropped, refused = self._counts(name) or (0, 0)
            with self._transaction():
                self._keep(name, position, finished=1)
                self._add("dropped", dropped)
                self._add("refused", refused)
                self._add("torn", int(torn))
            self._delete(name)
            self._positions.pop(name, None)
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        with self._guard:
            self._cursor.execute("DELETE FROM segments WHERE name = ?", (name,))

    def _frames(self, name: str, position: int) -> Iterator[tuple[bytes, int]]:
        """Yield whole frames behind a position, each with where it ends; damaged parts are passed over."""
        try:
            file = (self._folder / name).open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            size = _CHUNK_BYTES
            while True:
                file.seek(position)
                chunk = file.read(size)
                start = 0
                for body, end in _whole_frames(chunk):
                    yield body, position + end
                    start = end
                if start == 0 and len(chunk) < size:
                    return
                if start == 0 and size >= 2 * _WHOLE_BYTES:  # more damage than a frame has bytes
                    start = size - _WHOLE_BYTES
                elif start == 0:
                    size = 2 * _WHOLE_BYTES
                position += start

    def _counts(self, name: str) -> tuple[int, int] | None:
        """Return what a file's writer has dropped and refused; zeros: its header is damaged; None: it is gone."""
        try:
            with (self._folder / name).open("rb") as file:
                head = file.read(HEADER.size)
        except FileNotFoundError:
            return None
        if len(head) < HEADER.size or not head.startswith(SIGNATURE):
            return 0, 0
        _, _, _, dropped, refused = HEADER.unpack(head)
        return dropped, refused

    @contextmanager
    def _transaction(self) -> Generator[None]:
        with self._guard:
            self._cursor.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._cursor.execute("ROLLBACK")
                raise
            self._cursor.execute("COMMIT")

    def _keep(self, name: str, position: int, *, finished: int = 0) -> None:
        assert name.endswith(SUFFIX)
        statement = (
            "INSERT INTO segments (name, position, finished) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET position = excluded.position, finished = excluded.finished"
        )
        self._cursor.execute(statement, (name, position, finished))

    def _add(self, name: str, value: int) -> None:
        if value:
            statement = (
                "INSERT INTO totals (name, value) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
            )
            self._cursor.execute(statement, (name, value))


def _whole_frames(chunk: bytes) -> Iterator[tuple[bytes, int]]:
    start = 0
    while True:
        body = _frame_at(chunk, start)
        if body is None:
            # Not whole yet, or damaged: then another whole one stands behind it, unless it was the last.
            start = _next_frame(chunk, start + 1)
            if start < 0:
                return
            body = _frame_at(chunk, start)
            assert body is not None
        start += FRAME.size + len(body)
        yield body, start


def _frame_at(chunk: bytes, start: int) -> bytes | None:
    if start + FRAME.size > len(chunk):
        return None
    magic, length, crc = FRAME.unpack_from(chunk, start)
    end = start + FRAME.size + length
    if magic != MAGIC or length > MAX_BODY_BYTES or end > len(chunk):
        return None
    body = chunk[start + FRAME.size : end]
    return body if zlib.crc32(body) == crc else None


def _next_frame(chunk: bytes, start: int) -> int:
    while (start := chunk.find(MAGIC, start)) >= 0:
        if _frame_at(chunk, start) is not None:
            return start
        start += 1
    return -1


def _before_fork() -> None:
    for reader in list(_readers):
        reader.before_fork()


def _after_fork_in_parent() -> None:
    for reader in list(_readers):
        reader.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for reader in list(_readers):
        reader.after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
