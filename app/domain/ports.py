"""What the outside implements. A port's docstring is its contract; `tests/contract` runs one suite over adapters.

The ports of a run's life are in `run_ports`, those of conversations in `conversation_ports`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from app.domain.models.agents import AgentDescriptor, ToolDescriptor
from app.domain.models.conversations import (
    Caller,
    ClientSession,
    Item,
    MessageHit,
    RuntimeMemory,
)
from app.domain.models.runs import RunOptions
from app.domain.models.threads import Thread
from app.domain.models.usage import Price, TokenUsage, UsageGroup, UsageGrouping, UsageQuery, UsageResult
from app.domain.run_ports import AgentRuntime

ConversationSearch = Callable[[Caller, str, int], Awaitable[Sequence[MessageHit]]]
"""Finds messages of the caller: (caller, query, most hits) -> hits, best first."""


class Clock(Protocol):
    """The time of day and of durations, so that tests can hold it still."""

    def now(self) -> datetime:
        """Return the time of day in UTC, aware."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never steps; only differences mean something."""
        ...


class AgentSessionStore(Protocol):
    """The history of conversations in the SDK's format."""

    async def items(self, session_id: str, limit: int | None = None) -> list[Item]:
        """Return the latest `limit` items (None: all), oldest first; a limit of 0 or less gives none."""
        ...

    async def append(self, session_id: str, items: Sequence[Item]) -> None:
        """Add items at the end, all of them or none.

        Raises:
            StorageUnavailable: no answer in time; nothing was written.
        """
        ...

    async def clear(self, session_id: str) -> None:
        """Delete the history; a session that does not exist is no error."""
        ...


class AgentProvider(Protocol):
    """Agents and what runs them, behind one object."""

    @property
    def name(self) -> str:
        """The provider's name in rows: `openai` or `demo`."""
        ...

    @property
    def runtime(self) -> AgentRuntime:
        """What executes runs."""
        ...

    @property
    def sessions(self) -> AgentSessionStore:
        """The history of conversations in the SDK's format."""
        ...

    def agents(self) -> Sequence[AgentDescriptor]:
        """Return all agents, the default one first, then by key."""
        ...

    def agent(self, key: str | None) -> AgentDescriptor:
        """Return one agent, or the default one for None.

        Raises:
            UnknownAgent: no agent has that key.
        """
        ...

    def tool_overview(self) -> Sequence[ToolDescriptor]:
        """Return every tool that any agent may call, by name."""
        ...

    def checked_options(self, options: RunOptions) -> RunOptions:
        """Check what only the provider knows of a run's options, before anything is written.

        Returned with the schema of a Python `output_type` beside it, by which another process can go on with the run.

        Raises:
            InvalidInput: a model setting, schema, type or handoff history cannot be; `param` names it.
        """
        ...

    async def create_conversation(self) -> str | None:
        """Create a conversation at the provider in server mode and return its `conv_*`.

        None in local mode, and where the endpoint offers no conversations: the history is then kept in our tables.

        Raises:
            ProviderError: the endpoint offers conversations but failed to create one.
        """
        ...

    async def aclose(self) -> None:
        """Release connections to models and tools."""
        ...


class ClientSessionStore(Protocol):
    """Sessions of chat clients."""

    async def add(self, session: ClientSession) -> None:
        """Keep a new session."""
        ...

    async def get(self, session_id: str) -> ClientSession:
        """Return a session.

        Raises:
            SessionNotFound: it does not exist.
        """
        ...


class ThreadStore(Protocol):
    """Conversations by the keys of other protocols' threads. Every method looks only at the caller's own."""

    async def find(self, caller: Caller, key: str) -> Thread | None:
        """Return the conversation of a key; None: there is none."""
        ...

    async def named(self, caller: Caller, conversation_id: str) -> Thread | None:
        """Return a conversation by its own id; None: there is none."""
        ...

    async def open(
        self, caller: Caller, key: str, *, agent: str, provider: str, provider_conversation_id: str | None
    ) -> Thread:
        """Open an empty conversation under a key; return the one that another process has opened under it meanwhile."""
        ...


class RuntimeMemoryStore(Protocol):
    """The runtime memory of seed 000 over durable rows: messages in the SDK's tables, metadata apart."""

    async def create(self, caller: Caller) -> str:
        """Open an empty memory and return its id, a `conv_*`."""
        ...

    async def add_messages(self, caller: Caller, session_id: str, messages: Sequence[Item]) -> None:
        """Append messages, all or none. Raises SessionNotFound."""
        ...

    async def set_metadata(self, caller: Caller, session_id: str, metadata: Mapping[str, Any]) -> None:
        """Merge metadata, key by key. Raises SessionNotFound."""
        ...

    async def get(self, caller: Caller, session_id: str) -> RuntimeMemory:
        """Return copies of both compartments. Raises SessionNotFound."""
        ...

    async def metadata(self, caller: Caller, session_id: str) -> Mapping[str, Any]:
        """Return a copy of the metadata, without reading the messages. Raises SessionNotFound."""
        ...

    async def delete(self, caller: Caller, session_id: str) -> None:
        """Delete all rows of the memory. Raises SessionNotFound."""
        ...


class UsageStore(Protocol):
    """Reads what runs have recorded."""

    async def grouped(
        self, by: UsageGrouping, *, organization_id: str | None, since: datetime | None, until: datetime | None = None
    ) -> Sequence[UsageGroup]:
        """Sum usage of calls from `since` up to, not including, `until`; None: no bound.

        The largest token count comes first; days come in order, and are days in UTC.
        """
        ...

    async def over_time(self, query: UsageQuery, *, most: int) -> Sequence[UsageResult]:
        """Sum usage by bucket and fields: buckets in order, in each the most tokens first; at most `most` results.

        Buckets without usage have no result.
        """
        ...


class AgentActivity(Protocol):
    """When agents were last used, from the recorded runs."""

    async def last_seen(self) -> Mapping[str, datetime]:
        """Return the start of the latest run of every agent that ever ran."""
        ...


class PriceList(Protocol):
    """Prices of models."""

    def price(self, model: str, tokens: TokenUsage, at: datetime) -> Price | None:
        """Return what a call cost; None when the model is not in the list. Never guesses, never raises."""
        ...
