"""A conversation as a file: read and sent in pages, so that its length costs no memory."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from starlette.responses import StreamingResponse

from app.domain.models.conversations import Caller
from app.services.conversations import ConversationService

FileFormat = Annotated[
    Literal["jsonl", "markdown"],
    Query(alias="format", description="jsonl: the history's items, for programs; markdown: the messages, for people."),
]
FILES: Final[dict[str, Any]] = {
    "description": "The conversation as a file.",
    "content": {
        "application/jsonl": {"schema": {"type": "string"}},
        "text/markdown": {"schema": {"type": "string"}},
    },
}


async def file_reply(
    conversations: ConversationService, caller: Caller, conversation_id: str, form: Literal["jsonl", "markdown"]
) -> StreamingResponse:
    """Return a conversation as a download.

    Raises:
        ConversationNotFound: it does not exist for this caller.
    """
    if form == "jsonl":
        parts, kind, suffix = await conversations.export_jsonl(caller, conversation_id), "application/jsonl", "jsonl"
    else:
        parts, kind, suffix = await conversations.export_markdown(caller, conversation_id), "text/markdown", "md"
    headers = {"content-disposition": f'attachment; filename="{conversation_id}.{suffix}"'}
    return StreamingResponse(_utf8(parts), headers=headers, media_type=f"{kind}; charset=utf-8")


async def _utf8(parts: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield part.encode("utf-8", "replace")
