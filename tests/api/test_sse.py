"""The event stream by itself: frames, batches, heartbeats, clients that leave, sources that break."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any, get_args

import pytest

from app.api.events import event_json
from app.api.frames import KEPT_FRAMES, RunFrames, frame_of
from app.api.sse import KEEP_ALIVE, EventStream, EventStreams
from app.domain.errors import StorageUnavailable
from app.domain.models import events
from app.domain.models.events import EventBatch, RunEvent, RunWaiting, SequencedEvent, TextDelta
from app.domain.models.usage import TokenUsage
from app.settings import ServerSettings
from tests.api.asgi import Frame, frames_of, last_event_id, request


def delta(number: int, text: str = "word ") -> SequencedEvent:
    return SequencedEvent(number, TextDelta(text, "msg_1"))


def batch(*numbers: int, recorded: int | None = None) -> EventBatch:
    """Deltas with these numbers; all of them are on disk unless the test says how far."""
    return EventBatch([delta(number) for number in numbers], max(numbers) if recorded is None else recorded)


class Source:
    """Batches that the test hands out, and whether they were closed."""

    def __init__(self, *batches: EventBatch | Exception, end: bool = True) -> None:
        self._batches = batches
        self._end = end
        self.closed = False

    async def read(self) -> AsyncIterator[EventBatch]:
        try:
            for given in self._batches:
                if isinstance(given, Exception):
                    raise given
                yield given
            if not self._end:
                await asyncio.Event().wait()
        finally:
            self.closed = True


def streams_of(heartbeat_s: float = 60) -> EventStreams:
    return EventStreams(ServerSettings(heartbeat_s=heartbeat_s, stream_gap_ms=0))


def stream_of(source: Source, heartbeat_s: float = 60) -> EventStream:
    return streams_of(heartbeat_s).open("run_1", source.read())


async def frames_from(*batches: EventBatch) -> list[Frame]:
    async with request(stream_of(Source(*batches)), "GET", "/") as sent:
        await sent.head()
        return frames_of(await sent.body())


async def test_a_batch_is_one_message() -> None:
    source = Source(EventBatch([delta(1), delta(2, "ünd\n\n"), delta(3)], 3), batch(4))
    async with request(stream_of(source), "GET", "/") as sent:
        await sent.head()
        assert len(frames_of(await sent.chunk())) == 3
        data = b'{"type":"text.delta","sequence":4,"delta":"word ","itemId":"msg_1","scope":""}'
        assert await sent.chunk() == b"id: run_1:4\nevent: text.delta\ndata: " + data + b"\n\n"
        assert await sent.chunk() == b""
        assert sent.ended
    assert source.closed
    frames = frames_of(b"".join(sent.bodies))
    assert [frame.id for frame in frames] == ["run_1:1", "run_1:2", "run_1:3", "run_1:4"]
    assert frames[1].data["delta"] == "ünd\n\n"


async def test_half_an_emoji_is_escaped() -> None:
    async with request(stream_of(Source(EventBatch([delta(1, "\ud83d"), delta(2, "\ude00")], 2))), "GET", "/") as sent:
        await sent.head()
        body = await sent.body()
    assert b"\\ud83d" in body
    assert [frame.data["delta"] for frame in frames_of(body)] == ["\ud83d", "\ude00"]


def ids(frames: list[Frame]) -> list[tuple[int | None, int | None]]:
    """The number of each frame's event and of its id."""
    return [
        (None if frame.event is None else frame.number, None if frame.id is None else int(frame.id.partition(":")[2]))
        for frame in frames
    ]


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([batch(1, 2, 3, recorded=2)], [(1, 1), (2, 2), (3, None)]),
        ([batch(1, 2, recorded=0), batch(recorded=1)], [(1, None), (2, None), (None, 1)]),
        ([batch(1, 2, recorded=0), batch(3, recorded=2)], [(1, None), (2, None), (None, 2), (3, None)]),
        # An event with a later id makes the id of an earlier one needless.
        ([batch(1, 2, recorded=0), batch(3, 4, recorded=3)], [(1, None), (2, None), (3, 3), (4, None)]),
        # What is recorded beyond what this reader was told is named when it is told.
        ([batch(1, recorded=0), batch(recorded=9), batch(2, recorded=9)], [(1, None), (None, 1), (2, 2)]),
        ([batch(1, recorded=1), batch(recorded=1), batch(2, recorded=1)], [(1, 1), (2, None)]),
        ([batch(1, 2, recorded=0), batch(recorded=1), batch(recorded=1)], [(1, None), (2, None), (None, 1)]),
        # The reader begins after 5; the first batch only says what it knows.
        ([batch(recorded=5), batch(6, recorded=5), batch(recorded=6)], [(6, None), (None, 6)]),
        # The attempt that told 3 and 4 was lost: these numbers are given anew.
        (
            [batch(1, 2, 3, 4, recorded=2), batch(3, recorded=2), batch(4, recorded=3), batch(recorded=4)],
            [(1, 1), (2, 2), (3, None), (4, None), (3, None), (None, 3), (4, None), (None, 4)],
        ),
    ],
)
async def test_only_what_is_recorded_has_an_id(
    batches: list[EventBatch], expected: list[tuple[int | None, int | None]]
) -> None:
    assert ids(await frames_from(*batches)) == expected


