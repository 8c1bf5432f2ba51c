"""Sending an answer: with its delays, its faults, and an eye on the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .backend import Answer
from .faults import Cut, Fail, Fault, Faults, Garbage, Hang
from .recorder import Outcome, Recorder
from .wire import ApiError, encode

_GARBAGE = b'<html><body>{"object": "response", "output": [\x00</body>'


class Hangs:
    """The requests that wait for a release. Used in the server's thread only."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.stopping = False

    @property
    def event(self) -> asyncio.Event:
        """Set at the next release, or at once when the server is stopping."""
        return self._event

    def release(self) -> None:
        """Let all that hang now go on; later ones hang again."""
        self._event.set()
        if not self.stopping:
            self._event = asyncio.Event()

    def stop(self) -> None:
        """End all that hang, now and later: the server is going away."""
        self.stopping = True
        self._event.set()


@dataclass(frozen=True)
class Wiring:
    """What a delivery needs of the server; `close` drops the connection of a client address, flushing what was sent."""

    recorder: Recorder
    faults: Faults
    hangs: Hangs
    close: Callable[[tuple[str, int]], None]


class Delivery(Response):
    """One reply on its way. `work` is run when the reply begins, so that a hanging request takes nothing.

    A client that leaves ends the delivery: nothing more is sent, the answer is not completed, the record says
    `client_gone`.
    """

    def __init__(
        self,
        wiring: Wiring,
        *,
        number: int,
        request_id: str,
        fault: Fault | None,
        work: Callable[[], Answer],
    ) -> None:
        super().__init__()
        self._wiring = wiring
        self._number = number
        self._request_id = request_id
        self._fault = fault
        self._work = work
        self._status: int | None = None
        self._outcome: Outcome = "answered"
        self._answered: Answer | None = None
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and record how that ended even when the server cancels it."""
        gone = asyncio.create_task(_until_gone(receive), name="watch the client")
        outcome: Outcome = "stopped"
        try:
            outcome = await self._deliver(scope, send, gone)
        finally:
            self._end(outcome)
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone

    def _end(self, outcome: Outcome) -> None:
        """Record the end, once: before the last byte, as a client that has it all may look at once."""
        if not self._ended:
            self._ended = True
            if self._answered is not None:
                self._answered.on_end()
            self._wiring.recorder.end(self._number, outcome, self._status)

    async def _deliver(self, scope: Scope, send: Send, gone: asyncio.Task[None]) -> Outcome:
        fault = self._fault
        if isinstance(fault, Hang) and fault.after_events is None:
            ended = await self._hang(scope, gone)
            if ended is not None:
                return ended
        if await _left_within(gone, self._wiring.faults.delay_s):
            return "client_gone"
        answer, headers = self._answer()
        self._answered = answer
        return await self._send(answer, headers, scope, send, gone)

    def _answer(self) -> tuple[Answer, dict[str, str]]:
        match self._fault:
            case Fail() as fail:
                error = ApiError(
                    fail.message,
                    status=fail.status,
                    code=fail.code,
                    error_type=fail.error_type,
                    headers=fail.headers,
                )
                self._outcome = "fault"
            case Garbage():
                self._outcome = "garbage"
                return Answer([_GARBAGE]), {}
            case _:
                try:
                    return self._work(), {}
                except ApiError as refusal:
                    error = refusal
                    self._outcome = "refused"
        return Answer([encode(error.envelope())], status=error.status), error.headers

    async def _send(
        self, answer: Answer, headers: dict[str, str], scope: Scope, send: Send, gone: asyncio.Task[None]
    ) -> Outcome:
        chunks = answer.chunks
        cut = self._fault if isinstance(self._fault, Cut) else None
        hang = self._fault if isinstance(self._fault, Hang) else None
        if not answer.streamed:
            headers = {"content-length": str(sum(len(chunk) for chunk in chunks)), **headers}
            if cut is not None:
                chunks = [chunks[0][: len(chunks[0]) // 2]]
        await self._start(answer, headers, send)
        last_sent = len(chunks) - 1
        for position, chunk in enumerate(chunks):
            if cut is not None and answer.streamed and position >= cut.after_events:
                return await self._cut(cut, answer, scope, gone)
            if hang is not None and hang.after_events == position:
                ended = await self._hang(scope, gone)
                if ended is not None:
                    return ended
            if await _left_within(gone, self._wiring.faults.event_delay_s if answer.streamed else 0):
                return "client_gone"
            if position == last_sent and cut is None:
                answer.on_complete()
                self._end(self._outcome)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if cut is not None:
            return await self._cut(cut, answer, scope, gone)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return self._outcome

    async def _start(self, answer: Answer, headers: dict[str, str], send: Send) -> None:
        self._status = answer.status
        named = {
            "content-type": "text/event-stream; charset=utf-8" if answer.streamed else "application/json",
            "x-request-id": self._request_id,
            "openai-version": "2020-10-01",
            "openai-processing-ms": "1",
            **{name.lower(): value for name, value in headers.items()},
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})

    async def _cut(self, cut: Cut, answer: Answer, scope: Scope, gone: asyncio.Task[None]) -> Outcome:
        if cut.stored:
            answer.on_complete()
        self._end("cut")
        await self._close(scope, gone)
        return "cut"

    async def _hang(self, scope: Scope, gone: asyncio.Task[None]) -> Outcome | None:
        """Wait; None when released."""
        released = asyncio.create_task(self._wiring.hangs.event.wait(), name="wait for the release")
        try:
            await asyncio.wait((gone, released), return_when=asyncio.FIRST_COMPLETED)
        finally:
            released.cancel()
            with suppress(asyncio.CancelledError):
                await released
        if gone.done():
            return "client_gone"
        if self._wiring.hangs.stopping:
            self._end("stopped")
            await self._close(scope, gone)
            return "stopped"
        return None

    async def _close(self, scope: Scope, gone: asyncio.Task[None]) -> None:
        self._wiring.close(scope["client"])
        # The server must know that the connection is lost, or it would complain of an unfinished response.
        await asyncio.wait((gone,), timeout=1)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _left_within(gone: asyncio.Task[None], delay_s: float) -> bool:
    """Wait `delay_s` or until the client leaves; always gives the loop a turn, so that leaving is seen."""
    if delay_s > 0:
        await asyncio.wait((gone,), timeout=delay_s)
    else:
        await asyncio.sleep(0)
    return gone.done()


def refusing(error: ApiError) -> Callable[[], Answer]:
    """Work that only refuses."""
    return partial(_refuse, error)


def _refuse(error: ApiError) -> Answer:
    raise error
