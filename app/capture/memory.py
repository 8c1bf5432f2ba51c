"""Events in mode memory: as many as fit into the buffer, and gone with the process."""

import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager


class MemoryBuffer:
    """A bounded queue of encoded events; for any thread. Full, it takes no more: the older ones are kept."""

    def __init__(self, max_events: int) -> None:
        """`max_events`: how many may wait."""
        self._max_events = max_events
        self._lock = threading.RLock()
        self._events: deque[bytes] = deque()
        self._batch = 0
        self._added = self._removed = 0
        self._aside: deque[tuple[bytes, str]] = deque(maxlen=100)

    def __len__(self) -> int:
        """Return how many events wait."""
        return len(self._events)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the events that wait."""
        return sum(map(len, list(self._events)))

    @property
    def set_aside(self) -> Sequence[tuple[bytes, str]]:
        """The latest 100 events that the server refused for good, each with the reason."""
        return list(self._aside)

    def append(self, body: bytes) -> bool:
        """Keep an event; False: there was no room."""
        return self.append_many([body]) == 1

    def append_many(self, bodies: Sequence[bytes]) -> int:
        """Keep as many events as there is room for; return how many."""
        with self._lock:
            fitting = bodies[: max(0, self._max_events - len(self._events))]
            self._events.extend(fitting)
            self._added += len(fitting)
            return len(fitting)

    def take(self, events: int) -> list[bytes]:
        """Take the oldest events out."""
        with self._lock:
            taken = [self._events.popleft() for _ in range(min(events, len(self._events)))]
            self._removed += len(taken)
            return taken

    @property
    def place(self) -> tuple[str, int]:
        """Where the newest event stands."""
        return "", self._added

    def passed(self, place: tuple[str, int]) -> bool:
        """Tell whether everything before a place was taken out."""
        return self._removed >= place[1]

    @contextmanager
    def locked(self) -> Generator[bool]:
        """Hold the buffer for one pass: nobody else reads it."""
        yield True

    def next_batch(self, events: int, max_bytes: int) -> Sequence[bytes]:
        """Return the oldest events, at least one; the same ones come again until `advance` is called."""
        batch, room = list[bytes](), max_bytes
        with self._lock:
            for body in self._events:
                if batch and (len(batch) >= events or len(body) > room):
                    break
                batch.append(body)
                room -= len(body)
        self._batch = len(batch)
        return batch

    def advance(self) -> None:
        """Forget the last batch."""
        with self._lock:
            for _ in range(min(self._batch, len(self._events))):
                self._events.popleft()
                self._removed += 1
        self._batch = 0

    def put_aside(self, body: bytes, reason: str) -> None:
        """Keep an event that the server refuses for good, apart."""
        self._aside.append((body, reason))

    def sweep(self) -> None:
        """Do nothing: there are no files."""

    def count_refused(self, events: int = 1) -> None:
        """Do nothing: there is nothing that would outlive the process's own counts."""

    def count_dropped(self, events: int = 1) -> None:
        """Do nothing, likewise."""

    def close(self) -> None:
        """Do nothing: what waits is sent, or lost with the process."""

    def after_fork(self) -> None:
        """Forget the parent's events: it sends them itself."""
        self._lock = threading.RLock()
        self._events = deque()
        self._batch = self._added = self._removed = 0
