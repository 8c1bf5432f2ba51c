"""The Model that wraps every model of a run: it meters each call, records it as a step, and tells its deltas.

It is the one place that sees every call: nested agents', retried, failed and cut ones too. Outside of a run it is
transparent.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import openai
import structlog
from agents import (
    AgentOutputSchemaBase,
    Handoff,
    Model,
    ModelBehaviorError,
    ModelProvider,
    ModelResponse,
    ModelSettings,
    ModelTracing,
    Tool,
    Usage,
)
from agents.exceptions import ModelTimeoutError
from agents.items import TResponseInputItem, TResponseOutputItem, TResponseStreamEvent
from agents.retry import ModelRetryAdvice, ModelRetryAdviceRequest
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemDoneEvent,
)
from openai.types.responses.response_prompt_param import ResponsePromptParam

from app.domain.errors import ProviderError, ProviderRejected
from app.domain.identifiers import uuid7_hex
from app.domain.models.events import ModelCallStarted, UsageReported
from app.domain.models.runs import Step
from app.domain.models.usage import Accuracy, CallOutcome, CallUsage, TokenUsage
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun
from app.infrastructure.providers.openai.streaming import delta_of
from app.infrastructure.providers.openai.usage import estimated_usage, token_usage

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Call:
    """One model call while it goes on."""

    active: ActiveRun
    model: str
    instructions: str | None
    request: str | list[TResponseInputItem]
    step: str
    agent: str
    request_hash: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    first_token_ms: int | None = None
    partial: list[str] = field(default_factory=list[str])
    """Text that has arrived, for the estimate of a call that is cut."""

    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def tell(self, event: TResponseStreamEvent) -> None:
        """Pass a stream event of the model on to the readers, if it is one for them."""
        delta = delta_of(event, self.active.scope)
        if delta is None:
            return
        recording = self.active.recording
        if self.first_token_ms is None:
            self.first_token_ms = self.elapsed_ms()
            recording.saw_token()
        self.partial.append(delta.delta)
        recording.publish(delta)

    def succeeded(self, response: ModelResponse) -> None:
        """Record the call as a finished step."""
        items = [cast("dict[str, Any]", item) for item in response.to_input_items()]
        if not self.active.scope:
            self.active.recording.responses.append((response.response_id or "", items))
        self._record("success", "exact", token_usage(response.usage), items, response.response_id)

    def failed(self, error: BaseException) -> None:
        """Record the call as a failed step: a refused request used nothing, a cut one is counted here."""
        outcome: CallOutcome = "error"
        if isinstance(error, asyncio.CancelledError):
            outcome = "cancelled"
        elif isinstance(error, openai.APITimeoutError | ModelTimeoutError | TimeoutError):
            outcome = "timeout"
        if isinstance(error, openai.APIStatusError) or (
            isinstance(error, openai.APIConnectionError) and outcome == "error" and not self.partial
        ):
            self._record(outcome, "exact", TokenUsage(requests=1), None, None)
            return
        tokens = estimated_usage(self.instructions, self.request, "".join(self.partial))
        self._record(outcome, "estimated", tokens, None, None)

    def _record(
        self,
        outcome: CallOutcome,
        accuracy: Accuracy,
        tokens: TokenUsage,
        items: list[dict[str, Any]] | None,
        response_id: str | None,
    ) -> None:
        recording = self.active.recording
        latency_ms = self.elapsed_ms()
        recording.calls.append(
            CallUsage(
                step=self.step,
                agent=self.agent,
                model=self.model,
                outcome=outcome,
                accuracy=accuracy,
                tokens=tokens,
                started_at=self.started_at,
                latency_ms=latency_ms,
                first_token_ms=self.first_token_ms,
                response_id=response_id,
            )
        )
        recording.steps.append(
            Step(
                key=self.step,
                kind="model",
                name=self.model,
                agent=self.agent,
                state="done" if items is not None else "failed",
                request_hash=self.request_hash,
                result=items,
                response_id=response_id,
                started_at=self.started_at,
                duration_ms=latency_ms,
            )
        )
        recording.publish(UsageReported(self.step, self.model, tokens, accuracy, self.active.scope))


class JournalModel(Model):
    """A model whose calls are recorded in the run they are part of."""

    def __init__(self, inner: Model, name: str) -> None:
        """`name` is what rows and prices know the model by."""
        self.inner = inner
        self.model = name

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> ModelResponse:
        """Call the model; in a streamed run the call is streamed underneath and its deltas are told as they arrive.

        The SDK never sees deltas: it gets the whole response, so a streamed and a plain run are one path.
        """
        active = ACTIVE_RUN.get()
        arguments = (system_instructions, input, model_settings, tools, output_schema, handoffs, tracing)
        state: dict[str, Any] = {
            "previous_response_id": previous_response_id,
            "conversation_id": conversation_id,
            "prompt": prompt,
        }
        if active is None:
            return await self.inner.get_response(*arguments, **state)
        call = self._begin(active, system_instructions, input)
        try:
            if active.recording.stream:
                response = await _drained(self.inner.stream_response(*arguments, **state), call)
            else:
                response = await self.inner.get_response(*arguments, **state)
        except BaseException as error:
            call.failed(error)
            raise
        response.output = _with_unique_call_ids(response.output, active)
        call.succeeded(response)
        return response

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Stream the model for code inside a run that asks the Runner for a stream of its own."""
        active = ACTIVE_RUN.get()
        events = self.inner.stream_response(
            system_instructions,
            input,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
        )
        if active is None:
            async for event in events:
                yield event
            return
        call = self._begin(active, system_instructions, input)
        response: ModelResponse | None = None
        try:
            async for event in events:
                call.tell(event)
                if isinstance(event, ResponseCompletedEvent):
                    response = _model_response(event.response, [])
                    call.succeeded(response)
                yield event
        except BaseException as error:
            if response is None:
                call.failed(error)
            raise

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """Ask the wrapped model."""
        return self.inner.get_retry_advice(request)

    async def close(self) -> None:
        """Close the wrapped model."""
        await self.inner.close()

    def __getattr__(self, name: str) -> Any:
        """Give the SDK the optional hooks of the wrapped model (cache keys, run-scoped clean-up)."""
        return getattr(self.inner, name)

    def _begin(self, active: ActiveRun, instructions: str | None, request: str | list[TResponseInputItem]) -> _Call:
        recording = active.recording
        step = recording.next_model_step(active.scope)
        agent = recording.agents.get(active.scope, active.context.agent)
        recording.publish(ModelCallStarted(step, agent, self.model, 1, active.scope))
        return _Call(active, self.model, instructions, request, step, agent, _request_hash(instructions, request))


