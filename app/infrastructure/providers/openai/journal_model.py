"""The Model that wraps every model of a run: it meters each call, records it as a step, and tells its deltas.

A call that an earlier attempt of the run has recorded is not made again: its recorded answer is given.

It is the one place that sees every call: nested agents', retried, failed and cut ones too. Outside of a run it is
transparent.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from agents import (
    AgentOutputSchemaBase,
    Handoff,
    Model,
    ModelProvider,
    ModelResponse,
    ModelSettings,
    ModelTracing,
    OpenAIResponsesModel,
    Tool,
    Usage,
)
from agents.items import TResponseInputItem, TResponseOutputItem, TResponseStreamEvent
from agents.models.fake_id import FAKE_RESPONSES_ID
from agents.retry import ModelRetryAdvice, ModelRetryAdviceRequest
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseIncompleteEvent,
    ResponseOutputItemDoneEvent,
    ResponseReasoningItem,
    ResponseUsage,
)
from openai.types.responses.response_prompt_param import ResponsePromptParam

from app.domain.errors import ProviderError, ProviderRejected
from app.infrastructure.providers.openai.call_ids import AnswerCallIds
from app.infrastructure.providers.openai.context import ACTIVE_RUN
from app.infrastructure.providers.openai.errors import cut_short, reported_failure
from app.infrastructure.providers.openai.model_calls import ModelCall
from app.infrastructure.providers.openai.recording import MAX_NAME_CHARS

_MAX_KNOWN_MODELS = 256
_FOR_READERS = (".delta", ".output_item.added")
"""Ends of the types of stream events that readers may need at once."""


class JournalModel(Model):
    """A model whose calls are recorded in the run they are part of."""

    def __init__(self, inner: Model, name: str) -> None:
        """`name` is what rows and prices know the model by."""
        self.inner = inner
        self.model = name[:MAX_NAME_CHARS]

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

        So is one whose answer may be cut by a limit, in any run: what came before the cut is told by its deltas.
        The SDK never sees deltas: it gets the whole response, so a streamed and a plain run are one path.
        """
        active = ACTIVE_RUN.get()
        if active is not None and active.recording.prepended is not None and not active.scope:
            input = active.recording.prepended.before(input)  # noqa: A001 - the SDK's name
        if active is not None:
            system_instructions = active.recording.instructions_in(active.scope, system_instructions)
        streamed = active is not None and (active.recording.stream or self._may_be_cut(model_settings))
        settings = _metered(model_settings) if streamed else model_settings
        arguments = (system_instructions, input, settings, tools, output_schema, handoffs, tracing)
        state: dict[str, Any] = {
            "previous_response_id": previous_response_id,
            "conversation_id": conversation_id,
            "prompt": prompt,
        }
        if active is None:
            return await self.inner.get_response(*arguments, **state)
        call = ModelCall(active, self.model, system_instructions, input)
        recorded = await call.begin()
        if recorded is not None:
            return recorded
        try:
            if streamed:
                response = await _drained(self.inner.stream_response(*arguments, **state), call)
            else:
                response = await self.inner.get_response(*arguments, **state)
        except BaseException as error:
            call.failed(error)
            raise
        if conversation_id is None and previous_response_id is None:
            # Where the provider keeps the history, it knows its calls by their own ids, and they are unique.
            response = replace(response, output=AnswerCallIds(active.recording).unique(response.output))
        await call.succeeded(response)
        _check_said_something(response)
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
        if active is not None:
            system_instructions = active.recording.instructions_in(active.scope, system_instructions)
        call = None if active is None else ModelCall(active, self.model, system_instructions, input)
        recorded = None if call is None else await call.begin()
        if recorded is not None:
            yield _completed(recorded, self.model)
            return
        stream = self.inner.stream_response(
            system_instructions,
            input,
            model_settings if active is None else _metered(model_settings),
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
        )
        async with closing(stream) as events:
            if active is None or call is None:
                async for event in events:
                    yield event
                return
            own_ids = conversation_id is not None or previous_response_id is not None
            async with closing(_told(events, call, None if own_ids else AnswerCallIds(active.recording))) as told:
                async for event in told:
                    yield event

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """Ask the wrapped model."""
        return self.inner.get_retry_advice(request)

    def _may_be_cut(self, settings: ModelSettings) -> bool:
        # Of a whole answer that a limit has cut, the SDK's model for Responses keeps nothing but the reason.
        return settings.max_tokens is not None and isinstance(self.inner, OpenAIResponsesModel)

    async def close(self) -> None:
        """Close the wrapped model."""
        await self.inner.close()

    def __getattr__(self, name: str) -> Any:
        """Give the SDK the optional hooks of the wrapped model (cache keys, run-scoped clean-up)."""
        if name == "inner" or name.startswith("__"):  # copy and pickle ask before there is an `inner`
            raise AttributeError(name)
        return getattr(self.inner, name)


