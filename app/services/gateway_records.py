"""What calls through the gateway leave: one row of usage and one completion event each, written in batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Literal, Self

import structlog

from app.domain.errors import StorageUnavailable
from app.domain.gateway_ports import GatewayCallStore
from app.domain.identifiers import new_event_id
from app.domain.models.gateway import GatewayCall
from app.domain.models.runs import CompletionEvent
from app.domain.models.usage import CallUsage, TokenUsage
from app.domain.ports import PriceList
from app.services.records import COMPLETION_VERSION, Outcome

log = structlog.get_logger(__name__)

RecordWhen = Literal["batched", "before_reply"]

MAX_BATCH_CALLS: Final = 500
"""Rows of one transaction."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_LOG_EVERY_S: Final = 10.0

_OUTCOMES: Final[dict[str, Outcome]] = {
    "success": "success",
    "client_gone": "user_terminated",
    "upstream_timeout": "timeout",
}


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """When calls are written, and how many may wait."""

    when: RecordWhen = "batched"
    """`batched`: the reply does not wait. `before_reply`: its end waits until the call is on disk."""
    flush_s: float = 0.05
    """How long a call waits for others at most, before its batch is written."""
    max_waiting: int = 10_000
    """Calls in memory while the database is away; later ones are counted and dropped."""
    patience_s: float = 10.0
    """How long the end of a reply waits with `before_reply`, and a stopping process for its last calls."""


@dataclass(slots=True)
class _Waiting:
    call: GatewayCall
    estimate: Callable[[], TokenUsage] | None
    """Counts the tokens; until then those of the call are none."""
    written: "asyncio.Future[None] | None"


