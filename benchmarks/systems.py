"""The two systems under measurement: ours with all it does, and the SDK with its own session store."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

from agents import Agent, Runner, SessionSettings, function_tool
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.bootstrap import Container, engine_of, open_container, upgrade_database
from app.domain.identifiers import session_key
from app.domain.models.conversations import Caller
from app.domain.models.runs import RunOptions, RunRequest, RunStatus
from app.infrastructure.persistence.engine import normalize_url
from app.settings import Settings, load_settings
from benchmarks.databases import Database
from benchmarks.histories import Histories
from benchmarks.instant_model import ANSWER, InstantModel

INPUT = "Which way does the river go, and what does one see on its banks?"
CALLER = Caller("bench", "user-1")
PLAIN, ONE_TOOL = "plain", "one-tool"


@function_tool
def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"{city}: sunny, 24 degrees"


def agents() -> list[Agent[Any]]:
    """Return the agents that both sides run."""
    instructions = "You answer questions about rivers, briefly."
    return [
        Agent(name=PLAIN, instructions=instructions, model=InstantModel()),
        Agent(name=ONE_TOOL, instructions=instructions, model=InstantModel("weather"), tools=[weather]),
    ]


def settings_for(url: str) -> Settings:
    """Return default settings on a database, whatever the environment says about the model's endpoint."""
    return load_settings(database={"url": url}, openai={"api_key": None, "base_url": None})


class Ours:
    """`RunService.run` as a surface calls it: journal, history, usage, events, completion, log line."""

    def __init__(self, container: Container, engine: AsyncEngine) -> None:
        self.container = container
        self.engine = engine

    async def conversations(self, amount: int, size: int) -> tuple[list[str], Histories]:
        """Open conversations with `size` items of history each; a run has been in each of them."""
        ids = [await self.run(PLAIN, None) for _ in range(amount)]
        histories = Histories(self.engine, "sdk_agent_sessions", "sdk_agent_session_messages")
        await histories.fill([session_key(CALLER.organization_id, id_) for id_ in ids], size)
        return ids, histories

    async def run(self, agent: str, conversation_id: str | None, window: int | None = None) -> str:
        """Run once; returns the conversation's id."""
        options = RunOptions(history_items=window)
        result = await self.container.runs.run(RunRequest(CALLER, INPUT, agent, conversation_id, options))
        if result.status is not RunStatus.COMPLETED or result.output != ANSWER:
            raise RuntimeError(f"our run ended as {result.status}: {result.error}")
        return result.conversation_id


class Sdk:
    """`Runner.run` with a fresh `SQLAlchemySession` a run, as a stateless server makes one."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._agents = {agent.name: agent for agent in agents()}
        self._numbers = count(1)

    def new_session_id(self) -> str:
        return f"session-{next(self._numbers)}"

    async def conversations(self, amount: int, size: int) -> tuple[list[str], Histories]:
        """Make sessions with `size` items of history each."""
        ids = [self.new_session_id() for _ in range(amount)]
        histories = Histories(self.engine, "agent_sessions", "agent_messages")
        await histories.fill(ids, size)
        return ids, histories

    def session(self, session_id: str, limit: int | None = None) -> SQLAlchemySession:
        return SQLAlchemySession(session_id, engine=self.engine, session_settings=SessionSettings(limit=limit))

    async def run(self, agent: str, session_id: str, limit: int | None = None) -> None:
        """Run once; `limit` is how much of the history the session gives, None all."""
        result = await Runner.run(self._agents[agent], INPUT, session=self.session(session_id, limit))
        if result.final_output != ANSWER:
            raise RuntimeError("the SDK's run gave another answer")


@asynccontextmanager
async def open_systems(database: Database) -> AsyncIterator[tuple[Ours, Sdk]]:
    """Start both, each on a database of its own of the same kind: their tables share names."""
    async with AsyncExitStack() as stack:
        settings = settings_for(await stack.enter_async_context(database.fresh()))
        peer_engine = _peer_engine(await stack.enter_async_context(database.fresh()))
        stack.push_async_callback(peer_engine.dispose)
        await SQLAlchemySession("first", engine=peer_engine, create_tables=True).get_items(1)

        await upgrade_database(settings)
        engine = engine_of(settings)
        stack.push_async_callback(engine.dispose)
        container = await stack.enter_async_context(open_container(settings, agents=agents(), engine=engine))
        yield Ours(container, engine), Sdk(peer_engine)


def _peer_engine(url: str) -> AsyncEngine:
    """Return a plain engine, as the SDK's documentation makes it; on SQLite with our level of durability."""
    engine = create_async_engine(normalize_url(url))
    if engine.dialect.name == "sqlite":

        def on_connect(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA synchronous = NORMAL")
            cursor.close()

        event.listen(engine.sync_engine, "connect", on_connect)
    return engine
