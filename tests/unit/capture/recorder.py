"""Stands in for the runtime: keeps events, each read as the server would read it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from agents.tracing import get_trace_provider, set_trace_provider
from agents.tracing.provider import DefaultTraceProvider

from app.services.session_payloads import session_event


class Recorder:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def capture(self, event: Mapping[str, Any]) -> None:
        raw = json.loads(json.dumps(event))
        read = session_event(raw)
        assert read.payload.get("attributes") is None, "the server does not know a field"
        self.events.append(raw)

    @property
    def only(self) -> dict[str, Any]:
        assert len(self.events) == 1
        return self.events[0]


class Broken:
    """A runtime that breaks its promise never to raise."""

    def __init__(self) -> None:
        self.calls = 0

    def capture(self, event: Mapping[str, Any]) -> None:
        self.calls += 1
        raise RuntimeError("broken")


@contextmanager
def own_tracing() -> Iterator[None]:
    """Give a test a tracing of its own, and leave the process's as it was."""
    before = get_trace_provider()
    own = DefaultTraceProvider()
    own.set_disabled(False)
    set_trace_provider(own)
    try:
        yield
    finally:
        set_trace_provider(before)