class JournalModelProvider(ModelProvider):
    """A model provider whose models are all recorded."""

    def __init__(self, inner: ModelProvider, default_model: str | None) -> None:
        """`default_model` is used for agents that name none; None leaves that to `inner`."""
        self._inner = inner
        self.default_model = default_model
        self._models: dict[str | None, JournalModel] = {}

    def get_model(self, model_name: str | None) -> Model:
        """Return the recorded model of that name; one object a name, as long as there are few names."""
        name = model_name or self.default_model
        model = self._models.get(name)
        if model is None:
            if len(self._models) >= _MAX_KNOWN_MODELS:  # requests may name any model
                self._models.clear()
            inner = self._inner.get_model(name)
            model = self._models[name] = JournalModel(inner, name or model_name_of(inner))
        return model

    async def aclose(self) -> None:
        """Close the wrapped provider."""
        await self._inner.aclose()


def model_name_of(model: Model) -> str:
    """Return what rows and prices know a Model object by: its `model` if that is a text, else its class."""
    name = getattr(model, "model", None)  # the SDK's own models have it, the interface does not promise it
    return name if isinstance(name, str) else type(model).__name__


@asynccontextmanager
async def closing(events: AsyncIterator[Any]) -> AsyncGenerator[AsyncIterator[Any]]:
    """Close an iterator at the end of the block if it can be closed: generators can, hand-written ones may not."""
    try:
        yield events
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _metered(settings: ModelSettings) -> ModelSettings:
    """Return the settings with usage asked for: streamed chat completions report none otherwise."""
    return replace(settings, include_usage=True) if settings.include_usage is None else settings


async def _drained(stream: AsyncIterator[TResponseStreamEvent], call: ModelCall) -> ModelResponse:
    """Consume a model's stream, tell its deltas, and return the whole response.

    Raises:
        ProviderError: the stream ended without a whole response.
    """
    finished_items: list[TResponseOutputItem] = []
    response: ModelResponse | None = None
    async with closing(stream) as events:
        async for event in events:
            kind = event.type
            if kind.endswith(_FOR_READERS):
                call.tell(event)
            elif isinstance(event, ResponseOutputItemDoneEvent):
                finished_items.append(event.item)
            elif isinstance(event, ResponseCompletedEvent):
                response = _model_response(event.response, finished_items)
                break
            elif kind == "response.incomplete":
                details = event.response.incomplete_details if isinstance(event, ResponseIncompleteEvent) else None
                raise cut_short(None if details is None else details.reason)
            elif kind in {"response.failed", "response.error", "error"}:
                raise reported_failure()
    if response is None:
        raise ProviderError("The model's endpoint broke off its answer.", retryable=True)
    return response


async def _told(
    events: AsyncIterator[TResponseStreamEvent], call: ModelCall, ids: AnswerCallIds | None
) -> AsyncIterator[TResponseStreamEvent]:
    """Pass a stream on, tell its deltas, and record how it ended."""
    finished_items: list[TResponseOutputItem] = []
    recorded = False
    try:
        async for original in events:
            event = original if ids is None else ids.unique_event(original)
            if event.type.endswith(_FOR_READERS):
                call.tell(event)
            elif isinstance(event, ResponseOutputItemDoneEvent):
                finished_items.append(event.item)
            elif isinstance(event, ResponseCompletedEvent):
                response = _model_response(event.response, finished_items)
                if ids is not None:
                    response.output = ids.unique(response.output)
                    whole = event.response.model_copy(update={"output": response.output})
                    event = event.model_copy(update={"response": whole})
                recorded = True
                await call.succeeded(response)
            yield event
    except BaseException as error:
        if not recorded:
            call.failed(error)
        raise
    if not recorded:
        call.failed(reported_failure())


def _completed(response: ModelResponse, model: str) -> ResponseCompletedEvent:
    """Return a recorded answer as the one event of a stream: its deltas were told when it was made."""
    usage = response.usage
    whole = Response.model_construct(  # not checked: an endpoint's items may be of kinds the client does not know
        id=response.response_id or FAKE_RESPONSES_ID,
        created_at=0,
        model=model,
        object="response",
        output=response.output,
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage=ResponseUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            input_tokens_details=usage.input_tokens_details,
            output_tokens_details=usage.output_tokens_details,
        ),
    )
    return ResponseCompletedEvent(response=whole, sequence_number=0, type="response.completed")


def _check_said_something(response: ModelResponse) -> None:
    """Refuse an answer of reasoning alone, or of nothing: the run would end with an empty text."""
    if all(isinstance(item, ResponseReasoningItem) for item in response.output):
        raise ProviderRejected(
            "The model stopped before it said anything. Raise its output limit.", upstream_status=None
        )


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
        response_id=None if response.id == FAKE_RESPONSES_ID else response.id,
    )
