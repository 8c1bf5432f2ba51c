"""Conversations, their items and their links, as the outside keeps them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

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
    Share,
    SharedPage,
)


class ConversationStore(Protocol):
    """Conversations and what is in them. Every method looks only at rows of the caller's organization and user.

    Whatever takes a conversation's id raises ConversationNotFound when it does not exist for this caller.
    """

    async def create(
        self, caller: Caller, *, agent: str | None, provider: str, provider_conversation_id: str | None
    ) -> Conversation:
        """Open an empty conversation."""
        ...

    async def open(self, caller: Caller, new: NewConversation) -> Conversation:
        """Open a conversation with its first items, all or nothing; its history is kept here, never at a provider."""
        ...

    async def get(self, caller: Caller, conversation_id: str) -> Conversation:
        """Return a conversation."""
        ...

    async def list(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None,
        oldest_first: bool = False,
        only: ConversationFilter | None = None,
    ) -> tuple[Sequence[Conversation], bool]:
        """Return up to `limit` conversations, newest id first, and whether there are more.

        `after` is the id that the page before ended with.
        """
        ...

    async def update(
        self, caller: Caller, conversation_id: str, changes: Mapping[Literal["title", "metadata"], Any]
    ) -> Conversation:
        """Set a title (None: none) or the whole metadata, and return the conversation as it is then."""
        ...

    async def messages(
        self, caller: Caller, conversation_id: str, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Message]:
        """Return messages with a position above `after`, in order; None: all of them."""
        ...

    async def items(
        self, caller: Caller, conversation_id: str, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Item]:
        """Return the history in the SDK's format, oldest first: `limit` items behind the first `after`; None: all."""
        ...

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        """Delete every row of a conversation, the SDK's too.

        Usage rows and completion events stay: they are the bill, and hold no content.
        """
        ...

    async def search(self, caller: Caller, query: str, limit: int) -> Sequence[MessageHit]:
        """Return messages of the caller that hold all words of the query, best first; at most 100.

        A word is found where a word of the message begins with it, in upper or lower case. Any text is a query.
        """
        ...

    async def item_page(
        self, caller: Caller, conversation_id: str, *, limit: int, after: str | None, oldest_first: bool
    ) -> tuple[Sequence[ConversationItem], bool]:
        """Return up to `limit` items behind the one with the id `after`, and whether there are more.

        The page's last item has an id that no other item of the conversation has.

        Raises:
            InvalidInput: there is no item `after`.
        """
        ...

    async def item(self, caller: Caller, conversation_id: str, item_id: str) -> ConversationItem | None:
        """Return an item; None: there is none with that id."""
        ...

    async def add_items(
        self, caller: Caller, conversation_id: str, items: Sequence[Item]
    ) -> Sequence[ConversationItem]:
        """Add items at the end, all of them or none, and what they say to the messages for people.

        Raises:
            RunConflict: a run of the conversation has not ended, or its history is kept at a provider.
        """
        ...

    async def delete_item(self, caller: Caller, conversation_id: str, item_id: str) -> Conversation | None:
        """Delete an item and what cannot stand without it; None: there is no such item, and nothing was deleted.

        With a call goes its output. Reasoning in front goes, too, if something that is no part of the same answer
        follows; an output alone leaves its call open. The messages for people lose what the items said.

        Raises:
            RunConflict: as in `add_items`.
        """
        ...

    async def fork(self, caller: Caller, conversation_id: str, point: ForkPoint) -> Conversation:
        """Copy a conversation up to a point, with its messages for people, into a new one; runs are not copied.

        The copy's history is kept here, and it is the same user's. A call whose output comes after the point is left
        out; one that is open at the end of a run stays open, so that its output can be given.

        Raises:
            RunNotFound: the run is none of this conversation.
            RunConflict: the run has not ended, or an earlier release made it and it is not the last one.
            InvalidInput: there is no such item.
        """
        ...

    async def is_last_run(self, caller: Caller, conversation_id: str, run_id: str) -> bool:
        """Tell whether a run has ended and none of the conversation came after it."""
        ...

    async def share(self, caller: Caller, conversation_id: str, share: Share, token_hash: str) -> Share:
        """Keep a link to what has been said so far, and forget expired ones."""
        ...

    async def shares(
        self, caller: Caller, conversation_id: str, *, limit: int, after: str | None, now: datetime
    ) -> tuple[Sequence[Share], bool]:
        """Return up to `limit` links that have not expired, in the order in which they were made."""
        ...

    async def unshare(self, caller: Caller, conversation_id: str, share_id: str) -> bool:
        """Delete a link; False: there is none with that id."""
        ...

    async def shared(self, token_hash: str, *, now: datetime, limit: int, after: int) -> SharedPage | None:
        """Return messages with a position above `after` to whoever holds the token; None: it is good for nothing."""
        ...
