"""Conversations at the provider: creates `conv_*` where the endpoint offers them, and says so where it does not."""

import openai
import structlog
from openai import AsyncOpenAI

from app.domain.models.conversations import SessionMode
from app.infrastructure.providers.openai.errors import translate

log = structlog.get_logger(__name__)


class ConversationClient:
    """The factory of provider conversations (seed 004): its ids become the authoritative thread ids in server mode."""

    def __init__(self, client: AsyncOpenAI | None, mode: SessionMode) -> None:
        """`client` is None for the demo model, which keeps no conversations."""
        self._client = client
        self._offered = client is not None and mode == "server"

    async def create(self) -> str | None:
        """Create a conversation and return its `conv_*`; None in local mode or where the endpoint offers none.

        An endpoint that offers none is asked once.

        Raises:
            ProviderError: the endpoint failed; it may offer conversations.
        """
        if not self._offered or self._client is None:
            return None
        try:
            conversation = await self._client.conversations.create()
        except openai.APIStatusError as error:
            if error.status_code in {404, 405, 501}:
                log.info("conversations_not_offered", status=error.status_code)
                self._offered = False
                return None
            raise translate(error) from error
        except openai.OpenAIError as error:
            raise translate(error) from error
        return conversation.id
