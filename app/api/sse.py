"""Server-Sent Events: a run's events as a response that survives silence, and readers that come and go."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import aclosing, contextmanager
from typing import Final, cast

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.errors import body_of, internal_error_body
from app.api.frames import BatchFrames, Frames, RunFrames
from app.domain.errors import AppError, InvalidInput
from app.domain.models.events import STOP_TYPES, EventBatch
from app.settings import ServerSettings

log = structlog.get_logger(__name__)

KEEP_ALIVE: Final = b": keep-alive\n\n"
GAP_S_PER_STREAM: Final = 0.0003
_LAST_EVENT_ID: Final = re.compile(r"(?:(run_[0-9a-f]+):)?([0-9]{1,9})")

Batches = AsyncIterator[EventBatch]


class EventStreams:
    """The event streams of one application: readers of one run share its frames, and all end when it stops."""

    def __init__(self, server: ServerSettings) -> None:
        """`server` says how often streams write and beat."""
        self.heartbeat_s: Final = server.heartbeat_s
        self._gap_s: Final = server.stream_gap_ms / 1000
        self._runs: dict[str, RunFrames] = {}
        self._ends: set[asyncio.Future[None]] = set()
        self._stopped = False

    def open(
        self,
        run_id: str,
        batches: Batches,
        headers: Mapping[str, str] | None = None,
        frames: Frames | None = None,
    ) -> "EventStream":
        """Return a response that tells a run's events; `batches` is closed at its end, whoever ends it.

        `frames`: how another protocol tells them; None: as they are.
        """
        return EventStream(run_id, batches, self, headers, frames)

    @property
    def gap_s(self) -> float:
        """Seconds between two writes of a stream: as set, and longer where many streams are open.

        A write costs about 50 us, and runs are executed by the same loop: they keep most of it.
        """
        return max(self._gap_s, len(self._ends) * GAP_S_PER_STREAM) if self._gap_s else 0.0

    @property
    def readers(self) -> int:
        """Streams that are open."""
        return len(self._ends)

    def stop(self) -> None:
        """End all streams, those that come later at once; their runs go on, and their clients come again.

        Call it in the event loop, as soon as the server begins to stop: it waits for open replies before it stops the
        application, and a stream ends no earlier than its run.
        """
        self._stopped = True
        for end in self._ends:
            if not end.done():
                end.set_result(None)

    @contextmanager
    def reading(self, run_id: str) -> Generator[tuple[RunFrames, "asyncio.Future[None]"]]:
        """Count a reader of a run in the block; gives the run's frames, and what is done when the stream must end."""
        frames = self._runs.setdefault(run_id, RunFrames())
        frames.readers += 1
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends.add(end)
        if self._stopped:
            end.set_result(None)
        try:
            yield frames, end
        finally:
            self._ends.discard(end)
            frames.readers -= 1
            if not frames.readers:
                del self._runs[run_id]


class EventStream(Response):
    """Writes batches of a run's events as `id: <run>:<sequence>`, `event: <type>`, `data: <JSON>`.

    An event that is told before it is on disk has no id. Once it is, the next frame moves the client's last event id
    over it: one with an id of its own, or one that is nothing but an id. So a client that comes again never names a
    number that another attempt of the run may give to another event.

    A batch goes out as one body message, the next one `stream_gap_ms` later at the soonest. After `heartbeat_s` of
    silence a comment does, also while a tool is silent. A client that leaves ends the reading only; the run goes on.
    An error after the first byte is an event `error` with the envelope, without an id, so that a reader resumes
    before it. Other protocols have frames of their own; the rest holds for them too. What is set as `background` is
    done after the end of the stream, or after its client has left, but not when the server stops.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        run_id: str,
        batches: Batches,
        streams: EventStreams,
        headers: Mapping[str, str] | None = None,
        frames: Frames | None = None,
    ) -> None:
        """See `EventStreams.open`."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._run_id = run_id
        self._batches = cast("AsyncGenerator[EventBatch]", batches)  # what services return in fact
        self._streams = streams
        self._frames = frames
        self._sent_at = 0.0
        self._sending = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._sent_at = asyncio.get_running_loop().time()
        with self._streams.reading(self._run_id) as (shared, end):
            frames = self._frames or BatchFrames(self._run_id, shared)
            writing = asyncio.create_task(self._write(send, frames), name="write-events")
            gone = asyncio.create_task(_disconnected(receive), name="watch-client")
            stopped = False
            try:
                stopped = await self._watch(send, writing, gone, end)
            except ClientDisconnect:
                pass
            finally:
                writing.cancel()
                gone.cancel()
                await asyncio.wait((writing, gone))
            if stopped:
                await self._end(send)
        if self.background is not None and not stopped:
            await self.background()

    async def _watch(
        self, send: Send, writing: "asyncio.Task[None]", gone: "asyncio.Task[None]", end: "asyncio.Future[None]"
    ) -> bool:
        """Send heartbeats until the stream is written, its client has left, or it must end; tell whether it must."""
        now = asyncio.get_running_loop().time
        heartbeat_s = self._streams.heartbeat_s
        while True:
            quiet_s = self._sent_at + heartbeat_s - now()
            if quiet_s <= 0 and not self._sending.locked():
                await self._send(send, KEEP_ALIVE)
                continue
            # With a send under way the client is slow, not the run: look again after another heartbeat.
            wait_s = quiet_s if quiet_s > 0 else heartbeat_s
            done, _ = await asyncio.wait((writing, gone, end), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return writing not in done and gone not in done

    async def _write(self, send: Send, frames: Frames) -> None:
        try:
            try:
                await self._write_batches(send, frames)
            except AppError as error:
                await self._send(send, frames.error(body_of(error)))
            await self._send(send, b"", more=False)
        except ClientDisconnect:
            pass
        except Exception as error:  # the head is out: the last place where it can be logged and told
            request_id = str(structlog.contextvars.get_contextvars().get("request_id", "none"))
            log.error("stream_failed", exc_info=error)
            await self._send(send, frames.error(internal_error_body(request_id)), more=False)

    async def _write_batches(self, send: Send, frames: Frames) -> None:
        async with aclosing(self._batches) as batches:
            async for batch in batches:
                body = frames.of(batch)
                if not body:
                    continue
                await self._send(send, body)
                events = batch.events
                gap_s = self._streams.gap_s
                if gap_s and not (events and type(events[-1].event) in STOP_TYPES):
                    # Each write is a system call and a packet, which cost more than making the frame.
                    await asyncio.sleep(gap_s)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        async with self._sending:  # ASGI promises nothing for two sends at once
            try:
                await send({"type": "http.response.body", "body": body, "more_body": more})
            except OSError as error:  # how some servers say that the client has left
                raise ClientDisconnect from error
        self._sent_at = asyncio.get_running_loop().time()

    async def _end(self, send: Send) -> None:
        """End the reply in order, so that the client does not take it for a broken one."""
        try:
            await self._send(send, b"", more=False)
        except ClientDisconnect:
            log.debug("client_left_a_stopped_stream", run_id=self._run_id)


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
