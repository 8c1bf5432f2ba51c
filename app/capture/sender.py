"""The thread that sends what waits. It never gives an event up: it is sent, or the server refuses it for good."""

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from app.capture.receipts import Settlement
from app.capture.switch import Complaints
from app.capture.transport import Answer, Transport

Place = tuple[str, int]
"""Where an event ends: a file and the bytes before, or the buffer and the events before."""

_MOST_BATCH_BYTES: Final = 4 << 20
_FIRST_BACKOFF_S: Final = 0.1
_MOST_BACKOFF_S: Final = 30.0
_PAUSE_S: Final = 60.0
_MOST_TIMEOUT_S: Final = 60.0
_BUSY_S: Final = 0.005
_HURRIED_S: Final = 0.1
_IDLE_S: Final = 1.0
_SWEEP_EVERY_S: Final = 1.0


class Backlog(Protocol):
    """What waits, as its one reader sees it: a spool's folder, or a buffer."""

    def locked(self) -> AbstractContextManager[bool]:
        """Hold it for one pass; False: another process does."""
        ...

    def next_batch(self, events: int, max_bytes: int) -> Sequence[bytes]:
        """Return the next events; the same ones until `advance`."""
        ...

    def advance(self) -> None:
        """Forget the last batch."""
        ...

    def put_aside(self, body: bytes, reason: str) -> None:
        """Keep an event apart that the server refuses for good."""
        ...

    def passed(self, place: Place) -> bool:
        """Tell whether everything before a place has been dealt with, by whomever."""
        ...

    def sweep(self) -> None:
        """Free what is read; only while holding it."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How the sender goes about it."""

    batch_events: int
    interval_s: float
    timeout_s: float
    compress: bool


