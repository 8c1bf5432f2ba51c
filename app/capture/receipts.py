"""What a caller gets for an event: whether it was taken, and something to wait for."""

import threading
import time
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    import asyncio


class Pending(Protocol):
    """Something that is over one day, well or not."""

    @property
    def succeeded(self) -> bool:
        """Whether it is over, and well."""
        ...

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the end, for seconds at most; return `succeeded`."""
        ...

    def awaited(self) -> Generator[Any, None, bool]:
        """Wait for the end on the running loop; return `succeeded`."""
        ...


class Settlement:
    """A group of events that become safe together; any number of threads and tasks may wait for it."""

    __slots__ = ("_futures", "_lock", "_over", "_timeout_s", "succeeded")

    def __init__(self, timeout_s: float | None = None) -> None:
        """`timeout_s`: how long anybody waits at most; None: until it is over."""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._futures: list[asyncio.Future[None]] = []
        self._timeout_s = timeout_s
        self.succeeded = False

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over.is_set()

    def settle(self, *, succeeded: bool) -> None:
        """End it; a second time does nothing."""
        with self._lock:
            if self._over.is_set():
                return
            self.succeeded = succeeded
            self._over.set()
            futures, self._futures = self._futures, []
        for future in futures:
            with suppress(RuntimeError):  # its loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(_finish, future)

    def after_fork(self) -> None:
        """End it in the child of a fork: only the parent will ever know. Locks may be held by threads it has not."""
        self._lock, self._over, self._futures = threading.Lock(), threading.Event(), []
        self._over.set()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the end, for seconds at most (None: no bound of the caller's); return `succeeded`."""
        bounds = [bound for bound in (timeout_s, self._timeout_s) if bound is not None]
        self._over.wait(min(bounds) if bounds else None)
        return self.succeeded

    def awaited(self) -> Generator[Any, None, bool]:
        """Wait for the end on the running loop; a cancellation goes on, and changes nothing for others."""
        import asyncio  # noqa: PLC0415 - heavy, and who awaits has it

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._over.is_set():
                return self.succeeded
            self._futures.append(future)
        timer = None if self._timeout_s is None else loop.call_later(self._timeout_s, _finish, future)
        try:
            yield from future
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock, suppress(ValueError):
                self._futures.remove(future)
        return self.succeeded


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class Captured(Struct, frozen=True, gc=False):
    """What became of one event. Awaiting it is always allowed, and never raises anything but a cancellation."""

    event_id: str | None
    """The caller's own, or minted; None: it was refused before it had one."""
    accepted: bool
    reason: str | None = None
    """Why it was not taken: `disabled`, `closed`, `dropped: ...` or `refused: ...`; None: it was."""
    pending: tuple[Pending, ...] = ()
    """What there is to wait for: in mode `fsync` the disk, without asynchronous routing the sending."""

    @property
    def settled(self) -> bool:
        """Whether it was taken and there is nothing left to wait for."""
        return self.accepted and all(one.succeeded for one in self.pending)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the mode's promise is kept, for seconds at most; return `settled`."""
        return _wait(self, timeout_s)

    def __await__(self) -> Generator[Any, None, "Captured"]:
        """Wait until the mode's promise is kept or has failed; `settled` tells."""
        for one in self.pending:
            yield from one.awaited()
        return self


class CapturedMany(Struct, frozen=True):
    """What became of the events of one call, in their order."""

    events: tuple[Captured, ...]
    accepted: int
    """How many were taken."""
    pending: tuple[Pending, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether all were taken and there is nothing left to wait for."""
        return self.accepted == len(self.events) and all(one.succeeded for one in self.pending)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the mode's promise is kept for all that were taken; return `settled`."""
        return _wait(self, timeout_s)

    def __await__(self) -> Generator[Any, None, "CapturedMany"]:
        """Wait as `Captured` does."""
        for one in self.pending:
            yield from one.awaited()
        return self


def _wait(receipt: Captured | CapturedMany, timeout_s: float | None) -> bool:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    for one in receipt.pending:
        one.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    return receipt.settled
