"""A run's log as a Response: read to its end, or written to a client event by event.

Only what is on disk is told. An event that is told early and lost with its process would leave its number to another
one, and a client that goes on after that number would miss a part of the answer. The price is that a delta waits for
the log's next write, a few dozen milliseconds.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

from app.api.errors import ErrorBody
from app.api.json_replies import encode
from app.api.openai.response_events import ResponseEvents
from app.api.openai.response_items import call_arguments, call_name, is_own_call
from app.bootstrap import Container
from app.domain.models.conversations import Caller
from app.domain.models.events import (
    STOP_TYPES,
    TERMINAL_TYPES,
    ApprovalRequested,
    EventBatch,
    ItemDone,
    RunEvent,
    RunStarted,
    RunWaiting,
    SequencedEvent,
    ToolOutput,
    ToolStarted,
)
from app.domain.models.runs import FINAL_STATUSES, Run, RunResult

_OUTPUTS: Final = "_output"
_PADDED_BYTES: Final = 16
"""A delta and its padding are a multiple of it long."""


class ResponseFrames:
    """Turns the batches of one response into Server-Sent Events."""

    def __init__(self, events: ResponseEvents, after: int | None = None, *, padded: bool = False) -> None:
        """`after`: the number of the last event that the client has; None when it has none.

        `padded`: deltas get a field of random text, so that who sees the traffic cannot tell words by their length.
        """
        self._events = events
        self._padded = padded
        self._after = -1 if after is None else after
        self._begun = False

    def of(self, batch: EventBatch) -> bytes:
        """Return what a batch tells; the first one also tells that the response exists."""
        told = [] if self._begun else self._events.begin()
        self._begun = True
        feed = self._events.feed
        for item in batch.events:
            told += feed(item.event)
        if told and told[0]["sequence_number"] <= self._after:
            told = [event for event in told if event["sequence_number"] > self._after]
        if self._padded:
            told = [_padded(event) for event in told]
        return b"".join([_frame(event) for event in told])

    def error(self, body: ErrorBody) -> bytes:
        """Return an error; it has the number of the event before it, so that a client goes on behind that one."""
        number = max(self._events.last_number, self._after)
        event = {"type": "error", "code": body.code, "message": body.message, "param": body.param}
        return _frame({**event, "sequence_number": number})


async def played(container: Container, caller: Caller, events: ResponseEvents) -> ResponseEvents:
    """Feed the events of a run until its response has ended; waits for them."""
    async with aclosing(told_batches(container, caller, events)) as batches:
        events.begin()
        async for batch in batches:
            for item in batch.events:
                events.feed(item.event)
    return events


async def played_so_far(
    container: Container, caller: Caller, events: ResponseEvents, run: Run, result: RunResult | None
) -> ResponseEvents:
    """Feed what is recorded of a run, without waiting for more; `result` is how it ended or what it waits for."""
    ends = _EndTimes(container, caller, run.id)
    events.begin()
    last = 0
    while page := (await container.journal.events(caller, run.id, last))[0]:
        if not last and page[0].sequence > 1 and result is not None:
            events.rebuilt = True
            for event in _rebuilt(run, result, events.head.tool_names):
                events.feed(event)
        for item in page:
            if type(item.event) in STOP_TYPES:
                events.finished_at = await ends.after(item.event)
            ends.saw(item.event)
            events.feed(item.event)
        last = page[-1].sequence
    return events


async def told_batches(container: Container, caller: Caller, events: ResponseEvents) -> AsyncGenerator[EventBatch]:
    """Yield a run's recorded events from the first one to the end of a response; an empty batch comes at once.

    `events` is told when the run ended before the batch with its end is yielded.

    Raises:
        StorageUnavailable: the database did not answer.
    """
    head = events.head
    ends = _EndTimes(container, caller, head.id.run_id)
    yield EventBatch((), 0)
    ends.expect()
    async with aclosing(ends), aclosing(_recorded(container, caller, head.id.run_id, head.id.part)) as batches:
        async for batch in batches:
            for item in batch.events:
                ends.saw(item.event)
            last = batch.events[-1].event
            if type(last) in STOP_TYPES:
                events.finished_at = await ends.after(last)
            yield batch


async def _recorded(container: Container, caller: Caller, run_id: str, part: int) -> AsyncGenerator[EventBatch]:
    """Yield what is on disk, in batches that end with a stop or hold none, until a part of the run is over."""
    waits = part
    position = 0
    while True:
        before = position
        async with aclosing(container.runs.events(caller, run_id, position, recorded_only=True)) as batches:
            async for batch in batches:
                for piece in _until_stops(batch.events):
                    position = piece[-1].sequence
                    yield EventBatch(piece, batch.recorded)
                    last = type(piece[-1].event)
                    waits -= last is RunWaiting
                    if last in TERMINAL_TYPES or not waits:
                        return
        if position == before:
            return  # it has ended, and has no more to tell


def is_whole(events: Sequence[SequencedEvent]) -> bool:
    """Tell whether nothing is missing from the log of a run: in time, deltas are deleted, and then all but the end."""
    return all(item.sequence == number for number, item in enumerate(events, 1))


def _until_stops(events: Sequence[SequencedEvent]) -> Iterator[Sequence[SequencedEvent]]:
    first = 0
    for index, item in enumerate(events, 1):
        if type(item.event) in STOP_TYPES:
            yield events[first:index]
            first = index
    if first < len(events):
        yield events[first:]


class _EndTimes:
    """When a run ended or began to wait: the log holds no times."""

    def __init__(self, container: Container, caller: Caller, run_id: str) -> None:
        self._container = container
        self._caller = caller
        self._run_id = run_id
        self._asked: set[tuple[str, str]] = set()
        self._result: asyncio.Task[RunResult] | None = None

    def expect(self) -> None:
        """Begin to wait for the end: whoever waits for it when it comes need not read it from the database."""
        self._result = asyncio.create_task(self._container.runs.result(self._caller, self._run_id), name="await-end")

    async def aclose(self) -> None:
        """Stop waiting."""
        if self._result is not None:
            self._result.cancel()
            await asyncio.gather(self._result, return_exceptions=True)

    def saw(self, event: RunEvent) -> None:
        """Note a request for approval: the run waits since it was written."""
        if isinstance(event, ApprovalRequested):
            self._asked.add((event.call_id, event.scope))

    async def after(self, event: RunEvent) -> int | None:
        """Return the time of a stop, in seconds since 1970."""
        runs = self._container.runs
        if not isinstance(event, RunWaiting):
            result = None if self._result is None else await self._result
            if result is None or result.status not in FINAL_STATUSES:  # it waited when it was first looked at
                result = await runs.result(self._caller, self._run_id)
            return _seconds(result.timings.finished_at)
        asked = [
            approval.requested_at
            for approval in await runs.approvals(self._caller, self._run_id)
            if (approval.request.call_id, approval.request.scope) in self._asked
        ]
        return _seconds(max(asked)) if asked else None


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _rebuilt(run: Run, result: RunResult, client_tools: frozenset[str]) -> Iterator[RunEvent]:
    """Yield what a run's log has told of its items, from its result, when the log is gone but for its end."""
    yield RunStarted(run.id, run.conversation_id, run.agent, 1)
    for item in result.items[len(run.input) :]:
        kind = str(item.get("type", ""))
        call_id = str(item.get("call_id", ""))
        if kind.endswith(_OUTPUTS):
            yield ToolOutput(call_id, "", str(item.get("output", "")), run.agent, 0)
            continue
        yield ItemDone({"type": "message", **item}, "", run.agent)
        if is_own_call(item, client_tools):
            yield ToolStarted(call_id, call_name(item), call_arguments(item), run.agent)


def _padded(event: dict[str, Any]) -> dict[str, Any]:
    delta = event.get("delta")
    if delta is None:
        return event
    return {**event, "obfuscation": secrets.token_urlsafe(_PADDED_BYTES)[: _PADDED_BYTES - len(delta) % _PADDED_BYTES]}


def _frame(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(event))
