"""Ports in memory, as far as the services of this folder use them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.errors import ConversationNotFound, SessionNotFound, UnknownAgent
from app.domain.models.agents import AgentDescriptor, ToolDescriptor
from app.domain.models.conversations import (
    Caller,
    ClientSession,
    Conversation,
    ConversationFilter,
    ForkPoint,
    Item,
    Message,
    MessageHit,
    RuntimeMemory,
    Share,
    SharedPage,
)
from app.domain.models.usage import UsageGroup, UsageGrouping

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANNA = Caller("acme", "anna")


class Conversations:
    """A ConversationStore that notes every call."""

    def __init__(self, messages: Sequence[str] = (), items: Sequence[Item] = (), title: str | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.stored: dict[str, Conversation] = {}
        self._messages = [
            Message(
                n,
                "user" if n % 2 else "assistant",
                text,
                None,
                None if n % 2 else "helper",
                NOON + timedelta(seconds=n),
            )
            for n, text in enumerate(messages, start=1)
        ]
        self._items = list(items)
        self._title = title

    async def create(
        self, caller: Caller, *, agent: str | None, provider: str, provider_conversation_id: str | None
    ) -> Conversation:
        made = Conversation(
            id=f"conv_{len(self.stored) + 1}",
            organization_id=caller.organization_id,
            user_id=caller.user_id,
            agent=agent,
            last_agent=None,
            title=self._title,
            metadata={},
            provider=provider,
            provider_conversation_id=provider_conversation_id,
            sdk_session_id="key",
            run_count=0,
            message_count=len(self._messages),
            created_at=NOON,
            updated_at=NOON,
        )
        self.stored[made.id] = made
        return made

    async def get(self, caller: Caller, conversation_id: str) -> Conversation:
        found = self.stored.get(conversation_id)
        if found is None or found.organization_id != caller.organization_id:
            raise ConversationNotFound(conversation_id)
        return found

    async def list(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None,
        oldest_first: bool = False,
        only: ConversationFilter | None = None,
    ) -> tuple[Sequence[Conversation], bool]:
        self.calls.append(("list", caller, limit, after, oldest_first, only))
        return [*self.stored.values()][:limit], False

    async def messages(
        self, caller: Caller, conversation_id: str, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Message]:
        self.calls.append(("messages", limit, after))
        await self.get(caller, conversation_id)
        return [message for message in self._messages if message.position > after][:limit]

    async def items(
        self, caller: Caller, conversation_id: str, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Item]:
        self.calls.append(("items", limit, after))
        await self.get(caller, conversation_id)
        return self._items[after:][:limit]

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        await self.get(caller, conversation_id)
        del self.stored[conversation_id]

    async def search(self, caller: Caller, query: str, limit: int) -> Sequence[MessageHit]:
        self.calls.append(("search", caller, query, limit))
        hits = [MessageHit("conv_1", self._title, message) for message in self._messages if query in message.text]
        return hits[:limit]

    async def fork(self, caller: Caller, conversation_id: str, point: ForkPoint) -> Conversation:
        self.calls.append(("fork", conversation_id, point))
        return await self.get(caller, conversation_id)

    async def share(self, caller: Caller, conversation_id: str, share: Share, token_hash: str) -> Share:
        self.calls.append(("share", token_hash))
        await self.get(caller, conversation_id)
        return share

    async def shared(self, token_hash: str, *, now: datetime, limit: int, after: int) -> SharedPage | None:
        self.calls.append(("shared", token_hash, now, limit, after))
        return None


class Memories:
    """A RuntimeMemoryStore that keeps the very objects it is given."""

    def __init__(self) -> None:
        self.messages: dict[tuple[Caller, str], list[Item]] = {}
        self.compartments: dict[tuple[Caller, str], dict[str, Any]] = {}

    async def create(self, caller: Caller) -> str:
        key = f"conv_{len(self.messages) + 1}"
        self.messages[caller, key] = []
        self.compartments[caller, key] = {}
        return key

    async def add_messages(self, caller: Caller, session_id: str, messages: Sequence[Item]) -> None:
        self._check(caller, session_id)
        self.messages[caller, session_id] += messages

    async def set_metadata(self, caller: Caller, session_id: str, metadata: Mapping[str, Any]) -> None:
        self._check(caller, session_id)
        self.compartments[caller, session_id].update(metadata)

    async def get(self, caller: Caller, session_id: str) -> RuntimeMemory:
        self._check(caller, session_id)
        return RuntimeMemory(tuple(self.messages[caller, session_id]), self.compartments[caller, session_id])

    async def metadata(self, caller: Caller, session_id: str) -> Mapping[str, Any]:
        return (await self.get(caller, session_id)).metadata

    async def delete(self, caller: Caller, session_id: str) -> None:
        self._check(caller, session_id)
        del self.messages[caller, session_id]

    def _check(self, caller: Caller, session_id: str) -> None:
        if (caller, session_id) not in self.messages:
            raise SessionNotFound(session_id)


class Sessions:
    """A ClientSessionStore."""

    def __init__(self) -> None:
        self.stored: dict[str, ClientSession] = {}

    async def add(self, session: ClientSession) -> None:
        self.stored[session.id] = session

    async def get(self, session_id: str) -> ClientSession:
        if session_id not in self.stored:
            raise SessionNotFound(session_id)
        return self.stored[session_id]


class Usage:
    """A UsageStore that answers the same groups whatever is asked."""

    def __init__(self, *groups: UsageGroup) -> None:
        self.groups = groups
        self.asked: list[tuple[Any, ...]] = []

    async def grouped(
        self, by: UsageGrouping, *, organization_id: str | None, since: datetime | None, until: datetime | None = None
    ) -> Sequence[UsageGroup]:
        self.asked.append((by, organization_id, since, until))
        return self.groups


class Activity:
    """An AgentActivity."""

    def __init__(self, seen: Mapping[str, datetime]) -> None:
        self._seen = seen

    async def last_seen(self) -> Mapping[str, datetime]:
        return self._seen


class Clock:
    """A clock that stands still."""

    def now(self) -> datetime:
        return NOON

    def monotonic(self) -> float:
        return 0.0


class Provider:
    """An AgentProvider as far as agents are concerned; it executes nothing."""

    name = "openai"

    def __init__(self, conversation: str | Exception | None = None) -> None:
        self._conversation = conversation

    @property
    def runtime(self) -> Any:
        raise NotImplementedError

    @property
    def sessions(self) -> Any:
        raise NotImplementedError

    def agents(self) -> Sequence[AgentDescriptor]:
        return [
            AgentDescriptor(key, f"The {key}", "gpt-5-mini", ("clock",), (), key == "helper", "spec")
            for key in ("helper", "coder")
        ]

    def agent(self, key: str | None) -> AgentDescriptor:
        for agent in self.agents():
            if agent.key == (key or "helper"):
                return agent
        raise UnknownAgent(key or "", ("helper", "coder"))

    def tool_overview(self) -> Sequence[ToolDescriptor]:
        return [ToolDescriptor("clock", "function", "The time", ("helper", "coder"))]

    async def create_conversation(self) -> str | None:
        if isinstance(self._conversation, Exception):
            raise self._conversation
        return self._conversation

    async def aclose(self) -> None:
        pass
