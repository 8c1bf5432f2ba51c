"""Where events go once they are bytes: into the spool or the buffer, and from there to the server, if there is one."""

import atexit
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from app.capture.group_commit import GroupCommit
from app.capture.memory import MemoryBuffer
from app.capture.receipts import Pending
from app.capture.sender import Pace, Place, Sender
from app.capture.transport import Transport
from app.infrastructure.completions.spool import LOCK_WAIT_S, SpoolBusy, SpoolLimits, SpoolWriter
from app.infrastructure.completions.spool_reader import SpoolReader

if TYPE_CHECKING:
    from app.capture_settings import CaptureSettings


class Pipeline:
    """Store, group commit and sender of one runtime. It lives on until its events are safe."""

    def __init__(self, settings: "CaptureSettings", tls: ssl.SSLContext | None = None) -> None:
        """Build it; no file is made and no thread started before the first event.

        Raises:
            ConfigurationError: the endpoint is no address.
        """
        self._settings = settings
        self._tls: Final = tls
        self._buffer: Final = MemoryBuffer(settings.buffer_max_size) if settings.mode == "memory" else None
        durable = settings.mode == "fsync"
        limits = SpoolLimits(settings.spool_max_bytes, durable=durable)
        self._writer: Final = None if settings.mode == "memory" else SpoolWriter(settings.spool_dir, limits)
        self._commit: Final = GroupCommit(self._writer.sync) if self._writer is not None and durable else None
        self._sender = self._new_sender()
        self._lock = threading.RLock()
        self._closed = False
        _pipelines.add(self)

    @property
    def buffer(self) -> MemoryBuffer | None:
        """The events of mode memory."""
        return self._buffer

    @property
    def writer(self) -> SpoolWriter | None:
        """The writer of the other modes."""
        return self._writer

    @property
    def sender(self) -> Sender | None:
        """Who sends; None: no endpoint is set."""
        return self._sender

    @property
    def drain_s(self) -> float:
        """Seconds that an end may take."""
        return self._settings.drain_ms / 1000

    def append(self, bodies: Sequence[bytes]) -> tuple[int, tuple[Pending, ...]]:
        """Store events; return how many there was room for, from the first on, and what there is to wait for.

        Raises:
            OSError: the disk failed; none of them is stored.
        """
        sender = self._sender
        if self._commit is None and (sender is None or self._settings.async_routing):
            accepted, pending = self._store(bodies), ()
        else:
            # Who has appended has joined before the next one appends: a file that could not be synced when the
            # next one closed it is told to everybody it concerns.
            if not self._lock.acquire(timeout=LOCK_WAIT_S):
                raise SpoolBusy("The spool is busy")
            try:
                accepted = self._store(bodies)
                pending = self._pending() if accepted else ()
            finally:
                self._lock.release()
        if sender is not None and accepted:
            sender.offered(accepted)
        return accepted, pending

    def count_refused(self, events: int) -> None:
        """Count events that were wrong, in the spool too."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.count_refused(events)

    def count_dropped(self, events: int) -> None:
        """Count events that a failing disk did not take, in the spool as soon as it takes anything."""
        if self._writer is not None:
            self._writer.count_dropped(events)

    def configure(self, settings: "CaptureSettings") -> None:
        """Use another key, address or pace; mode, folder and bounds stay.

        Raises:
            ConfigurationError: the endpoint is no address; nothing has changed.
        """
        before, self._settings = self._settings, settings
        try:
            if settings.endpoint is None or self._sender is None:
                old, self._sender = self._sender, self._new_sender()
                if old is not None:
                    old.finish_alone()
            else:
                self._sender.configure(self._transport(settings.endpoint), self._pace())
        except BaseException:
            self._settings = before
            raise

    def flush(self, timeout_s: float) -> bool:
        """Send what waits, or without an endpoint put it on the disk; tell whether that was done in time."""
        if self._sender is not None:
            return self._sender.flush(timeout_s)
        if self._writer is not None:
            try:
                self._writer.sync()
            except OSError:
                return False
        return self._buffer is None or len(self._buffer) == 0

    def close(self, drain_s: float) -> bool:
        """Send what waits, for seconds at most, and give everything up; tell whether nothing waits any more."""
        if self._closed:
            return True
        self._closed = True
        _pipelines.discard(self)
        ends_at = time.monotonic() + drain_s
        if self._commit is not None:
            self._commit.close(drain_s)
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        if self._sender is None:
            return self._buffer is None or len(self._buffer) == 0
        # What is in a folder is safe: an end need not wait for a server that is away.
        return self._sender.stop(max(0.0, ends_at - time.monotonic()), patient=self._buffer is not None)

    def abandon(self) -> None:
        """Go on alone: the program has lost the runtime without closing it. Waits for nothing."""
        if self._buffer is not None and len(self._buffer) and self._sender is not None:
            return  # until the program ends
        if not self._closed:
            self._closed = True
            _pipelines.discard(self)
            if self._writer is not None:
                with suppress(OSError):
                    self._writer.close()
            if self._commit is not None:
                self._commit.close(0)
            if self._sender is not None:
                self._sender.finish_alone()

    def after_fork(self) -> None:
        """Begin anew in the child: what waits is the parent's."""
        self._lock = threading.RLock()
        if self._buffer is not None:
            self._buffer.after_fork()
        if self._commit is not None:
            self._commit.after_fork()
        if self._sender is not None:
            self._sender.after_fork()

    def _store(self, bodies: Sequence[bytes]) -> int:
        store = self._writer or self._buffer
        assert store is not None
        return int(store.append(bodies[0])) if len(bodies) == 1 else store.append_many(bodies)

    def _pending(self) -> tuple[Pending, ...]:
        pending: list[Pending] = []
        if self._commit is not None:
            pending.append(self._commit.join())
        if self._sender is not None and not self._settings.async_routing:
            pending.append(self._sender.settlement(self._place()))
        return tuple(pending)

    def _place(self) -> Place:
        if self._writer is None:
            assert self._buffer is not None
            return self._buffer.place
        path = self._writer.path
        return ("" if path is None else path.name), self._writer.end

    def _new_sender(self) -> Sender | None:
        endpoint = self._settings.endpoint
        if endpoint is None:
            return None
        return Sender(self._open_backlog, self._transport(endpoint), self._pace())

    def _open_backlog(self) -> MemoryBuffer | SpoolReader:
        if self._buffer is not None:
            return self._buffer
        return SpoolReader(self._settings.spool_dir)

    def _transport(self, endpoint: str) -> Transport:
        key = self._settings.api_key
        return Transport(endpoint, None if key is None else key.get_secret_value(), self._tls)

    def _pace(self) -> Pace:
        settings = self._settings
        return Pace(
            batch_events=settings.batch_size,
            interval_s=settings.flush_interval_ms / 1000,
            timeout_s=settings.timeout_ms / 1000,
            compress=settings.compression,
        )


_pipelines: set[Pipeline] = set()
"""All that are open: they are drained at exit, and begin anew after a fork."""


def _drain_all() -> None:
    for pipeline in list(_pipelines):
        pipeline.close(pipeline.drain_s)


atexit.register(_drain_all)
