"""What the gateway to upstream models needs of the outside."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.domain.models.gateway import GatewayCall, GatewayPath, GatewayRequest, Header, Metered, UpstreamHead
from app.domain.models.runs import CompletionEvent
from app.domain.models.usage import TokenUsage


class UpstreamAnswer(Protocol):
    """An answer that has begun."""

    head: UpstreamHead

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, decompressed; once.

        Raises:
            ProviderError: it was broken off.
        """
        ...


class Upstream(Protocol):
    """The endpoint that models are called at, with our key; its connections are kept."""

    def open(self, request: GatewayRequest) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Send a request and give its answer as soon as that begins, whatever its status; no retries.

        Leaving the block, by cancellation too, breaks off what has not come yet.

        Raises:
            ProviderTimeout: it could not be reached; it has not seen the request.
            ProviderError: it closed the connection without an answer; it may have seen the request.
        """
        ...

    async def model_names(self) -> Sequence[str]:
        """Return the names of its models, in its order.

        Raises:
            ProviderError: it did not answer, or without a list.
        """
        ...


class AnswerMeter(Protocol):
    """Reads one answer while it passes; never changes or delays it, except for what the client did not ask for."""

    def feed(self, chunk: bytes) -> bytes:
        """Take a part of the body, and return what the client is to see now: the same, or less, or nothing yet."""
        ...

    def rest(self) -> bytes:
        """Take the end of the body, and return what was still held back."""
        ...

    @property
    def has_token(self) -> bool:
        """Whether the first word of a stream has come."""
        ...

    @property
    def metered(self) -> Metered:
        """What was read so far; cheap."""
        ...

    def output_text(self) -> str:
        """Return the text of the answer so far, to count it; costs time, for answers without usage only."""
        ...


class GatewayWire(Protocol):
    """Reads the JSON of requests and answers, as far as needed."""

    def read(self, path: GatewayPath, body: bytes, headers: Sequence[Header]) -> GatewayRequest:
        """Return what a body asks for.

        Raises:
            InvalidInput: it is no JSON object, names no model, or wants what cannot be accounted for.
        """
        ...

    def meter(self, request: GatewayRequest, *, streamed: bool) -> AnswerMeter:
        """Return what reads the answer."""
        ...

    def estimate(self, request: GatewayRequest, output_text: str) -> TokenUsage:
        """Count the tokens of a call that told no usage; takes up to seconds, so call it in a thread."""
        ...


class GatewayCallStore(Protocol):
    """Keeps the rows of calls."""

    async def record(self, calls: Sequence[tuple[GatewayCall, CompletionEvent]], *, again: bool = False) -> None:
        """Write calls, each with its completion event, all of them or none.

        `again`: an earlier try of the same calls may have come through after all; those are left as they are.

        Raises:
            StorageUnavailable: the database did not answer in time; nothing was written, or nobody knows.
        """
        ...
