"""Conversations: the thread, its messages for people, and the caller that owns it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Item = dict[str, Any]
"""One entry of the history in the SDK's format (a Responses input item); JSON values only."""

SessionMode = Literal["local", "server"]
"""Where the model's history lives: in our tables, or in the provider's Conversations API. Never both in one run."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a call is made for; part of every key that finds a row."""

    organization_id: str
    user_id: str | None = None
    """None: the organization as a whole; it then sees every user's conversations."""
    project_id: str | None = None
    """Whom a call is accounted to; it restricts nothing."""
    api_key_id: str | None = None
    """With which key the call was made; it restricts nothing."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A thread of runs."""

    id: str
    organization_id: str
    user_id: str | None
    agent: str | None
    """The agent it was opened for; a run may name another."""
    last_agent: str | None
    """The agent that answered last, after handoffs; None before the first answer."""
    title: str | None
    metadata: Mapping[str, Any]
    """The caller's own values; never part of a prompt."""
    provider: str
    provider_conversation_id: str | None
    """The provider's `conv_*` in server mode, else None."""
    sdk_session_id: str
    """The key of its history in `sdk_agent_sessions`."""
    run_count: int
    message_count: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the app's own history, for people to read."""

    position: int
    """1 for the first message of the conversation, without gaps."""
    role: Literal["user", "assistant"]
    text: str
    run_id: str | None
    agent: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MessageHit:
    """A message that a search found."""

    conversation_id: str
    title: str | None
    message: Message
    snippet: str = ""
    """The text around the first word that was found, on one line; `…` where something was left out."""

    @property
    def id(self) -> str:
        """What names the hit in a list."""
        return f"{self.conversation_id}:{self.message.position}"


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """Which conversations are listed; None: all of them."""

    agent: str | None = None
    """The agent that they were opened for, or that answered last."""
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation to be opened with what it begins with."""

    provider: str
    agent: str | None = None
    title: str | None = None
    """None: the beginning of the user's first message."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    items: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class ConversationItem:
    """An item of a conversation's history, and what names it there."""

    id: str
    item: Item


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """Where a conversation is forked: behind a run, behind an item, or, with neither, at its end."""

    after_run_id: str | None = None
    after_item_id: str | None = None
    stateless: bool = False
    """The copy is not to be kept when the run that it is made for has ended."""


@dataclass(frozen=True, slots=True)
class Share:
    """A link that shows a conversation's messages to whoever holds its token."""

    id: str
    conversation_id: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class IssuedShare:
    """A link that was just made: the only time that its token is told."""

    share: Share
    token: str


@dataclass(frozen=True, slots=True)
class SharedPage:
    """What a link shows."""

    title: str | None
    created_at: datetime
    """When the link was made: what was said later is not in it."""
    expires_at: datetime
    messages: Sequence[Message]
    has_more: bool


@dataclass(frozen=True, slots=True)
class ClientSession:
    """What a chat client holds: it stands for an organization, a user and a current conversation."""

    id: str
    caller: Caller
    agent: str | None
    conversation_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RuntimeMemory:
    """The two compartments of a runtime session (seed 000): content, and metadata that no prompt ever holds."""

    messages: tuple[Item, ...]
    metadata: Mapping[str, Any]
