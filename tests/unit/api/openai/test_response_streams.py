"""Only what is on disk is told, when it is, and a reader goes on behind any number."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.api.errors import ErrorBody
from app.api.openai.response_events import ResponseEvents
from app.api.openai.response_ids import ResponseId
from app.api.openai.response_objects import ResponseHead
from app.api.openai.response_streams import ResponseFrames, is_whole, told_batches
from app.bootstrap import Container
from app.domain.models.conversations import Caller
from app.domain.models.events import (
    EventBatch,
    RunCompleted,
    RunEvent,
    RunStarted,
    RunWaiting,
    SequencedEvent,
    TextDelta,
)
from app.domain.models.runs import RunStatus
from app.domain.models.usage import TokenUsage
from app.services.feeds import RunFeed
from tests.api.asgi import frames_of

RUN = "run_" + "0" * 32
CALLER = Caller("acme")
STARTED = RunStarted(RUN, "conv_1", "helper", 1)
ENDED = RunCompleted(RUN, "conv_1", "helper", "", TokenUsage(), None, 1)
WAITS = RunWaiting(RUN, "conv_1", 1)


def batch(first: int, *events: RunEvent, recorded: int) -> EventBatch:
    return EventBatch([SequencedEvent(number, event) for number, event in enumerate(events, first)], recorded)


class Runs:
    """A run service that knows one run."""

    def __init__(self, *readings: Sequence[EventBatch] | RunFeed) -> None:
        self.readings = list(readings)
        self.asked: list[int] = []

    async def events(
        self, _caller: Caller, _run_id: str, after: int, *, recorded_only: bool
    ) -> AsyncGenerator[EventBatch]:
        assert recorded_only
        self.asked.append(after)
        reading = self.readings.pop(0) if self.readings else ()
        if isinstance(reading, RunFeed):
            async for told in reading.read(after, recorded_only=True):
                yield told
            return
        for told in reading:
            yield told

    async def result(self, _caller: Caller, _run_id: str) -> Any:
        finished = SimpleNamespace(finished_at=datetime(2026, 1, 1, tzinfo=UTC))
        return SimpleNamespace(status=RunStatus.COMPLETED, timings=finished)

    async def approvals(self, _caller: Caller, _run_id: str) -> list[Any]:
        return []


def events_of(part: int = 1) -> ResponseEvents:
    return ResponseEvents(ResponseHead(ResponseId(RUN, part), "helper", {}, {}, None, ()))


def container_of(runs: Runs) -> Container:
    return cast("Container", SimpleNamespace(runs=runs))


async def settled() -> None:
    """Let everything that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def told(runs: Runs, part: int = 1) -> list[tuple[int, RunEvent]]:
    batches = [read async for read in told_batches(container_of(runs), CALLER, events_of(part))]
    assert batches[0] == EventBatch((), 0)
    assert all(item.sequence <= read.recorded for read in batches for item in read.events)
    return [(item.sequence, item.event) for read in batches for item in read.events]


async def test_what_is_not_on_disk_is_not_even_asked_for() -> None:
    one, two = TextDelta("a", "m"), TextDelta("b", "m")
    reading = [batch(1, STARTED, one, recorded=2), batch(3, two, ENDED, recorded=4)]
    assert await told(Runs(reading)) == [(1, STARTED), (2, one), (3, two), (4, ENDED)]


async def test_an_event_is_told_with_the_write_that_takes_it_to_disk() -> None:
    one, two = TextDelta("a", "m"), TextDelta("b", "m")
    feed = RunFeed()
    seen: list[int] = []

    async def follow() -> None:
        async for read in told_batches(container_of(Runs(feed)), CALLER, events_of()):
            seen.extend(item.sequence for item in read.events)

    following = asyncio.create_task(follow())
    for event in (STARTED, one):
        feed.publish(event)
        await settled()
    assert seen == []
    feed.mark_recorded(1)
    await settled()
    assert seen == [1]
    feed.publish(two)
    feed.mark_recorded(3)
    await settled()
    assert seen == [1, 2, 3]
    feed.close(SequencedEvent(4, ENDED))
    await following
    assert seen == [1, 2, 3, 4]


async def test_a_part_ends_with_its_wait() -> None:
    again = RunStarted(RUN, "conv_1", "helper", 2)
    log = batch(1, STARTED, WAITS, again, ENDED, recorded=4)
    assert [number for number, _ in await told(Runs([log]))] == [1, 2]
    assert [number for number, _ in await told(Runs([log]), part=2)] == [1, 2, 3, 4]


async def test_a_later_part_is_read_on_behind_the_wait() -> None:
    runs = Runs([batch(1, STARTED, WAITS, recorded=2)], [batch(3, ENDED, recorded=3)])
    assert [number for number, _ in await told(runs, part=2)] == [1, 2, 3]
    assert runs.asked == [0, 2]


async def test_a_log_without_an_end_ends_the_reading() -> None:
    assert [number for number, _ in await told(Runs([batch(1, STARTED, recorded=1)]))] == [1]


def test_a_reader_gets_only_what_comes_after_its_number() -> None:
    frames = ResponseFrames(events_of(), after=1)
    assert frames.of(EventBatch((), 0)) == b""
    told = frames_of(frames.of(batch(1, STARTED, TextDelta("a", "m"), recorded=2)))
    assert [(frame.event, frame.data["sequence_number"]) for frame in told] == [
        ("response.output_item.added", 2),
        ("response.content_part.added", 3),
        ("response.output_text.delta", 4),
    ]


@pytest.mark.parametrize(("after", "number"), [(None, 1), (7, 7)])
def test_an_error_takes_no_number(after: int | None, number: int) -> None:
    frames = ResponseFrames(events_of(), after)
    frames.of(EventBatch((), 0))
    (frame,) = frames_of(frames.error(ErrorBody("Away.", "server_error", None, "storage_unavailable")))
    assert frame.event == "error"
    assert frame.data == {
        "type": "error",
        "code": "storage_unavailable",
        "message": "Away.",
        "param": None,
        "sequence_number": number,
    }


def test_a_log_with_gaps_is_not_whole() -> None:
    events = batch(1, STARTED, ENDED, recorded=2).events
    assert is_whole(events)
    assert not is_whole(events[1:])
