"""Sessions of chat clients: what `/api/session` opens and every message of a chat names."""

import re
from typing import Final

from app.domain.conversation_ports import ConversationStore
from app.domain.errors import InvalidInput
from app.domain.identifiers import check_organization, new_client_session_id
from app.domain.models.conversations import Caller, ClientSession
from app.domain.ports import AgentProvider, ClientSessionStore, Clock

MAX_USER_ID_CHARS: Final = 255
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class ClientSessionService:
    """Opens client sessions, each with a conversation of its own, and finds them again."""

    def __init__(
        self, sessions: ClientSessionStore, conversations: ConversationStore, provider: AgentProvider, clock: Clock
    ) -> None:
        """Keep sessions and conversations in the stores; the provider checks the agent and may hold the history."""
        self._sessions = sessions
        self._conversations = conversations
        self._provider = provider
        self._clock = clock

    async def open(self, organization_id: str, user_id: str, agent: str | None = None) -> ClientSession:
        """Open a session with an empty conversation; None: the default agent, which is then the conversation's.

        Raises:
            InvalidInput: the organization is malformed, or the user id is not 1 to 255 printable characters.
            UnknownAgent: no agent has that key.
            ProviderError: the provider keeps conversations but failed to create one; nothing was written.
        """
        caller = Caller(check_organization(organization_id), _checked_user(user_id))
        key = self._provider.agent(agent).key
        conversation = await self._conversations.create(
            caller,
            agent=key,
            provider=self._provider.name,
            provider_conversation_id=await self._provider.create_conversation(),
        )
        session = ClientSession(new_client_session_id(), caller, key, conversation.id, self._clock.now())
        await self._sessions.add(session)
        return session

    async def get(self, session_id: str) -> ClientSession:
        """Return a session.

        Raises:
            SessionNotFound: it does not exist.
        """
        return await self._sessions.get(session_id)


def _checked_user(user_id: str) -> str:
    if not 1 <= len(user_id) <= MAX_USER_ID_CHARS or _UNPRINTABLE.search(user_id):
        raise InvalidInput(f"A user id is 1 to {MAX_USER_ID_CHARS} printable characters.", param="user_id")
    return user_id
