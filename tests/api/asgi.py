"""One request driven by hand: a client that reads chunk by chunk, sends in pieces, and leaves when it likes."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

LOCALHOST = (b"host", b"localhost:8000")
JSON = (b"content-type", b"application/json")
WAIT_S = 10.0


@dataclass(frozen=True)
class Frame:
    """One Server-Sent Event, an id alone (no event), or a comment."""

    id: str | None
    event: str | None
    data: Any
    comment: str | None = None

    @property
    def number(self) -> int:
        return int(self.data["sequence"])


def frames_of(body: bytes) -> list[Frame]:
    """Read frames as the standard says; every frame of ours is whole, or this fails."""
    assert body == b"" or body.endswith(b"\n\n")
    return [_frame(text) for text in body.decode().split("\n\n") if text]


def told(frames: Iterable[Frame]) -> list[Any]:
    """What a client's program is told: the data of events."""
    return [frame.data for frame in frames if frame.event is not None]


def kept(frames: Iterable[Frame]) -> list[Any]:
    """What a careful client holds on to: an event replaces the one with its number, and all after that."""
    held: list[Any] = []
    for data in told(frames):
        held = [*(earlier for earlier in held if earlier["sequence"] < data["sequence"]), data]
    return held


def last_event_id(frames: Iterable[Frame]) -> str:
    """What a browser would send as Last-Event-ID; empty when no frame had an id."""
    return next((frame.id for frame in reversed(list(frames)) if frame.id is not None), "")


def _frame(text: str) -> Frame:
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        assert colon, line
        assert name not in fields, line
        fields[name] = value.removeprefix(" ")
    if "" in fields:
        return Frame(None, None, None, fields[""])
    if fields.keys() == {"id"}:
        return Frame(fields["id"], None, None)
    return Frame(fields.get("id"), fields["event"], json.loads(fields["data"]))


class Request:
    """A request that is under way."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = list(chunks)
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._left = asyncio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks_read = 0
        self.bodies: list[bytes] = []
        """Body messages so far."""
        self.ended = False

    async def receive(self) -> dict[str, Any]:
        if self.chunks_read < len(self._chunks):
            self.chunks_read += 1
            more = self.chunks_read < len(self._chunks)
            return {"type": "http.request", "body": self._chunks[self.chunks_read - 1], "more_body": more}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await self._sent.put(message)

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def head(self) -> int:
        """Wait for the status."""
        message = await asyncio.wait_for(self._sent.get(), WAIT_S)
        assert message["type"] == "http.response.start"
        self.status = message["status"]
        self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        return self.status

    async def chunk(self) -> bytes:
        """Wait for the next body message; the head is read first when it was not yet."""
        if not self.status:
            await self.head()
        message = await asyncio.wait_for(self._sent.get(), WAIT_S)
        assert message["type"] == "http.response.body"
        self.bodies.append(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        return self.bodies[-1]

    async def body(self) -> bytes:
        """Read to the end."""
        while not self.ended:
            await self.chunk()
        return b"".join(self.bodies)

    async def frames_until(self, event: str) -> list[Frame]:
        """Read until an event of this type, or a comment with this text, has come; return all frames so far."""
        while True:
            frames = frames_of(b"".join(self.bodies))
            if any(event in {frame.event, frame.comment} for frame in frames):
                return frames
            assert not self.ended, [frame.event for frame in frames]
            await self.chunk()


@asynccontextmanager
async def request(
    app: Any,
    method: str,
    path: str,
    *,
    json_body: Any = None,
    chunks: Sequence[bytes] | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> AsyncIterator[Request]:
    """Send a request to an ASGI app; leaving the block hangs up and waits for the app to be done with it."""
    if chunks is None:
        chunks = [b"" if json_body is None else json.dumps(json_body).encode()]
    length = [] if len(chunks) > 1 else [(b"content-length", str(len(chunks[0])).encode())]
    coding = [(b"transfer-encoding", b"chunked")] if len(chunks) > 1 else []
    path, _, query = path.partition("?")
    own = dict(headers)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*(pair for pair in (LOCALHOST, JSON) if pair[0] not in own), *length, *coding, *headers],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    sent = Request(chunks)
    task = asyncio.create_task(app(scope, sent.receive, sent.send))
    try:
        yield sent
    finally:
        sent.leave()
        await asyncio.wait_for(task, WAIT_S)
