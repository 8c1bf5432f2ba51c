"""Links on both databases: what they show, to whom, and until when."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.conversations import Conversation, NewConversation, Share
from app.infrastructure.persistence.conversations import SqlConversationStore
from tests.contract.stores.rows import ANNA, NOON, counts

DAY = timedelta(days=1)


@pytest.fixture
def store(engine: AsyncEngine) -> SqlConversationStore:
    return SqlConversationStore(engine)


async def opened(store: SqlConversationStore, *texts: str) -> Conversation:
    items = [{"role": "user", "content": text} for text in texts]
    return await store.open(ANNA, NewConversation("openai", title="Title", items=items))


async def link(store: SqlConversationStore, made: Conversation, name: str, at: datetime = NOON) -> Share:
    return await store.share(ANNA, made.id, Share(f"share_{name}", made.id, at, at + DAY), f"hash of {name}")


async def shown(store: SqlConversationStore, name: str, *, at: datetime = NOON, limit: int = 9) -> list[str] | None:
    page = await store.shared(f"hash of {name}", now=at, limit=limit, after=0)
    return None if page is None else [message.text for message in page.messages]


async def test_a_link_shows_what_had_been_said(store: SqlConversationStore) -> None:
    made = await opened(store, "one", "two", "three")
    await link(store, made, "a")
    await store.add_items(ANNA, made.id, [{"role": "user", "content": "later"}])
    assert await shown(store, "a") == ["one", "two", "three"]
    page = await store.shared("hash of a", now=NOON, limit=2, after=0)
    assert page is not None
    assert (page.title, page.created_at, page.expires_at, page.has_more) == ("Title", NOON, NOON + DAY, True)
    rest = await store.shared("hash of a", now=NOON, limit=2, after=page.messages[-1].position)
    assert rest is not None
    assert ([message.text for message in rest.messages], rest.has_more) == (["three"], False)


async def test_a_link_ends(store: SqlConversationStore, engine: AsyncEngine) -> None:
    made = await opened(store, "one")
    for name in ("expired", "revoked", "deleted"):
        await link(store, made, name)
    assert await shown(store, "expired", at=NOON + DAY - timedelta(seconds=1)) == ["one"]
    assert await shown(store, "expired", at=NOON + DAY) is None
    assert await store.unshare(ANNA, made.id, "share_revoked")
    assert not await store.unshare(ANNA, made.id, "share_revoked")
    assert await shown(store, "revoked") is None
    assert await shown(store, "nobody") is None
    await link(store, made, "new", NOON + DAY)  # the expired ones are forgotten
    assert (await counts(engine))["conversation_shares"] == 1
    await store.delete(ANNA, made.id)
    assert await shown(store, "new", at=NOON + DAY) is None


async def test_links_are_listed_in_pages(store: SqlConversationStore) -> None:
    made, other = await opened(store, "one"), await opened(store, "other")
    links = [await link(store, made, name) for name in "abc"]
    await link(store, other, "d")
    first, more = await store.shares(ANNA, made.id, limit=2, after=None, now=NOON)
    last, end = await store.shares(ANNA, made.id, limit=2, after=first[-1].id, now=NOON)
    assert ([*first, *last], more, end) == (links, True, False)
    assert await store.shares(ANNA, made.id, limit=2, after=None, now=NOON + DAY) == ([], False)
    assert await store.shares(ANNA, made.id, limit=2, after="nul\x00", now=NOON) == ((), False)
    for share_id in ("share_d", "nul\x00", "half\ud83d", ""):
        assert not await store.unshare(ANNA, made.id, share_id)
    assert await shown(store, "d") == ["other"]
