"""Captures completion events in a program of the user's: in microseconds, and whatever happens, never to its harm."""

import logging
import os
import sqlite3
import ssl
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from app.capture.encoding import EventEncoder
from app.capture.figures import CaptureMetrics, LatencyWindow, Tally
from app.capture.pipeline import Pipeline
from app.capture.receipts import Captured, CapturedMany, Pending
from app.capture.switch import Complaints, Switch, WatchedFiles
from app.domain.errors import ConfigurationError, InvalidInput
from app.domain.models.deliveries import Scrubbing
from app.domain.scrubbing import Scrubber
from app.infrastructure.completions.spool_reader import SpoolReader, SpoolStats

if TYPE_CHECKING:
    from app.capture_settings import CaptureSettings

Mode = Literal["memory", "spool", "fsync"]

_DISABLED: Final = Captured(None, accepted=False, reason="disabled")
_CLOSED: Final = Captured(None, accepted=False, reason="closed")
_FULL: Final = "dropped: no room"
_WRITE_BYTES: Final = 1 << 20
"""Of one write of `capture_many`."""


class SessionCompletionRuntime:
    """Takes events of sessions that have ended. One for a process; any thread, task or forked child may use it.

    In mode `spool` an event is in a file before `capture` returns: killing the process loses none. With an endpoint,
    a thread sends what waits; without one, a relay on this machine reads the folder.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        endpoint: str | None = None,
        settings: "CaptureSettings | None" = None,
        mode: Mode | None = None,
        spool_dir: Path | str | None = None,
        scrub: Scrubbing | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """What is not given is read from the `SCR_*` variables and the file that `SCR_CONFIG` names.

        `settings`: in place of both; then no file is watched. `scrub`: rules that are applied before an event is
        stored, in place of the patterns that are set. `tls`: for an endpoint that wants a client certificate, or has
        one of a company's own authority.

        Raises:
            ConfigurationError: a setting is wrong; the message names it.
        """
        self._given: Final = {
            "api_key": api_key,
            "endpoint": endpoint,
            "mode": mode,
            "spool_dir": None if spool_dir is None else Path(spool_dir),
        }
        self._fixed: Final = settings
        settings = self._settings_now()
        self._mode: Final = settings.mode
        self._capacity: Final = settings.buffer_max_size if settings.mode == "memory" else settings.spool_max_bytes
        self._folder: Final = settings.spool_dir
        self._switch: Final = Switch(on=settings.enabled)
        files = [Path(".env"), *(Path(name) for name in [os.environ.get("SCR_CONFIG")] if name)]
        self._files: Final = WatchedFiles(files if self._fixed is None else [])
        if scrub is None and settings.scrub_before_store:
            scrub = Scrubbing(content=True, patterns=settings.scrub_before_store)
        self._encoder: Final = EventEncoder(None if scrub is None else Scrubber(scrub))
        self._complaints: Final = Complaints()
        self._pipeline: Final = Pipeline(settings, tls)
        self._closed = False
        self._begin()
        _runtimes.add(self)
        weakref.finalize(self, self._pipeline.abandon).atexit = False

    def _begin(self) -> None:
        self._reading = threading.RLock()
        self._captured, self._refused, self._dropped, self._disabled = Tally(), Tally(), Tally(), Tally()
        self._latencies = LatencyWindow()

    def capture(self, event: Mapping[str, Any]) -> Captured:
        """Take one event. Returns within microseconds, and never raises: what was wrong is in the answer.

        Awaiting the answer waits for what the mode promises beyond: in `fsync` until the event is on the disk,
        without asynchronous routing until it was sent, for the timeout at most.
        """
        begun = time.perf_counter_ns()
        try:
            if self._files.changed(begun):
                self.reload()
            if self._closed or not self._switch.is_on():
                return self._not_taken()
            event_id, body = self._encoder.encode(event)
            accepted, pending = self._pipeline.append((body,))
        except Exception as error:  # noqa: BLE001 - capture must never harm the program that it observes
            return self._failed(error)
        if not accepted:
            self._count_dropped(1)
            return Captured(event_id, accepted=False, reason=_FULL)
        self._captured.add()
        self._latencies.add(time.perf_counter_ns() - begun)
        return Captured(event_id, accepted=True, pending=pending)

    def capture_many(self, events: Sequence[Mapping[str, Any]]) -> CapturedMany:
        """Take events with few writes; each as `capture` does, and wrong ones do not hold up the others."""
        try:
            if self._files.changed(time.perf_counter_ns()):
                self.reload()
            offered = list(events)
        except Exception as error:  # noqa: BLE001 - as above
            return CapturedMany((self._failed(error),), 0)
        if self._closed or not self._switch.is_on():
            return CapturedMany(tuple(self._not_taken() for _ in offered), 0)
        taken: list[Captured] = []
        pending: dict[int, Pending] = {}
        encode, room = self._encoder.encode, _WRITE_BYTES
        ids, bodies = list[str](), list[bytes]()
        for event in offered:
            try:
                event_id, body = encode(event)
            except Exception as error:  # noqa: BLE001 - as above
                taken += self._written(ids, bodies, pending)
                taken.append(self._failed(error))
                ids, bodies, room = [], [], _WRITE_BYTES
                continue
            ids.append(event_id)
            bodies.append(body)
            room -= len(body)
            if room < 0:
                taken += self._written(ids, bodies, pending)
                ids, bodies, room = [], [], _WRITE_BYTES
        taken += self._written(ids, bodies, pending)
        return CapturedMany(tuple(taken), sum([one.accepted for one in taken]), tuple(pending.values()))

    def set_enabled(self, enabled: bool) -> None:
        """Switch capture on or off, at once; a later change of `SCR_ENABLED` or the files counts again."""
        self._switch.turn(on=enabled)

    def reload(self) -> bool:
        """Read variables and files again: switch, key, endpoint and pace; mode, folder and bounds stay.

        False: they are wrong now, which is logged, or were given to the constructor; nothing has changed.
        """
        if self._fixed is not None:
            return False
        try:
            settings = self._settings_now()
            self._pipeline.configure(settings)
        except (ConfigurationError, OSError) as error:
            self._complaints.say(logging.ERROR, "The settings were not reloaded", str(error))
            return False
        self._switch.turn(on=settings.enabled)
        return True

    def get_metrics(self) -> CaptureMetrics:
        """Return what was counted; reads the spool's folder, a few milliseconds."""
        sender, buffer = self._pipeline.sender, self._pipeline.buffer
        folder = self._folder_stats() if buffer is None else None
        waiting_bytes = buffer.waiting_bytes if buffer is not None else 0 if folder is None else folder.waiting_bytes
        waiting = waiting_bytes if buffer is None else len(buffer)
        with self._reading:
            return CaptureMetrics(
                mode=self._mode,
                captured=self._captured.value,
                refused=self._refused.value,
                dropped=self._dropped.value,
                disabled=self._disabled.value,
                sent=0 if sender is None else sender.sent,
                put_aside=0 if sender is None else sender.put_aside,
                failed_requests=0 if sender is None else sender.failed_requests,
                paused=sender is not None and sender.paused,
                waiting_events=None if buffer is None else len(buffer),
                waiting_bytes=waiting_bytes,
                capacity_bytes=self._capacity if buffer is None else None,
                utilization_percent=100 * waiting / self._capacity,
                latency_ms=self._latencies.quantiles_ms(),
                folder=folder,
            )

    def take(self, events: int = 1) -> list[bytes]:
        """Take the oldest events out of mode memory's buffer, for a program that carries them itself; JSON each."""
        buffer = self._pipeline.buffer
        return [] if buffer is None else buffer.take(events)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Send what waits now, or without an endpoint put it on the disk; tell whether that was done in time."""
        return self._pipeline.flush(timeout_s)

    def close(self, drain_s: float | None = None) -> bool:
        """Take no more, send what waits, for seconds at most (None: as set); tell whether nothing waits any more.

        What is not sent stays in the spool; mode memory loses it. A program that ends does this by itself.
        """
        self._closed = True
        return self._pipeline.close(self._pipeline.drain_s if drain_s is None else drain_s)

    async def aclose(self, drain_s: float | None = None) -> bool:
        """Close without holding up the loop; see `close`."""
        import asyncio  # noqa: PLC0415 - heavy, and who awaits has it

        return await asyncio.to_thread(self.close, drain_s)

    def __enter__(self) -> Self:
        """Begin a block that closes the runtime."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Begin a block that closes the runtime."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def after_fork(self) -> None:
        """Begin anew in the child of a fork; it is called by itself."""
        self._begin()
        self._pipeline.after_fork()

    def _settings_now(self) -> "CaptureSettings":
        given = {name: value for name, value in self._given.items() if value is not None}
        if self._fixed is not None:
            # Checked again: a copy would take whatever it is given.
            return type(self._fixed).model_validate({**self._fixed.model_dump(), **given})
        from app.capture_settings import load_capture  # noqa: PLC0415 - heavy, and not always needed

        return load_capture(**given).capture

    def _written(self, ids: Sequence[str], bodies: Sequence[bytes], pending: dict[int, Pending]) -> list[Captured]:
        if not bodies:
            return []
        try:
            accepted, waited = self._pipeline.append(bodies)
        except Exception as error:  # noqa: BLE001 - as in capture
            self._failed(error, len(bodies))
            return [Captured(event_id, accepted=False, reason=_reason(error)) for event_id in ids]
        pending.update({id(one): one for one in waited})
        self._captured.add(accepted)
        if accepted < len(ids):
            self._count_dropped(len(ids) - accepted)
        taken = [Captured(event_id, accepted=True, pending=waited) for event_id in ids[:accepted]]
        return taken + [Captured(event_id, accepted=False, reason=_FULL) for event_id in ids[accepted:]]

    def _not_taken(self) -> Captured:
        if self._closed:
            self._dropped.add()
            return _CLOSED
        self._disabled.add()
        return _DISABLED

    def _failed(self, error: Exception, events: int = 1) -> Captured:
        reason = _reason(error)
        with suppress(Exception):  # a broken log handler of the program is not ours to report
            if isinstance(error, OSError):
                self._dropped.add(events)
                self._pipeline.count_dropped(events)
                self._complaints.say(logging.ERROR, "An event was dropped", reason)
            else:
                self._refused.add(events)
                self._pipeline.count_refused(events)
                self._complaints.say(logging.WARNING, "An event was refused", reason)
        return Captured(None, accepted=False, reason=reason)

    def _count_dropped(self, events: int) -> None:
        self._dropped.add(events)
        with suppress(Exception):  # as above
            self._complaints.say(logging.ERROR, "An event was dropped", "no room")

    def _folder_stats(self) -> SpoolStats | None:
        if not self._folder.is_dir():
            return None
        try:
            reader = SpoolReader(self._folder)
            try:
                return reader.stats()
            finally:
                reader.close()
        except (OSError, sqlite3.Error):
            return None


def _reason(error: Exception) -> str:
    """Name what was wrong; the text of foreign errors may quote values, so only ours is told."""
    if isinstance(error, InvalidInput):
        return f"refused: {error}" if error.param is None else f"refused: {error.param}: {error}"
    if isinstance(error, OSError):
        return f"dropped: {error.strerror or type(error).__name__}"
    return f"refused: {type(error).__name__}"


_runtimes: "weakref.WeakSet[SessionCompletionRuntime]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for runtime in list(_runtimes):
        runtime.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
