"""Conversations and their items: open, list, show, search, change, fork, export, delete."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.domain.conversation_ports import ConversationStore
from app.domain.errors import InvalidInput
from app.domain.models.conversations import (
    Caller,
    Conversation,
    ConversationFilter,
    ConversationItem,
    ForkPoint,
    Item,
    Message,
    MessageHit,
    NewConversation,
)

MAX_PAGE = 100
MAX_QUERY_CHARS = 500


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation with all its messages, in order."""

    conversation: Conversation
    messages: Sequence[Message]


class ConversationService:
    """What a caller may do with conversations beside running an agent in them."""

    def __init__(self, store: ConversationStore, *, export_page: int = 500) -> None:
        """`export_page`: how many items or messages an export holds in memory at once."""
        self._store = store
        self._export_page = export_page

    async def list(
        self,
        caller: Caller,
        *,
        limit: int = 20,
        after: str | None = None,
        oldest_first: bool = False,
        only: ConversationFilter | None = None,
    ) -> tuple[Sequence[Conversation], bool]:
        """Return up to `limit` conversations, newest first unless asked otherwise, and whether there are more.

        `after` is the id that the page before ended with.

        Raises:
            InvalidInput: the limit is not between 1 and 100.
        """
        return await self._store.list(
            caller, limit=_checked_limit(limit), after=after, oldest_first=oldest_first, only=only
        )

    async def open(self, caller: Caller, new: NewConversation) -> Conversation:
        """Open a conversation with its first items, all or nothing.

        Its history is kept here, in server mode too: items can be added and deleted.
        """
        return await self._store.open(caller, new)

    async def get(self, caller: Caller, conversation_id: str) -> Conversation:
        """Return a conversation.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        return await self._store.get(caller, conversation_id)

    async def update(
        self, caller: Caller, conversation_id: str, changes: Mapping[Literal["title", "metadata"], Any]
    ) -> Conversation:
        """Set the title (None: none) or the whole metadata; what is not among the changes stays.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        return await self._store.update(caller, conversation_id, changes)

    async def show(self, caller: Caller, conversation_id: str) -> ConversationView:
        """Return a conversation and its messages.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        conversation = await self._store.get(caller, conversation_id)
        return ConversationView(conversation, await self._store.messages(caller, conversation_id))

    async def search(self, caller: Caller, query: str, *, limit: int = 20) -> Sequence[MessageHit]:
        """Return messages that hold all words of the query, or words that begin with them; best first.

        Raises:
            InvalidInput: the query is blank or longer than 500 characters, or the limit is not between 1 and 100.
        """
        if not query.strip() or len(query) > MAX_QUERY_CHARS:
            raise InvalidInput(f"A search query is 1 to {MAX_QUERY_CHARS} characters.", param="query")
        return await self._store.search(caller, query, _checked_limit(limit))

    async def search_page(
        self, caller: Caller, query: str, *, limit: int = 20, after: str | None = None
    ) -> tuple[Sequence[MessageHit], bool]:
        """Return up to `limit` of the best hundred hits, and whether there are more; `after` is a hit's id.

        Raises:
            InvalidInput: as in `search`, or there is no such hit any more.
        """
        hits = await self.search(caller, query, limit=MAX_PAGE)
        first = 0
        if after is not None:
            first = next((place for place, hit in enumerate(hits, start=1) if hit.id == after), 0)
            if not first:
                raise InvalidInput("The search finds no such message.", param="after")
        last = first + _checked_limit(limit)
        return hits[first:last], len(hits) > last

    async def item_page(
        self,
        caller: Caller,
        conversation_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        oldest_first: bool = False,
    ) -> tuple[Sequence[ConversationItem], bool]:
        """Return up to `limit` items of the history, latest first unless asked otherwise, and whether there are more.

        Raises:
            ConversationNotFound: it does not exist for this caller.
            InvalidInput: the limit is not between 1 and 100, or there is no item `after`.
        """
        return await self._store.item_page(
            caller, conversation_id, limit=_checked_limit(limit), after=after, oldest_first=oldest_first
        )

    async def item(self, caller: Caller, conversation_id: str, item_id: str) -> ConversationItem | None:
        """Return an item of the history; None: there is none with that id.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        return await self._store.item(caller, conversation_id, item_id)

    async def add_items(
        self, caller: Caller, conversation_id: str, items: Sequence[Item]
    ) -> Sequence[ConversationItem]:
        """Add items at the end of the history, all of them or none; what they say is added to the messages.

        Raises:
            ConversationNotFound: it does not exist for this caller.
            RunConflict: a run has not ended (`conversation_busy`): what it adds would come behind these items, which
                its model has not seen; or the history is kept at a provider (`history_elsewhere`).
        """
        return await self._store.add_items(caller, conversation_id, items)

    async def delete_item(self, caller: Caller, conversation_id: str, item_id: str) -> Conversation | None:
        """Delete an item and what cannot stand without it: a call's output, and reasoning that led to it alone.

        An output alone leaves its call open. None: there is no such item. Records of runs stay as they are.

        Raises:
            ConversationNotFound: it does not exist for this caller.
            RunConflict: as in `add_items`.
        """
        return await self._store.delete_item(caller, conversation_id, item_id)

    async def fork(
        self,
        caller: Caller,
        conversation_id: str,
        *,
        after_run_id: str | None = None,
        after_item_id: str | None = None,
        stateless: bool = False,
    ) -> Conversation:
        """Copy a conversation up to the end of a run, or up to an item, or all of it, into a new one.

        History and messages are copied, runs are not. Of a call whose output comes later nothing is copied; one that
        is open at the end of the run stays open. `stateless`: the copy is for one run only; what forgets to delete it
        after that leaves it to retention.

        Raises:
            ConversationNotFound: it does not exist for this caller.
            RunNotFound: the run is none of this conversation.
            RunConflict: the run has not ended (`run_unfinished`), or an earlier release made it (`history_unknown`).
            InvalidInput: there is no such item, or both points are named.
        """
        if after_run_id is not None and after_item_id is not None:
            raise InvalidInput("Name a run or an item, not both.", param="after_item_id")
        return await self._store.fork(caller, conversation_id, ForkPoint(after_run_id, after_item_id, stateless))

    async def is_last_run(self, caller: Caller, conversation_id: str, run_id: str) -> bool:
        """Tell whether a run has ended and none of its conversation came after it.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        return await self._store.is_last_run(caller, conversation_id, run_id)

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        """Delete a conversation with its history, runs and client sessions; usage and completion events stay.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        await self._store.delete(caller, conversation_id)

    async def export_jsonl(self, caller: Caller, conversation_id: str) -> AsyncGenerator[str]:
        """Return the history as JSON Lines: one item in the SDK's format a line, oldest first, each with its newline.

        It is everything the model's history holds, tool calls and their outputs included, and nothing else: the lines,
        decoded, are the input that goes on with the conversation anywhere. Read in pages; leaving early stops it.

        Raises:
            ConversationNotFound: it does not exist for this caller; raised here, before the first line.
        """
        await self._store.get(caller, conversation_id)
        return self._item_lines(caller, conversation_id)

    async def export_markdown(self, caller: Caller, conversation_id: str) -> AsyncGenerator[str]:
        """Return the messages as Markdown, in parts to be joined: a heading, facts, and a section a message.

        The text of a message is not escaped: answers are Markdown themselves. Read in pages; leaving early stops it.

        Raises:
            ConversationNotFound: it does not exist for this caller; raised here, before the first part.
        """
        return self._sections(caller, await self._store.get(caller, conversation_id))

    async def _item_lines(self, caller: Caller, conversation_id: str) -> AsyncGenerator[str]:
        read = 0
        while page := await self._store.items(caller, conversation_id, limit=self._export_page, after=read):
            for item in page:
                yield f"{json.dumps(item, separators=(',', ':'))}\n"
            read += self._export_page

    async def _sections(self, caller: Caller, conversation: Conversation) -> AsyncGenerator[str]:
        yield _markdown_head(conversation)
        position = 0
        while page := await self._store.messages(caller, conversation.id, limit=self._export_page, after=position):
            for message in page:
                yield _markdown_section(message)
            position = page[-1].position


def _markdown_head(conversation: Conversation) -> str:
    title = " ".join((conversation.title or "Conversation").split())
    facts = [f"- Conversation: `{conversation.id}`"]
    if conversation.agent is not None:
        facts.append(f"- Agent: {conversation.agent}")
    facts.append(f"- Opened: {conversation.created_at.isoformat(timespec='seconds')}")
    return "\n".join([f"# {title}", "", *facts, ""])


def _markdown_section(message: Message) -> str:
    speaker = "User" if message.role == "user" else f"Assistant ({message.agent})" if message.agent else "Assistant"
    return f"\n## {speaker}, {message.created_at.isoformat(timespec='seconds')}\n\n{message.text}\n"


def _checked_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"A limit is a number from 1 to {MAX_PAGE}.", param="limit")
    return limit