async def test_an_id_alone_is_a_frame_of_one_line() -> None:
    async with request(stream_of(Source(batch(1, recorded=0), batch(recorded=1))), "GET", "/") as sent:
        await sent.head()
        first = await sent.chunk()
        assert first.startswith(b"event: text.delta\ndata: {")
        assert await sent.chunk() == b"id: run_1:1\n\n"
    assert last_event_id(frames_of(b"".join(sent.bodies))) == "run_1:1"


async def test_an_error_leaves_the_id_where_it_was() -> None:
    async with request(stream_of(Source(batch(1, 2, recorded=1), StorageUnavailable("Away."))), "GET", "/") as sent:
        await sent.head()
        assert last_event_id(frames_of(await sent.body())) == "run_1:1"


async def test_batches_follow_one_another_after_a_gap() -> None:
    """What stops a stream is not followed by a gap, or the client would wait for the end for nothing."""
    streams = EventStreams(ServerSettings(stream_gap_ms=1_000))
    waiting = SequencedEvent(1, RunWaiting("run_1", "conv_1", 1))
    async with request(streams.open("run_1", Source(EventBatch([waiting], 1)).read()), "GET", "/") as sent:
        await sent.head()
        started = asyncio.get_running_loop().time()
        assert frames_of(await sent.body())[-1].event == "run.waiting"
        assert asyncio.get_running_loop().time() - started < 0.9


def test_several_readers_share_frames() -> None:
    frames = RunFrames()
    frames.readers = 2
    one = delta(1)
    made = frames.maker()(one)
    assert made == frame_of(one)
    assert frames.maker()(one) is made
    # The number is given anew, and later by an event that takes its place.
    assert frames.maker()(delta(1, "another")) == frame_of(delta(1, "another"))
    assert frames.maker()(delta(1 + KEPT_FRAMES)) == frame_of(delta(1 + KEPT_FRAMES))
    assert frames.maker()(one) == made


def test_a_single_reader_keeps_nothing() -> None:
    frames = RunFrames()
    frames.readers = 1
    assert frames.maker() is frame_of


async def test_readers_are_counted_by_run() -> None:
    streams = streams_of()
    with streams.reading("run_1") as (first, _), streams.reading("run_1") as (second, _):
        assert first is second
        assert first.readers == 2
        with streams.reading("run_2") as (other, _):
            assert other is not first
    with streams.reading("run_1") as (later, _):
        assert later is not first
        assert later.readers == 1


async def test_two_clients_of_one_run_read_the_same() -> None:
    streams = streams_of()
    shared = [batch(1, 2, recorded=1), batch(3, recorded=3)]
    sources = [Source(*shared, end=False), Source(*shared, end=False)]
    async with (
        request(streams.open("run_1", sources[0].read()), "GET", "/") as first,
        request(streams.open("run_1", sources[1].read()), "GET", "/") as second,
    ):
        for sent in (first, second):
            await sent.head()
            await sent.chunk()
            await sent.chunk()
    assert first.bodies == second.bodies
    assert ids(frames_of(b"".join(first.bodies))) == [(1, 1), (2, None), (3, 3)]


async def test_a_server_that_stops_ends_its_streams() -> None:
    streams = streams_of()
    sources = [Source(batch(1), end=False), Source(end=False)]
    async with (
        request(streams.open("run_1", sources[0].read()), "GET", "/") as first,
        request(streams.open("run_2", sources[1].read()), "GET", "/") as second,
    ):
        await first.head()
        await first.chunk()
        await second.head()
        streams.stop()
        streams.stop()
        assert ids(frames_of(await first.body())) == [(1, 1)]
        assert await second.body() == b""
    assert all(source.closed for source in sources)
    late = Source(end=False)
    async with request(streams.open("run_1", late.read()), "GET", "/") as sent:
        await sent.head()
        assert await sent.body() == b""