class CallRecorder:
    """Writes calls in the background: many in one transaction, again and again while the database is away.

    A process that is killed loses the calls of the batch that is not written yet (those of the last `flush_s`, or
    all that wait while the database is away); with `before_reply` it loses none whose reply has ended.
    """

    def __init__(self, store: GatewayCallStore, prices: PriceList, limits: RecordLimits) -> None:
        """Nothing is written before `start`; `async with` starts it, and closes it at the end."""
        self._store = store
        self._prices = prices
        self._limits = limits
        self._waiting: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._end = asyncio.Event()
        self._told_at = -_LOG_EVERY_S
        self.dropped = 0
        """Calls that were never written, exactly: there was no room, no time at the end, or the database refused."""

    async def __aenter__(self) -> Self:
        """Start."""
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what waits; see `aclose`."""
        await self.aclose()

    def start(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write_forever(), name="record-calls")

    async def aclose(self) -> None:
        """Write what waits, for `patience_s` at most; what is left then is counted and dropped."""
        if self._writer is None:
            return
        self._end.set()
        self._news.set()
        await asyncio.wait((self._writer,), timeout=self._limits.patience_s)
        self._writer.cancel()
        await asyncio.wait((self._writer,))
        left = len(self._waiting)
        for waiting in self._waiting:
            self._settle(waiting, StorageUnavailable("The process stopped before the call was recorded."))
        self._waiting.clear()
        if left:
            self._drop(left, "stopped")

    @property
    def waiting(self) -> int:
        """Calls that are not written yet."""
        return len(self._waiting)

    def add(self, call: GatewayCall, estimate: Callable[[], TokenUsage] | None = None) -> None:
        """Take a call to be written; returns at once."""
        self._take(_Waiting(call, estimate, None))

    async def record(self, call: GatewayCall, estimate: Callable[[], TokenUsage] | None = None) -> None:
        """Take a call to be written, and with `before_reply` wait until it is.

        Raises:
            StorageUnavailable: it is not, within `patience_s`; it still will be when the database comes back.
        """
        if self._limits.when == "batched":
            self._take(_Waiting(call, estimate, None))
            return
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._take(_Waiting(call, estimate, written)):
            raise StorageUnavailable("The database is away, and too many calls wait for it.")
        try:
            async with asyncio.timeout(self._limits.patience_s):
                await written
        except TimeoutError as error:
            raise StorageUnavailable("The database did not answer in time. The call will be recorded later.") from error

    def _take(self, waiting: _Waiting) -> bool:
        if len(self._waiting) >= self._limits.max_waiting:
            self._drop(1, "full")
            return False
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            self._news.set()
        return True

    async def _write_forever(self) -> None:
        while self._waiting or not self._end.is_set():
            await self._news.wait()
            self._news.clear()
            if self._limits.when == "batched":
                await self._pause(self._limits.flush_s)
            pause_s, again = 0.0, False
            while self._waiting:
                if again:
                    await self._pause(pause_s)
                await self._count()
                batch = [self._waiting[index] for index in range(min(len(self._waiting), MAX_BATCH_CALLS))]
                try:
                    await self._write(batch, again=again)
                except StorageUnavailable:
                    pause_s, again = min(max(_FIRST_PAUSE_S, pause_s * 2), _LONGEST_PAUSE_S), True
                    self._tell("calls_wait_for_the_database", waiting=len(self._waiting))
                else:
                    pause_s, again = 0.0, False

    async def _pause(self, pause_s: float) -> None:
        """Wait, but hardly at the end."""
        if self._end.is_set():
            await asyncio.sleep(min(pause_s, _FIRST_PAUSE_S))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._end.wait()

    async def _count(self) -> None:
        """Count the tokens of calls that told no usage, aside: a long prompt takes seconds, and its text is let go."""
        for waiting in [waiting for waiting in self._waiting if waiting.estimate is not None]:
            estimate = waiting.estimate
            assert estimate is not None
            try:
                tokens = await asyncio.to_thread(estimate)
            except Exception as error:  # the call is recorded all the same, without its tokens; logged
                log.error("token_estimate_failed", call_id=waiting.call.id, exc_info=error)
                tokens = TokenUsage(requests=1)
            waiting.estimate = None
            waiting.call = replace(waiting.call, usage=replace(waiting.call.usage, tokens=tokens))

    async def _write(self, batch: Sequence[_Waiting], *, again: bool) -> None:
        """Write a batch and take it off the queue; where the database refuses it for good, one by one."""
        rows = [self._row(waiting.call) for waiting in batch]
        try:
            await self._store.record(rows, again=again)
        except StorageUnavailable:
            raise
        except Exception as error:  # one row must not keep all others from being written; logged, counted
            if len(batch) > 1:
                for waiting in batch:
                    await self._write((waiting,), again=True)
                return
            log.error("call_not_recorded", call_id=batch[0].call.id, exc_info=error)
            self._drop(1, "refused")
        for waiting in batch:
            self._waiting.popleft()
            self._settle(waiting, None)

    def _settle(self, waiting: _Waiting, error: StorageUnavailable | None) -> None:
        if waiting.written is None or waiting.written.done():
            return
        if error is None:
            waiting.written.set_result(None)
        else:
            waiting.written.set_exception(error)

    def _row(self, call: GatewayCall) -> tuple[GatewayCall, CompletionEvent]:
        usage = call.usage
        price = self._prices.price(usage.model, usage.tokens, usage.started_at)
        call = replace(call, usage=replace(usage, price=price))
        return call, completion_of(call)

    def _drop(self, calls: int, reason: str) -> None:
        self.dropped += calls
        self._tell("calls_dropped", reason=reason, dropped_in_all=self.dropped)

    def _tell(self, event: str, **fields: Any) -> None:
        now = asyncio.get_running_loop().time()
        if event == "calls_dropped" and fields["reason"] != "full":
            log.error(event, **fields)
        elif now - self._told_at >= _LOG_EVERY_S:
            self._told_at = now
            log.warning(event, **fields)


def completion_of(call: GatewayCall) -> CompletionEvent:
    """Return the event of one call for billing, analytics and audit; it holds no content.

    Its session is the call itself, which belongs to no conversation.
    """
    usage = call.usage
    tokens = usage.tokens
    outcome = _OUTCOMES.get(call.end, "error")
    ended_at = usage.started_at + timedelta(milliseconds=usage.latency_ms)
    payload: dict[str, Any] = {
        "session_type": "api",
        "endpoint": call.path,
        "models": [usage.model],
        "outcome": {"status": outcome, "error_code": call.error_code, "end": call.end},
        "usage": {
            "requests": tokens.requests,
            "input_tokens": tokens.input_tokens,
            "cached_tokens": tokens.cached_tokens,
            "output_tokens": tokens.output_tokens,
            "reasoning_tokens": tokens.reasoning_tokens,
            "total_tokens": tokens.total_tokens,
            "cost_usd": _cost(usage),
            "estimated": usage.accuracy == "estimated",
        },
        "start_time": usage.started_at.isoformat(),
        "end_time": ended_at.isoformat(),
        "duration_ms": usage.latency_ms,
        "first_token_ms": usage.first_token_ms,
        "streamed": call.streamed,
        "upstream_status": call.upstream_status,
        "upstream_request_id": call.upstream_request_id,
        "project_id": call.caller.project_id,
        "api_key_id": call.caller.api_key_id,
        "metadata": {},
    }
    return CompletionEvent(
        id=new_event_id(),
        type="session.completed" if call.end == "success" else "run.failed",
        version=COMPLETION_VERSION,
        organization_id=call.caller.organization_id,
        user_id=call.caller.user_id,
        session_id=call.id,
        run_id=call.id,
        outcome=outcome,
        payload=payload,
        created_at=ended_at,
    )


def _cost(usage: CallUsage) -> str | None:
    return None if usage.price is None else str(usage.price.cost_usd)
