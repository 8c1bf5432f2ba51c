"""Threads of other protocols: a client's own name for a thread finds the conversation, or opens it."""

import hashlib
import json
from typing import Final, Literal

from app.domain.errors import ConversationNotFound, InvalidInput
from app.domain.models.conversations import Caller
from app.domain.models.threads import Thread
from app.domain.ports import AgentProvider, ThreadStore

Surface = Literal["ai_sdk", "ag_ui"]
"""Whose names they are: the same name on another surface is another conversation."""

MAX_NAME_CHARS: Final = 255


class ThreadService:
    """Finds conversations by the names that clients give them. A name is known to its user and surface alone."""

    def __init__(self, store: ThreadStore, provider: AgentProvider) -> None:
        """`provider` opens conversations in server mode."""
        self._store = store
        self._provider = provider

    async def find(self, caller: Caller, surface: Surface, name: str) -> Thread | None:
        """Return the conversation of a name; None: there is none (yet, or any more).

        Raises:
            InvalidInput: the name is empty, or longer than 255 characters.
        """
        return await self._store.find(caller, thread_key(caller, surface, name))

    async def open(self, caller: Caller, surface: Surface, name: str, agent: str | None) -> Thread:
        """Return the conversation of a name, opened for the agent when there is none.

        Raises:
            InvalidInput: the name is empty, or longer than 255 characters.
            UnknownAgent: no agent has that key.
            ProviderError: the provider could not create a conversation (server mode).
        """
        key = thread_key(caller, surface, name)
        known = await self._store.find(caller, key)
        if known is not None:
            return known
        return await self._store.open(
            caller,
            key,
            agent=self._provider.agent(agent).key,
            provider=self._provider.name,
            provider_conversation_id=await self._provider.create_conversation(),
        )

    async def named(self, caller: Caller, conversation_id: str) -> Thread:
        """Return a conversation by its own id.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        found = await self._store.named(caller, conversation_id)
        if found is None:
            raise ConversationNotFound(conversation_id)
        return found


def thread_key(caller: Caller, surface: Surface, name: str) -> str:
    """Return 64 hex digits for a name: of another tenant, user or surface it has others.

    Raises:
        InvalidInput: the name is empty, or longer than 255 characters.
    """
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise InvalidInput(f"A thread's name is 1 to {MAX_NAME_CHARS} characters.", param="id")
    named = json.dumps([surface, caller.organization_id, caller.user_id, name])
    return hashlib.blake2b(named.encode(), digest_size=32).hexdigest()
