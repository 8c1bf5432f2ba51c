"""The event stream by itself: frames, batches, heartbeats, clients that leave, sources that break."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from typing import Any, get_args

import pytest

from app.api.events import event_json
from app.api.sse import KEEP_ALIVE, EventStream
from app.domain.errors import StorageUnavailable
from app.domain.models import events
from app.domain.models.events import RunEvent, SequencedEvent, TextDelta
from app.domain.models.usage import TokenUsage
from app.settings import ServerSettings
from tests.api.asgi import frames_of, request

Batch = Sequence[SequencedEvent]


def delta(number: int, text: str = "word ") -> SequencedEvent:
    return SequencedEvent(number, TextDelta(text, "msg_1"))


class Source:
    """Batches that the test hands out, and whether they were closed."""

    def __init__(self, *batches: Batch | Exception, end: bool = True) -> None:
        self._batches = batches
        self._end = end
        self.closed = False

    async def read(self) -> AsyncIterator[Batch]:
        try:
            for batch in self._batches:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
            if not self._end:
                await asyncio.Event().wait()
        finally:
            self.closed = True


def stream_of(source: Source, heartbeat_s: float = 60) -> EventStream:
    return EventStream("run_1", source.read(), ServerSettings(heartbeat_s=heartbeat_s, stream_gap_ms=0))


async def test_a_batch_is_one_message() -> None:
    source = Source([delta(1), delta(2, "ünd\n\n"), delta(3)], [delta(4)])
    async with request(stream_of(source), "GET", "/") as sent:
        await sent.head()
        assert len(frames_of(await sent.chunk())) == 3
        data = b'{"type":"text.delta","delta":"word ","itemId":"msg_1","scope":""}'
        assert await sent.chunk() == b"id: run_1:4\nevent: text.delta\ndata: " + data + b"\n\n"
        assert await sent.chunk() == b""
        assert sent.ended
    assert source.closed
    frames = frames_of(b"".join(sent.bodies))
    assert [frame.id for frame in frames] == ["run_1:1", "run_1:2", "run_1:3", "run_1:4"]
    assert frames[1].data["delta"] == "ünd\n\n"


async def test_half_an_emoji_is_escaped() -> None:
    async with request(stream_of(Source([delta(1, "\ud83d")], [delta(2, "\ude00")])), "GET", "/") as sent:
        await sent.head()
        body = await sent.body()
    assert b"\\ud83d" in body
    assert [frame.data["delta"] for frame in frames_of(body)] == ["\ud83d", "\ude00"]


async def test_a_silent_source_gets_heartbeats() -> None:
    source = Source([delta(1)], end=False)
    async with request(stream_of(source, 0.02), "GET", "/") as sent:
        await sent.head()
        await sent.frames_until("text.delta")
        assert [await sent.chunk() for _ in range(3)] == [KEEP_ALIVE] * 3
    assert source.closed


async def test_a_client_that_leaves_ends_the_reading() -> None:
    source = Source([delta(1)], end=False)
    async with request(stream_of(source), "GET", "/") as sent:
        await sent.head()
        await sent.chunk()
        assert not source.closed
    assert source.closed  # and the app was done within the block


async def test_a_server_that_says_so_with_an_error() -> None:
    source = Source([delta(1)], [delta(2)], end=False)

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

    task = asyncio.create_task(stream_of(Source([delta(1)], end=False), 0.01)({"type": "http"}, receive, send))
    await stuck.wait()
    for _ in range(3):
        await asyncio.sleep(0.01)  # several heartbeats long: silence is what is tested
    assert len(sends) == 2
    go_on.set()
    gone.set()
    await task


async def test_cancelling_the_request_closes_the_source() -> None:
    source = Source([delta(1)], end=False)
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
    async with request(stream_of(Source([delta(1)], StorageUnavailable("Away."))), "GET", "/") as sent:
        await sent.head()
        frames = frames_of(await sent.body())
    assert [(frame.id, frame.event) for frame in frames] == [("run_1:1", "text.delta"), (None, "error")]
    assert frames[-1].data == {
        "error": {"message": "Away.", "type": "server_error", "param": None, "code": "storage_unavailable"}
    }


async def test_any_other_error_tells_nothing(quiet_logs: list[dict[str, Any]]) -> None:
    async with request(stream_of(Source([delta(1)], ValueError("a secret"))), "GET", "/") as sent:
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
    told = json.loads(event_json(kind(**{name: VALUES.get(name, name) for name in names})))
    assert told["type"] == kind.type
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