async def test_a_client_that_left_a_stopped_stream() -> None:
    streams = streams_of()
    source = Source(batch(1), end=False)
    written = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        if written.is_set():
            raise OSError("connection closed")
        if message.get("body"):
            written.set()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(streams.open("run_1", source.read())({"type": "http"}, receive, send))
    await written.wait()
    streams.stop()
    await asyncio.wait_for(task, 5)
    assert source.closed


async def test_a_silent_source_gets_heartbeats() -> None:
    source = Source(batch(1), end=False)
    async with request(stream_of(source, 0.02), "GET", "/") as sent:
        await sent.head()
        await sent.frames_until("text.delta")
        assert [await sent.chunk() for _ in range(3)] == [KEEP_ALIVE] * 3
    assert source.closed


async def test_a_client_that_leaves_ends_the_reading() -> None:
    source = Source(batch(1), end=False)
    async with request(stream_of(source), "GET", "/") as sent:
        await sent.head()
        await sent.chunk()
        assert not source.closed
    assert source.closed  # and the app was done within the block


async def test_a_server_that_says_so_with_an_error() -> None:
    source = Source(batch(1), batch(2), end=False)

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise OSError("connection closed")

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    await asyncio.wait_for(stream_of(source)({"type": "http"}, receive, send), 5)
    assert source.closed


async def test_a_slow_client_gets_no_heartbeat_in_the_middle() -> None:
    """While a send waits for the client, nothing else is sent."""
    sends: list[bytes] = []
    stuck, go_on = asyncio.Event(), asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        sends.append(message.get("body", b""))
        if message.get("body", b"").startswith(b"id"):
            stuck.set()
            await go_on.wait()

    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    task = asyncio.create_task(stream_of(Source(batch(1), end=False), 0.01)({"type": "http"}, receive, send))
    await stuck.wait()
    for _ in range(3):
        await asyncio.sleep(0.01)  # several heartbeats long: silence is what is tested
    assert len(sends) == 2
    go_on.set()
    gone.set()
    await task


async def test_cancelling_the_request_closes_the_source() -> None:
    source = Source(batch(1), end=False)
    started = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            started.set()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(stream_of(source)({"type": "http"}, receive, send))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed


async def test_an_error_of_ours_is_a_frame_without_an_id() -> None:
    async with request(stream_of(Source(batch(1), StorageUnavailable("Away."))), "GET", "/") as sent:
        await sent.head()
        frames = frames_of(await sent.body())
    assert [(frame.id, frame.event) for frame in frames] == [("run_1:1", "text.delta"), (None, "error")]
    assert frames[-1].data == {
        "error": {"message": "Away.", "type": "server_error", "param": None, "code": "storage_unavailable"}
    }


async def test_any_other_error_tells_nothing(quiet_logs: list[dict[str, Any]]) -> None:
    async with request(stream_of(Source(batch(1), ValueError("a secret"))), "GET", "/") as sent:
        await sent.head()
        body = await sent.body()
    assert b"secret" not in body
    assert frames_of(body)[-1].data["error"]["code"] == "internal_error"
    assert [line["event"] for line in quiet_logs] == ["stream_failed"]


USAGE = TokenUsage(requests=1, input_tokens=2, cached_tokens=1, output_tokens=3, reasoning_tokens=1)
VALUES: dict[str, Any] = {
    "tokens": USAGE,
    "attempt": 1,
    "duration_ms": 5,
    "cost_usd": "0.01",
    "output": {"snake_case": 1},
    "details": {"retry_after_s": 2},
}


@pytest.mark.parametrize("kind", get_args(RunEvent))
def test_every_event_has_a_wire_shape(kind: type[RunEvent]) -> None:
    names = [field.name for field in fields(kind)]
    told = json.loads(event_json(SequencedEvent(7, kind(**{name: VALUES.get(name, name) for name in names}))))
    assert list(told)[:2] == ["type", "sequence"]
    assert (told["type"], told["sequence"]) == (kind.type, 7)
    assert not any("_" in name for name in told)
    for hidden in ("tokens", "costUsd"):
        assert hidden not in told
    if "tokens" in names:
        assert told["usage"]["totalTokens"] == 5
        assert told["usage"]["costUsd"] == ("0.01" if "cost_usd" in names else None)
    if "output" in names and kind is events.RunCompleted:
        assert told["output"] == {"snake_case": 1}  # the answer is not ours to rename
    if kind is events.RunFailed:
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told["details"] == {"retry_after_s": 2}
