"""Server-Sent Events: a run's events as a response that survives silence, and readers that come and go."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, cast, get_args

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.errors import ErrorBody, ErrorEnvelope, body_of, internal_error_body
from app.api.events import event_json
from app.api.json_replies import encode
from app.domain.errors import AppError, InvalidInput
from app.domain.models.events import TERMINAL_TYPES, RunEvent, SequencedEvent
from app.settings import ServerSettings

log = structlog.get_logger(__name__)

KEEP_ALIVE: Final = b": keep-alive\n\n"
_HEADS: Final[Mapping[type[RunEvent], bytes]] = {
    kind: f"\nevent: {kind.type}\ndata: ".encode() for kind in get_args(RunEvent)
}
_LAST_EVENT_ID: Final = re.compile(r"(?:(run_[0-9a-f]+):)?([0-9]{1,9})")

Batches = AsyncIterator[Sequence[SequencedEvent]]


class EventStream(Response):
    """Writes batches of a run's events as `id: <run>:<sequence>`, `event: <type>`, `data: <JSON>`.

    A batch goes out as one body message, the next one `stream_gap_ms` later at the soonest. After `heartbeat_s` of
    silence a comment does, also while a tool is silent. A client that leaves ends the reading only; the run goes on.
    An error after the first byte is an event `error` with the envelope, without an id, so that a reader resumes
    before it.
    """

    media_type = "text/event-stream"

    def __init__(
        self, run_id: str, batches: Batches, server: ServerSettings, headers: Mapping[str, str] | None = None
    ) -> None:
        """`batches` is closed at the end, whoever ends it."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._head = f"id: {run_id}:".encode()
        self._batches = cast("AsyncGenerator[Sequence[SequencedEvent]]", batches)  # what services return in fact
        self._heartbeat_s = server.heartbeat_s
        self._gap_s = server.stream_gap_ms / 1000
        self._sent_at = 0.0
        self._sending = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        now = asyncio.get_running_loop().time
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._sent_at = now()
        writing = asyncio.create_task(self._write(send), name="write-events")
        gone = asyncio.create_task(_disconnected(receive), name="watch-client")
        try:
            while True:
                quiet_s = self._sent_at + self._heartbeat_s - now()
                if quiet_s <= 0 and not self._sending.locked():
                    await self._send(send, KEEP_ALIVE)
                    continue
                # With a send under way the client is slow, not the run: look again after another heartbeat.
                wait_s = quiet_s if quiet_s > 0 else self._heartbeat_s
                done, _ = await asyncio.wait((writing, gone), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    break
        except ClientDisconnect:
            pass
        finally:
            writing.cancel()
            gone.cancel()
            await asyncio.wait((writing, gone))

    async def _write(self, send: Send) -> None:
        try:
            try:
                await self._write_batches(send)
            except AppError as error:
                await self._send(send, _error_frame(body_of(error)))
            await self._send(send, b"", more=False)
        except ClientDisconnect:
            pass
        except Exception as error:  # the head is out: the last place where it can be logged and told
            request_id = str(structlog.contextvars.get_contextvars().get("request_id", "none"))
            log.error("stream_failed", exc_info=error)
            await self._send(send, _error_frame(internal_error_body(request_id)), more=False)

    async def _write_batches(self, send: Send) -> None:
        head = self._head
        async with aclosing(self._batches) as batches:
            async for batch in batches:
                frames = [
                    b"%b%d%b%b\n\n" % (head, item.sequence, _HEADS[type(item.event)], event_json(item.event))
                    for item in batch
                ]
                await self._send(send, b"".join(frames))
                if self._gap_s and type(batch[-1].event) not in TERMINAL_TYPES:
                    # Each write is a system call and a packet, which cost more than making the frame.
                    await asyncio.sleep(self._gap_s)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        async with self._sending:  # ASGI promises nothing for two sends at once
            try:
                await send({"type": "http.response.body", "body": body, "more_body": more})
            except OSError as error:  # how some servers say that the client has left
                raise ClientDisconnect from error
        self._sent_at = asyncio.get_running_loop().time()


def position(run_id: str, last_event_id: str | None, after: int | None) -> int:
    """Return after which event a reader wants to go on: `Last-Event-ID` wins, since a browser sends it by itself.

    Raises:
        InvalidInput: the header is no event id, or one of another run.
    """
    if not last_event_id:
        return after or 0
    parsed = _LAST_EVENT_ID.fullmatch(last_event_id.strip())
    if parsed is None or parsed[1] not in {None, run_id}:
        raise InvalidInput("The event id is not one of this run: it is <run id>:<number>.", param="Last-Event-ID")
    return int(parsed[2])


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error_frame(body: ErrorBody) -> bytes:
    return b"event: error\ndata: " + encode(ErrorEnvelope(body)) + b"\n\n"
