"""What came in: one record a request, readable from any thread while the server works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Outcome = Literal["pending", "answered", "refused", "fault", "garbage", "cut", "client_gone", "stopped"]
"""How a request ended: `answered` in full, `refused` by a rule, one of the injected faults, or not by us."""

_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"})


@dataclass(frozen=True)
class RecordedRequest:
    """One request. A snapshot: `outcome`, `status` and `ended_at_s` of a later snapshot may differ.

    `path` is as sent, with `/v1`, without the query; `headers` have lower-case names and no secrets: `authorized` says
    whether the key was right. `body` is the parsed JSON, None when there was none or it did not parse. Times are of
    `time.monotonic()`. `status` is None until a reply is begun.
    """

    number: int
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    authorized: bool
    body: Any
    started_at_s: float
    ended_at_s: float | None = None
    outcome: Outcome = "pending"
    status: int | None = None


class Recorder:
    """All requests in the order of their arrival."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[RecordedRequest] = []

    @property
    def requests(self) -> list[RecordedRequest]:
        """A snapshot of all requests."""
        with self._changed:
            return list(self._requests)

    def begin(
        self,
        *,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        authorized: bool,
        body: Any,
    ) -> int:
        """Record a request that has been read; return its number."""
        shown = {name.lower(): value for name, value in headers.items() if name.lower() not in _SECRET_HEADERS}
        with self._changed:
            number = len(self._requests)
            now = time.monotonic()
            self._requests.append(
                RecordedRequest(number, method, path, dict(query), shown, authorized, body, started_at_s=now)
            )
            self._changed.notify_all()
        return number

    def end(self, number: int, outcome: Outcome, status: int | None) -> None:
        """Record how a request ended."""
        with self._changed:
            done = replace(self._requests[number], outcome=outcome, status=status, ended_at_s=time.monotonic())
            self._requests[number] = done
            self._changed.notify_all()

    def wait_until(self, holds: Callable[[Sequence[RecordedRequest]], bool], timeout_s: float) -> None:
        """Block until `holds(requests)`; it is asked again after every change.

        Raises:
            TimeoutError: it did not hold within `timeout_s`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: holds(tuple(self._requests)), timeout_s):
                raise TimeoutError(f"not within {timeout_s} s; requests: {self._requests}")
