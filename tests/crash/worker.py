"""One process of the system with a scripted agent, and what it left in the database.

The agent has a tool and a model without state (what it answers depends on the items it is given), so that any number of
runs, in any number of processes, can use it at once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from agents import Agent, Model, ModelResponse, Usage, function_tool
from agents.testing import assistant_message, function_call
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.conversations import Caller
from app.domain.models.runs import RunRequest
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import (
    completion_events,
    conversations,
    messages,
    run_events,
    run_steps,
    run_usage,
    runs,
    sdk_messages,
)
from app.infrastructure.providers.openai.provider import build_openai_provider
from app.services.executions import ExecutionLimits
from app.services.run_log import LogTimes
from tests.assembly import RunProcess, run_process

CALLER = Caller("acme", "ada")
USAGE = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)


class StatelessModel(Model):
    """Calls the tool for a text that starts with `tool`, then answers; other texts are answered at once."""

    model = "scripted"

    async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
        await asyncio.sleep(0)  # as any real model, it lets others go on
        items = arguments[1] if len(arguments) > 1 else options["input"]
        last = items[-1]
        said = next(item["content"] for item in reversed(items) if item.get("role") == "user")
        if last.get("type") != "function_call_output" and said.startswith("tool"):
            return ModelResponse([function_call("note", {"text": said}, call_id=f"call_{said}")], USAGE, "resp")
        return ModelResponse([assistant_message(f"re: {said}", item_id=f"msg_{said}")], USAGE, "resp")

    def stream_response(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


@function_tool
async def note(text: str) -> str:
    """Note a text."""
    return f"noted {text}"


@dataclass
class Worker(RunProcess):
    """A running process of the system."""

    async def say(self, text: str, conversation: str | None = None, *, stream: bool = False) -> Any:
        return await self.runs.run(RunRequest(CALLER, text, conversation_id=conversation, stream=stream))


@asynccontextmanager
async def working(
    engine: AsyncEngine,
    *,
    lease_s: float = 15,
    take_over: bool = False,
    journal: SqlRunJournal | None = None,
    agent: Agent[Any] | None = None,
    retry_s: float = 30,
    grace_s: float = 5,
    max_attempts: int = 5,
    poll_s: float = 0.05,
    max_running: int = 100,
) -> AsyncIterator[Worker]:
    """Run one process of the system over an engine."""
    agent = agent or Agent(name="scribe", model=StatelessModel(), tools=[note])
    provider = build_openai_provider(engine, [agent])
    try:
        async with run_process(
            engine,
            provider,
            lease_s=lease_s,
            take_over=take_over,
            journal=journal,
            execution=ExecutionLimits(timeout_s=60, max_attempts=max_attempts, log=LogTimes(retry_s=retry_s)),
            grace_s=grace_s,
            poll_s=poll_s,
            max_running=max_running,
        ) as process:
            yield Worker(**vars(process))
    finally:
        await provider.aclose()


@dataclass(frozen=True)
class Left:
    """The rows of one run."""

    status: str
    reason: str | None
    items: int
    messages: int
    steps: int
    usage: int
    events: int
    completions: int

    @property
    def rows(self) -> tuple[int, ...]:
        return (self.messages, self.steps, self.usage, self.events, self.completions)


async def rows_of(engine: AsyncEngine, run_id: str) -> Left:
    """Look at what a run has in every table; the history's items are told by the run's text."""
    async with engine.connect() as connection:
        run = (await connection.execute(select(runs).where(runs.c.id == run_id))).one()
        counts = [
            (
                await connection.execute(select(func.count()).select_from(table).where(table.c.run_id == run_id))
            ).scalar_one()
            for table in (messages, run_steps, run_usage, run_events, completion_events)
        ]
        text = run.input[0]["content"]
        history = await items_of(engine, run.conversation_id)
    reason = (run.result or {}).get("error") or {}
    own = [item for item in history if text in json_text.encode(item)]
    return Left(run.status, reason.get("details", {}).get("reason"), len(own), *counts)


async def items_of(engine: AsyncEngine, conversation: str) -> list[dict[str, Any]]:
    """The whole history of a conversation, in order."""
    statement = (
        select(sdk_messages.c.message_data)
        .join(conversations, conversations.c.sdk_session_id == sdk_messages.c.session_id)
        .where(conversations.c.id == conversation)
        .order_by(sdk_messages.c.created_at, sdk_messages.c.id)
    )
    async with engine.connect() as connection:
        return [json_text.decode(data) for data in (await connection.execute(statement)).scalars()]


async def check_conversation(engine: AsyncEngine, conversation: str, texts: Sequence[str]) -> None:
    """Assert that a conversation holds exactly the runs of these texts: whole, in order, nothing lost or doubled."""
    history = await items_of(engine, conversation)
    expected: list[tuple[str, str]] = []
    async with engine.connect() as connection:
        ran = (
            await connection.execute(select(runs).where(runs.c.conversation_id == conversation).order_by("position"))
        ).all()
        told = (
            await connection.execute(
                select(messages).where(messages.c.conversation_id == conversation).order_by("position")
            )
        ).all()
    assert [run.position for run in ran] == list(range(1, len(texts) + 1))
    assert sorted(run.input[0]["content"] for run in ran) == sorted(texts)
    for run in ran:
        text = run.input[0]["content"]
        expected.append(("user", text))
        if text.startswith("tool"):
            expected += [("function_call", text), ("function_call_output", text)]
        expected.append(("message", text))
    found = [(item.get("type") or item["role"], json_text.encode(item)) for item in history]
    assert [kind for kind, _ in found] == [kind for kind, _ in expected]
    assert all(text in data for (_, text), (_, data) in zip(expected, found, strict=True))
    assert [message.position for message in told] == list(range(1, 2 * len(texts) + 1))
    assert [message.role for message in told] == ["user", "assistant"] * len(texts)
