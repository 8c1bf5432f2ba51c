"""The `search_conversations` tool: lets an agent look through its own caller's earlier messages."""

from collections.abc import Awaitable, Callable

from app.domain.models.tools import tool_policy
from app.domain.ports import ConversationSearch
from app.infrastructure.providers.openai.context import current_run

MAX_HITS = 20
MAX_QUOTED_CHARS = 500


def search_tool(search: ConversationSearch) -> Callable[[str, int], Awaitable[str]]:
    """Return the tool over a search; whose messages it searches comes from the run, never from the model."""

    # No default for the limit: some endpoints refuse strict schemas that hold one.
    @tool_policy("idempotent")
    async def search_conversations(query: str, limit: int) -> str:
        """Search the user's earlier conversations.

        Args:
            query: words that the messages must hold.
            limit: how many messages to return at most, 1 to 20; 5 is usual.
        """
        run = current_run()
        if run is None:
            return "There is no conversation to search in."
        hits = await search(run.caller, query, max(1, min(limit, MAX_HITS)))
        if not hits:
            return f"No message holds '{query}'."
        return "\n".join(
            f"{hit.message.created_at:%Y-%m-%d %H:%M} {hit.conversation_id} {hit.message.role}: "
            f"{hit.message.text[:MAX_QUOTED_CHARS]}"
            for hit in hits
        )

    return search_conversations
