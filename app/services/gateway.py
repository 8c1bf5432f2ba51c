"""One call to an upstream model, passed through: allowed, limited, metered, recorded however it ends."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from app.domain.errors import ProviderError, ProviderRejected, ProviderTimeout, RateLimited
from app.domain.gateway_ports import AnswerMeter, GatewayWire, Upstream, UpstreamAnswer
from app.domain.identifiers import new_call_id
from app.domain.models.access import Principal
from app.domain.models.conversations import Caller
from app.domain.models.gateway import (
    GatewayCall,
    GatewayEnd,
    GatewayPath,
    GatewayRequest,
    Header,
    Metered,
    UpstreamHead,
)
from app.domain.models.usage import CallOutcome, CallUsage, TokenUsage
from app.domain.ports import Clock
from app.services.gateway_models import AllowedModels
from app.services.gateway_records import CallRecorder

MAX_GATHERED_BYTES: Final = 1_048_576
"""Of a plain answer; a longer one is passed on as it comes."""

_OUR_REFUSALS: Final = frozenset({401, 402, 403, 407})
"""What an upstream says of our key or account: nothing that the caller could mend."""

_OUTCOMES: Final[dict[GatewayEnd, CallOutcome]] = {
    "success": "success",
    "client_gone": "cancelled",
    "upstream_timeout": "timeout",
}


class Client(Protocol):
    """Who called us, and gets the answer."""

    def on_leave(self, leave: Callable[[], None]) -> None:
        """Have `leave` called when the client has gone; at once when it has already."""
        ...

    async def begin(self, head: UpstreamHead, body: bytes | None) -> None:
        """Send the head, and the whole body with it; None: the body comes in parts."""
        ...

    async def send(self, part: bytes) -> None:
        """Send a part of the body; returns when there is room for the next."""
        ...

    async def end(self) -> None:
        """End a body that came in parts."""
        ...


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """How much passes through at once, and how long a call may take; seconds."""

    max_calls: int = 100
    timeout_s: float = 600.0
    """For a whole call."""
    chunk_timeout_s: float = 120.0
    """Between two parts of an answer that has begun, and for a client to take one."""


class GatewayService:
    """Calls of upstream models on behalf of others."""

    def __init__(
        self,
        *,
        upstream: Upstream | None,
        models: AllowedModels,
        wire: GatewayWire,
        recorder: CallRecorder,
        clock: Clock,
        limits: GatewayLimits,
    ) -> None:
        """`upstream` None: there is no endpoint, or no model is allowed."""
        self._upstream = upstream
        self._models = models
        self._wire = wire
        self._recorder = recorder
        self._clock = clock
        self._limits = limits
        self._open_calls = 0

    @property
    def is_on(self) -> bool:
        """Whether any model may be called at all."""
        return self._models.any

    @property
    def open_calls(self) -> int:
        """Calls that are under way."""
        return self._open_calls

    @property
    def dropped_records(self) -> int:
        """Calls of this process that were never recorded; see `CallRecorder`."""
        return self._recorder.dropped

    def allows(self, model: str, access: Principal) -> bool:
        """Tell whether someone may call a model; see `AllowedModels`."""
        return self._models.allows(model, access)

    async def models(self, access: Principal | None = None) -> Sequence[str]:
        """Return the names of the models that may be called; see `AllowedModels`."""
        return await self._models.names(access)

    def read(self, path: GatewayPath, body: bytes, headers: Sequence[Header]) -> GatewayRequest:
        """Return what a body asks for.

        Raises:
            InvalidInput: it is no JSON object, names no model, or wants what cannot be accounted for.
        """
        return self._wire.read(path, body, headers)

    async def pass_through(self, request: GatewayRequest, caller: Caller, client: Client) -> None:
        """Call the upstream and give the client what it answers; the call is recorded when this returns or raises.

        An error of the upstream that is about the request is passed on like an answer. Cancellation, and a client that
        leaves, break the upstream call off; a client that has left is no error.

        Raises:
            RateLimited: too many calls are under way; the upstream was not called and nothing is recorded.
            ProviderError: the upstream could not be reached, failed, or broke off; the client has got nothing, or what
                came until then. It must not take that for a whole answer.
            StorageUnavailable: recording has to come before the reply's end, and the database is away.
        """
        if self._open_calls >= self._limits.max_calls or self._upstream is None:
            message = "This server is at its limit of calls to upstream models. Try again soon."
            raise RateLimited(message, retryable=True, retry_after_s=1.0)
        self._open_calls += 1
        passage = _Passage(request, caller, client, self._wire, self._recorder, self._clock)
        try:
            await passage.run(self._upstream, self._limits)
        finally:
            self._open_calls -= 1


class _Passage:
    """One call on its way."""

    def __init__(
        self,
        request: GatewayRequest,
        caller: Caller,
        client: Client,
        wire: GatewayWire,
        recorder: CallRecorder,
        clock: Clock,
    ) -> None:
        self._request = request
        self._caller = caller
        self._client = client
        self._wire = wire
        self._recorder = recorder
        self._started_at: datetime = clock.now()
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._first_token_ms: int | None = None
        self._head: UpstreamHead | None = None
        self._meter: AnswerMeter | None = None
        self._deadline = asyncio.timeout(None)
        self._ends_at = 0.0
        self._chunk_timeout_s = 0.0
        self._is_open = False
        self._client_left = False
        self._client_is_slow = False
        self._is_recorded = False

    async def run(self, upstream: Upstream, limits: GatewayLimits) -> None:
        """Pass the call; see `GatewayService.pass_through`."""
        self._ends_at = self._started + limits.timeout_s
        self._chunk_timeout_s = limits.chunk_timeout_s
        self._deadline = asyncio.timeout_at(self._ends_at)
        try:
            async with self._deadline:
                self._is_open = True
                self._client.on_leave(self._leave)
                try:
                    async with upstream.open(self._request) as answer:
                        self._head = answer.head
                        await self._pass(answer)
                finally:
                    self._is_open = False
        except TimeoutError as error:
            if self._client_left or self._client_is_slow:
                await self._record("client_gone", "client_gone")
                if self._client_left:
                    return
                raise ProviderError("The client did not take its answer in time.", retryable=True) from error
            await self._record("upstream_timeout", ProviderTimeout.code)
            raise ProviderTimeout("The model's endpoint did not answer in time.") from error
        except ProviderError as error:
            if not self._is_recorded:
                end: GatewayEnd = "upstream_away" if isinstance(error, ProviderTimeout) else "upstream_cut"
                await self._record(end, error.code)
            raise
        except BaseException:
            # This process stops, or something of ours failed: the reply will not wait for the record.
            self._add("client_gone", "cancelled")
            raise

    def _leave(self) -> None:
        """Break the call off: there is nobody to give it to."""
        self._client_left = True
        if self._is_open:
            self._deadline.reschedule(self._now())

    async def _pass(self, answer: UpstreamAnswer) -> None:
        failure = _failure_of(answer.head)
        if failure is not None:
            await self._record("upstream_error", f"upstream_{answer.head.status}")
            raise failure
        if answer.head.streamed and answer.head.status < 300:
            await self._stream(answer)
        else:
            await self._gather(answer)

    async def _stream(self, answer: UpstreamAnswer) -> None:
        """Pass an event stream on, part by part; its record comes before the part with its last event."""
        meter = self._meter = self._wire.meter(self._request, streamed=True)
        await self._client.begin(answer.head, None)
        async for chunk in answer.chunks():
            shown = meter.feed(chunk)
            if self._first_token_ms is None and meter.has_token:
                self._first_token_ms = self._elapsed_ms()
            if meter.metered.ended:
                await self._succeeded()
            if shown:
                await self._give(shown)
        rest = meter.rest()
        if not meter.metered.ended:
            raise ProviderError("The model's endpoint broke off its answer.", retryable=True)
        await self._succeeded()
        if rest:
            await self._give(rest)
        await self._client.end()

    async def _gather(self, answer: UpstreamAnswer) -> None:
        """Pass a plain answer on, in one go when it is not very long; its record comes before its last part."""
        meter = self._meter = self._wire.meter(self._request, streamed=False)
        gathered: list[bytes] = []
        gathered_bytes = 0
        has_begun = False
        async for chunk in answer.chunks():
            self._wait_on()
            gathered.append(meter.feed(chunk))
            gathered_bytes += len(gathered[-1])
            if gathered_bytes > MAX_GATHERED_BYTES:
                if not has_begun:
                    has_begun = True
                    await self._client.begin(answer.head, None)
                # The last part stays here: the record comes before it.
                await self._give(b"".join(gathered[:-1]))
                gathered, gathered_bytes = gathered[-1:], MAX_GATHERED_BYTES
        meter.rest()
        await self._succeeded()
        body = b"".join(gathered)
        if not has_begun:
            await self._client.begin(answer.head, body)
            return
        await self._give(body)
        await self._client.end()

    async def _give(self, part: bytes) -> None:
        """Send a part, and give upstream and client the time of another one."""
        self._client_is_slow = True
        self._wait_on()
        await self._client.send(part)
        self._client_is_slow = False
        self._wait_on()

    def _wait_on(self) -> None:
        if not self._client_left:
            self._deadline.reschedule(min(self._ends_at, self._now() + self._chunk_timeout_s))

    async def _succeeded(self) -> None:
        """Record an answer that has come, an error about the request included; once."""
        if self._is_recorded:
            return
        assert self._head is not None
        assert self._meter is not None
        code = self._meter.metered.error_code
        if self._head.status >= 300:
            await self._record("upstream_error", code or f"upstream_{self._head.status}")
        elif code is not None:
            await self._record("upstream_error", code)
        else:
            await self._record("success", None)

    async def _record(self, end: GatewayEnd, error_code: str | None) -> None:
        if not self._is_recorded:
            self._is_recorded = True
            await self._recorder.record(*self._call(end, error_code))

    def _add(self, end: GatewayEnd, error_code: str | None) -> None:
        if not self._is_recorded:
            self._is_recorded = True
            self._recorder.add(*self._call(end, error_code))

    def _call(self, end: GatewayEnd, error_code: str | None) -> tuple[GatewayCall, Callable[[], TokenUsage] | None]:
        """Return the call as it is recorded, and what counts its tokens when the upstream told none."""
        metered = Metered() if self._meter is None else self._meter.metered
        status = None if self._head is None else self._head.status
        # A refused request used nothing, and an upstream that was not reached knows nothing of it.
        used_nothing = end == "upstream_away" or (status is not None and status >= 300)
        is_exact = used_nothing or metered.tokens is not None
        usage = CallUsage(
            step=self._request.path,
            agent="",
            model=self._request.model,
            outcome=_OUTCOMES.get(end, "error"),
            accuracy="exact" if is_exact else "estimated",
            tokens=metered.tokens or TokenUsage(requests=1),
            started_at=self._started_at,
            latency_ms=self._elapsed_ms(),
            first_token_ms=self._first_token_ms,
            response_id=metered.response_id,
        )
        call = GatewayCall(
            id=new_call_id(),
            caller=self._caller,
            path=self._request.path,
            end=end,
            usage=usage,
            upstream_status=status,
            upstream_request_id=None if self._head is None else self._head.request_id,
            error_code=error_code,
            streamed=self._head is not None and self._head.streamed,
        )
        if is_exact:
            return call, None
        return call, partial(_estimated, self._wire, self._request, self._meter)

    def _elapsed_ms(self) -> int:
        return round((self._now() - self._started) * 1000)


def _failure_of(head: UpstreamHead) -> ProviderError | None:
    """Return what an answer means that is not passed on; None: it is for the caller, errors about the request too."""
    status, request_id = head.status, head.request_id
    if status in _OUR_REFUSALS:
        message = "The model's endpoint refused the API key or account of this server."
        return ProviderRejected(message, upstream_status=status, request_id=request_id)
    if status == 504:
        return ProviderTimeout("The model's endpoint did not answer in time.", request_id=request_id)
    if status >= 500:
        return ProviderError("The model's endpoint failed.", retryable=True, request_id=request_id)
    if not (200 <= status < 300 or status >= 400):
        message = "The model's endpoint sent an answer that cannot be read."
        return ProviderRejected(message, upstream_status=status, request_id=request_id)
    return None


def _estimated(wire: GatewayWire, request: GatewayRequest, meter: AnswerMeter | None) -> TokenUsage:
    return wire.estimate(request, "" if meter is None else meter.output_text())