class Sender:
    """Sends one backlog to one server. Its thread begins with the first event, and in each process anew."""

    def __init__(self, open_backlog: Callable[[], Backlog], transport: Transport, pace: Pace) -> None:
        """`open_backlog` is called by the thread, and again after a failure."""
        self._open: Final = open_backlog
        self._transport = transport
        self._pace = pace
        self._complaints: Final = Complaints()
        self._begin()

    def _begin(self) -> None:
        self.sent = self.put_aside = self.failed_requests = 0
        self.paused = False
        """Whether the server refuses the key, or does not know the address."""
        self._guard = threading.Condition()
        self._wake = SimpleQueue[None]()  # an Event's own lock would stop a signal's handler for ever
        self._tickets = [1]  # for starting the thread; to take one is one step
        self._thread: threading.Thread | None = None
        self._backlog: Backlog | None = None
        self._aside = set[bytes]()  # of the batch under way: after a failure it is sent again, without these
        self._waiting: list[tuple[Place, Settlement, float]] = []
        self._offered = 0
        self._asked = self._drained = self._tried = 0  # flushes, by number
        self._flushing = 0
        self._failures = self._lates = 0
        self._backing_off = self._has_failed = self._nudged = False
        self._swept_at = 0.0
        self._ends_at: float | None = None
        self._stopping = False

    def configure(self, transport: Transport, pace: Pace) -> None:
        """Use another key, address or pace, and try at once."""
        self._transport, self._pace = transport, pace
        self.paused = False
        self._failures = self._lates = 0
        self._wake.put(None)

    def offered(self, events: int) -> None:
        """Know that events were added."""
        if self._thread is None:
            self.start()
        self._offered += events
        if self._offered >= self._pace.batch_events or self._pace.interval_s == 0:
            self._nudge()

    def settlement(self, place: Place) -> Settlement:
        """Return what ends when everything before a place was sent; nobody waits longer than for the timeout."""
        settlement = Settlement(self._pace.timeout_s)
        with self._guard:
            self._waiting.append((place, settlement, time.monotonic() + self._pace.timeout_s))
        self.start()
        self._nudge()
        return settlement

    def start(self) -> bool:
        """Start the thread if there is none; False: the interpreter is at its end, and starts none."""
        with self._guard, suppress(IndexError):
            if not self._stopping and self._tickets.pop():
                thread = threading.Thread(target=self._run, name="scr-sender", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self._tickets.append(1)
                    return False
                self._thread = thread
        return self._thread is not None

    def flush(self, timeout_s: float, *, patient: bool = True) -> bool:
        """Send at once; tell whether everything that had been captured by now was dealt with in time.

        Failed requests are tried again until then, or not if it is not `patient`.
        """
        if self._stopping:
            return False
        if not self.start():
            self._ends_at = time.monotonic() + timeout_s
            return self._attempt() is None
        with self._guard:
            self._asked += 1
            self._flushing += 1
            asked = self._asked
            self._wake.put(None)
            try:
                self._guard.wait_for(
                    lambda: self._drained >= asked or (self._tried >= asked and not patient), timeout_s
                )
            finally:
                self._flushing -= 1
            return self._drained >= asked

    def stop(self, timeout_s: float, *, patient: bool) -> bool:
        """Send what waits, for seconds at most, and end the thread; tell whether nothing waits any more."""
        drained = self.flush(timeout_s, patient=patient) if timeout_s > 0 and not self._stopping else False
        self._ends_at = time.monotonic()
        self.finish_alone()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.1, timeout_s))
        return drained

    def finish_alone(self) -> None:
        """Let the thread end after one more look; nobody waits for it."""
        self._stopping = True
        self._wake.put(None)

    def after_fork(self) -> None:
        """Begin anew: the thread, the connection and the cursor are the parent's."""
        for _, settlement, _ in self._waiting:
            settlement.after_fork()
        self._transport.close()
        self._begin()

    def _nudge(self) -> None:
        if not self._backing_off and not self._nudged:
            self._nudged = True
            self._wake.put(None)

    def _run(self) -> None:
        wait_s = 0.0
        while True:
            with suppress(Empty):
                self._wake.get(timeout=wait_s)
            with suppress(Empty):
                while True:
                    self._wake.get_nowait()
            self._backing_off = self._nudged = False
            asked, last = self._asked, self._stopping
            self._offered = 0
            retry_s = self._attempt()
            with self._guard:
                if retry_s is None:
                    self._drained = asked
                elif self._has_failed:
                    self._tried = asked
                self._guard.notify_all()
                hurried = self._flushing > 0
            if last:
                break
            wait_s = self._pace.interval_s or _IDLE_S
            if retry_s is not None:
                self._backing_off = self._has_failed
                wait_s = min(retry_s, _HURRIED_S) if hurried else retry_s
        self._let_go()
        self._transport.close()

    def _attempt(self) -> float | None:
        """Deal with all that waits. Returns None: it is done; otherwise after how many seconds to go on."""
        self._has_failed = False
        try:
            return self._pass()
        except Exception as error:  # noqa: BLE001 - the edge of a thread that must not end: disk, cursor, and whatever else
            self._complaints.say(logging.ERROR, "Events wait", f"the spool cannot be read: {type(error).__name__}")
            self._let_go()
            self._has_failed = True
            return self._backoff_s(None)

    def _pass(self) -> float | None:
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = self._open()
        with backlog.locked() as mine:
            if not mine:
                self._settle(backlog)
                busy = bool(self._waiting) or self._flushing > 0
                return _BUSY_S if busy else max(_BUSY_S, self._pace.interval_s)
            while True:
                batch = backlog.next_batch(self._pace.batch_events, _MOST_BATCH_BYTES)
                if batch:
                    retry_s = self._send(backlog, [body for body in batch if body not in self._aside])
                    if retry_s is not None:
                        return retry_s
                    backlog.advance()
                    self.sent += sum(body not in self._aside for body in batch)
                    self._aside.clear()
                self._settle(backlog)
                now = time.monotonic()
                at_once = not batch and (self._stopping or self._flushing)
                if at_once or now - self._swept_at > _SWEEP_EVERY_S:
                    backlog.sweep()
                    self._swept_at = now
                if not batch:
                    return None
                if self._ends_at is not None and now >= self._ends_at:
                    return _BUSY_S

    def _send(self, backlog: Backlog, bodies: Sequence[bytes]) -> float | None:
        """Send events, if need be in parts; None: each is there, or put aside."""
        if not bodies:
            return None
        pace = self._pace
        timeout_s = min(_MOST_TIMEOUT_S, pace.timeout_s * 2 ** min(self._lates, 16))
        answer = self._transport.post(bodies, timeout_s, compress=pace.compress)
        if answer.verdict == "wrong" and len(bodies) > 1:
            middle = len(bodies) // 2
            retry_s = self._send(backlog, bodies[:middle])
            return self._send(backlog, bodies[middle:]) if retry_s is None else retry_s
        if answer.verdict == "not_compressed":
            self._pace = replace(pace, compress=False)
            return self._send(backlog, bodies)
        if answer.verdict in {"taken", "wrong"}:
            self._failures = self._lates = 0
            self.paused = False
            for index, reason in answer.refused if answer.verdict == "taken" else ((0, answer.reason),):
                if index < len(bodies):
                    self._put_aside(backlog, bodies[index], reason)
            return None
        return self._failed(answer)

    def _failed(self, answer: Answer) -> float:
        self.failed_requests += 1
        self._has_failed = True
        if answer.verdict == "not_allowed":
            asked = f"the server answers {answer.reason}; look at SCR_API_KEY and SCR_ENDPOINT"
            self._complaints.say(logging.ERROR, "Events are kept and not sent", asked)
            self.paused = True
            return answer.retry_after_s or _PAUSE_S * random.uniform(0.5, 1.0)
        self._lates += answer.verdict == "late"
        self._complaints.say(logging.WARNING, "Events wait", answer.reason)
        return self._backoff_s(answer)

    def _backoff_s(self, answer: Answer | None) -> float:
        bound_s = min(_MOST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(self._failures, 16))
        self._failures += 1
        told_s = None if answer is None else answer.retry_after_s
        return max(told_s or 0.0, bound_s * random.uniform(0.5, 1.0))

    def _put_aside(self, backlog: Backlog, body: bytes, reason: str) -> None:
        if body not in self._aside:
            backlog.put_aside(body, reason)
            self._aside.add(body)
            self.put_aside += 1
            self._complaints.say(logging.WARNING, "An event was put aside", reason)

    def _settle(self, backlog: Backlog) -> None:
        if not self._waiting:
            return
        with self._guard:
            waiting, self._waiting = self._waiting, []
        now, left = time.monotonic(), list[tuple[Place, Settlement, float]]()
        for place, settlement, until in waiting:
            if backlog.passed(place):
                settlement.settle(succeeded=True)
            elif now < until:
                left.append((place, settlement, until))
            else:
                settlement.settle(succeeded=False)
        with self._guard:
            self._waiting += left

    def _let_go(self) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            with suppress(OSError, sqlite3.Error):
                backlog.close()