class JournalModelProvider(ModelProvider):
    """A model provider whose models are all recorded."""

    def __init__(self, inner: ModelProvider, default_model: str) -> None:
        """`default_model` is used for agents that name none."""
        self._inner = inner
        self._default_model = default_model
        self._models: dict[str, JournalModel] = {}

    def get_model(self, model_name: str | None) -> Model:
        """Return the recorded model of that name; one object a name."""
        name = model_name or self._default_model
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = JournalModel(self._inner.get_model(name), name)
        return model

    async def aclose(self) -> None:
        """Close the wrapped provider."""
        await self._inner.aclose()


async def _drained(events: AsyncIterator[TResponseStreamEvent], call: _Call) -> ModelResponse:
    """Consume a model's stream, tell its deltas, and return the whole response.

    Raises:
        ProviderError: the stream ended without a whole response.
    """
    finished_items: list[TResponseOutputItem] = []
    response: ModelResponse | None = None
    # Models are written as async generators; closing ours closes the connection when the run is cancelled.
    async with aclosing(cast("Any", events)):
        async for event in events:
            kind = event.type
            if kind.endswith(".delta"):
                call.tell(event)
            elif isinstance(event, ResponseOutputItemDoneEvent):
                finished_items.append(event.item)
            elif isinstance(event, ResponseCompletedEvent):
                response = _model_response(event.response, finished_items)
            elif kind in {"response.failed", "response.incomplete", "error"}:
                raise _terminal_failure(kind)
    if response is None:
        raise ProviderError("The model's endpoint broke off its answer.", retryable=True)
    return response


def _terminal_failure(kind: str) -> Exception:
    if kind == "response.incomplete":
        return ProviderRejected(
            "The model stopped before its answer was complete: output limit or content filter.", upstream_status=None
        )
    return ProviderError("The model's endpoint reported a failure in its stream.", retryable=True)


def _model_response(response: Response, finished_items: Sequence[TResponseOutputItem]) -> ModelResponse:
    """Return the SDK's response of a terminal event; some backends send the items only one by one before it."""
    usage = response.usage
    return ModelResponse(
        output=list(response.output or finished_items),
        usage=Usage(
            requests=1,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            input_tokens_details=usage.input_tokens_details,
            output_tokens_details=usage.output_tokens_details,
        )
        if usage is not None
        else Usage(requests=1),
        response_id=response.id,
    )


def _with_unique_call_ids(output: list[TResponseOutputItem], active: ActiveRun) -> list[TResponseOutputItem]:
    """Rename tool calls whose id was used before: some endpoints count from `call_0` in every answer.

    The SDK refuses a repeated id within a run and drops the older pair across runs.
    """
    renamed = list(output)
    for index, item in enumerate(output):
        if isinstance(item, ResponseFunctionToolCall):
            if not item.call_id:
                raise ModelBehaviorError("The model called a tool without a call id.")
            if not active.recording.claim_call_id(item.call_id):
                unique = f"{item.call_id}_{uuid7_hex()[-12:]}"
                active.recording.claim_call_id(unique)
                renamed[index] = item.model_copy(update={"call_id": unique})
    return renamed


def _request_hash(instructions: str | None, request: str | list[TResponseInputItem]) -> str:
    """Return a digest of what the model was asked, to notice on replay that the code has changed meanwhile."""
    encoded = msgspec.json.encode([instructions, request], enc_hook=str)
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


