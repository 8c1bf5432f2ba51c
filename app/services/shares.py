"""Links that show a conversation to whoever holds them, without a key."""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from app.domain.conversation_ports import ConversationStore
from app.domain.errors import InvalidInput
from app.domain.identifiers import new_share_id, new_share_token
from app.domain.models.conversations import Caller, IssuedShare, Share, SharedPage
from app.domain.ports import Clock

MAX_LIFETIME_S: Final = 366 * 24 * 3600
DEFAULT_LIFETIME_S: Final = 7 * 24 * 3600
MAX_PAGE: Final = 100


class ShareService:
    """Makes links, takes them back, and shows what they lead to.

    A link shows the messages up to the moment in which it was made: titles, roles, texts and times, nothing else.
    """

    def __init__(self, store: ConversationStore, clock: Clock) -> None:
        """`clock` tells when links expire."""
        self._store = store
        self._clock = clock

    async def create(
        self, caller: Caller, conversation_id: str, *, lifetime_s: int = DEFAULT_LIFETIME_S
    ) -> IssuedShare:
        """Make a link; its token is told this once, and only its hash is kept.

        Raises:
            ConversationNotFound: it does not exist for this caller.
            InvalidInput: the lifetime is not between one second and 366 days.
        """
        if not 1 <= lifetime_s <= MAX_LIFETIME_S:
            raise InvalidInput(f"A link lasts 1 to {MAX_LIFETIME_S} seconds.", param="expires_in_s")
        now = self._clock.now()
        token = new_share_token()
        share = Share(new_share_id(), conversation_id, now, now + timedelta(seconds=lifetime_s))
        return IssuedShare(await self._store.share(caller, conversation_id, share, _hash_of(token)), token)

    async def list(
        self, caller: Caller, conversation_id: str, *, limit: int = 20, after: str | None = None
    ) -> tuple[Sequence[Share], bool]:
        """Return up to `limit` links that have not expired, oldest first, and whether there are more.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        return await self._store.shares(caller, conversation_id, limit=limit, after=after, now=self._clock.now())

    async def revoke(self, caller: Caller, conversation_id: str, share_id: str) -> bool:
        """Take a link back at once; False: there is none with that id.

        Raises:
            ConversationNotFound: it does not exist for this caller.
        """
        return await self._store.unshare(caller, conversation_id, share_id)

    async def read(self, token: str, *, limit: int = MAX_PAGE, after: int = 0) -> SharedPage | None:
        """Return messages with a position above `after`; None: the token is good for nothing, for whatever reason."""
        return await self._store.shared(_hash_of(token), now=self._clock.now(), limit=limit, after=after)


def _hash_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
