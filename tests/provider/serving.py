"""A whole provider behind `RunService`, as a host program has it, and what one run of it left behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from agents import Model, ModelSettings, ModelTracing
from agents.items import TResponseStreamEvent
from agents.testing import ModelStep, assistant_message
from openai.types.responses import Response, ResponseCompletedEvent, ResponseTextDeltaEvent, ResponseUsage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.conversations import Caller, Item, Message
from app.domain.models.events import RunEvent
from app.domain.models.runs import RunOptions, RunRequest, RunResult
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.tables import run_steps, run_usage
from app.infrastructure.persistence.tables import runs as run_rows
from app.infrastructure.providers.openai.context import ContextFactory
from app.infrastructure.providers.openai.endpoint import EndpointOptions
from app.infrastructure.providers.openai.provider import OpenAIAgentProvider, ProviderOptions, build_openai_provider
from app.services.executions import ExecutionLimits
from app.services.run_requests import RunLimits
from app.services.runs import RunHandle, RunService
from tests.assembly import run_process
from tests.fakes.openai import FakeOpenAI

CALLER = Caller("acme", "ada")


@dataclass(frozen=True)
class Ran:
    """One run that has ended."""

    result: RunResult
    events: list[RunEvent]

    @property
    def told(self) -> list[str]:
        return [event.type for event in self.events]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def kinds(self) -> list[str]:
        return kinds(self.result.items)


@dataclass
class Served:
    """A running provider."""

    provider: OpenAIAgentProvider
    runs: RunService
    conversations: SqlConversationStore
    engine: AsyncEngine
    handles: list[RunHandle] = field(default_factory=list)

    async def start(
        self,
        given: str | Sequence[Item],
        *,
        agent: str | None = None,
        stream: bool = False,
        to: str | None = None,
        caller: Caller = CALLER,
        **options: Any,
    ) -> RunHandle:
        request = RunRequest(caller, given, agent, to, RunOptions(**options), stream)
        handle = await self.runs.start(request)
        self.handles.append(handle)
        return handle

    async def run(self, given: str | Sequence[Item], **request: Any) -> Ran:
        handle = await self.start(given, **request)
        return await self.ended(handle)

    async def ended(self, handle: RunHandle) -> Ran:
        events = [one.event async for batch in handle.events(0) for one in batch.events]
        return Ran(await handle.result(), events)

    async def steps(self, run_id: str) -> list[Any]:
        async with self.engine.connect() as connection:
            return list(
                (await connection.execute(select(run_steps).where(run_steps.c.run_id == run_id).order_by("step"))).all()
            )

    async def usage_rows(self, run_id: str) -> list[Any]:
        async with self.engine.connect() as connection:
            return list(
                (await connection.execute(select(run_usage).where(run_usage.c.run_id == run_id).order_by("step"))).all()
            )

    async def row(self, run_id: str) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(select(run_rows).where(run_rows.c.id == run_id))).one()

    async def messages(self, conversation_id: str, caller: Caller = CALLER) -> Sequence[Message]:
        return await self.conversations.messages(caller, conversation_id)

    async def history(self, conversation_id: str) -> Sequence[Item]:
        return await self.conversations.items(CALLER, conversation_id)


@asynccontextmanager
async def serving(
    engine: AsyncEngine,
    *agents: Any,
    options: ProviderOptions | None = None,
    client: Any = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    context_factory: ContextFactory | None = None,
    limits: RunLimits | None = None,
    execution: ExecutionLimits | None = None,
) -> AsyncIterator[Served]:
    """Serve agents from one process; at the end every run must have ended."""
    conversations = SqlConversationStore(engine)
    provider = build_openai_provider(
        engine,
        agents,
        conversation_search=conversations.search,
        tools=tools,
        options=options,
        client=client,
        context_factory=context_factory,
    )
    await provider.start()
    try:
        async with run_process(
            engine, provider, lease_s=30, limits=limits, execution=execution or ExecutionLimits(timeout_s=20)
        ) as process:
            yield Served(provider, process.runs, conversations, engine)
    finally:
        await provider.aclose()


def endpoint(fake: FakeOpenAI, **options: Any) -> ProviderOptions:
    """Options of a provider that calls the fake server."""
    mode = options.pop("session_mode", "local")
    defaults: dict[str, Any] = {
        "api": "responses",
        "default_model": "gpt-4.1-mini",
        "max_retries": 0,
        "request_timeout_s": 5,
    }
    return ProviderOptions(
        endpoint=EndpointOptions(api_key=fake.api_key, base_url=fake.base_url, **{**defaults, **options}),
        session_mode=mode,
    )


def kinds(items: Sequence[Item]) -> list[str]:
    return [str(item.get("type") or item["role"]) if item.get("type") != "message" else item["role"] for item in items]


def user(text: str) -> Item:
    return {"role": "user", "content": text}


def snapshot(agent: Any) -> dict[str, Any]:
    """The fields of an agent, lists copied: what must be the same after a run."""
    assert is_dataclass(agent)
    values = {one.name: getattr(agent, one.name) for one in fields(agent)}
    return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}


def text_delta(text: str) -> TResponseStreamEvent:
    return ResponseTextDeltaEvent(
        content_index=0,
        delta=text,
        item_id="msg_1",
        logprobs=[],
        output_index=0,
        sequence_number=0,
        type="response.output_text.delta",
    )


def stream_end(text: str) -> list[Any]:
    """The end of a streamed answer: the last delta and the whole response."""
    response = Response(
        id="resp_9",
        created_at=0,
        model="m",
        object="response",
        output=[assistant_message(text)],
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage=ResponseUsage(
            input_tokens=5,
            output_tokens=3,
            total_tokens=8,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        ),
    )
    return [text_delta(text), ResponseCompletedEvent(response=response, sequence_number=9, type="response.completed")]


class Gate:
    """A point where a model or a tool stands still until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.left: list[str] = []

    async def stop(self) -> None:
        """Stand still; `left` says how it went on."""
        self.reached.set()
        try:
            await self.open.wait()
            self.left.append("opened")
        except asyncio.CancelledError:
            self.left.append("cancelled")
            raise

    def stream(self, before: str, *after: TResponseStreamEvent) -> ModelStep:
        """A streamed answer that says `before`, stands still, and goes on with `after`."""

        async def events(_call: Any) -> AsyncIterator[TResponseStreamEvent]:
            yield text_delta(before)
            await self.stop()
            for event in after:
                yield event

        return ModelStep.stream(events)

    def answer(self, step: Any) -> ModelStep:
        """An answer that stands still before it is given."""

        async def respond(_call: Any) -> Any:
            await self.stop()
            return step

        return ModelStep.respond(respond)


async def bare_call(model: Model, text: str) -> Any:
    """Call a model as code outside of any run does."""
    return await model.get_response(
        None,
        text,
        ModelSettings(),
        [],
        None,
        [],
        ModelTracing.DISABLED,
        previous_response_id=None,
        conversation_id=None,
        prompt=None,
    )
