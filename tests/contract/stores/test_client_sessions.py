import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import SessionNotFound
from app.domain.identifiers import new_client_session_id
from app.domain.models.conversations import Caller, ClientSession
from app.infrastructure.persistence.client_sessions import SqlClientSessionStore
from tests.contract.stores.rows import ANNA, NOON


def session(caller: Caller = ANNA) -> ClientSession:
    return ClientSession(new_client_session_id(), caller, "helper", "conv_1", NOON)


async def test_another_process_finds_what_was_added(engine: AsyncEngine) -> None:
    added = [session(), session(Caller("acme"))]
    here, elsewhere = SqlClientSessionStore(engine), SqlClientSessionStore(engine)
    for one in added:
        await here.add(one)
        assert await here.get(one.id) == one
        assert await elsewhere.get(one.id) == one


async def test_sessions_used_last_are_kept_in_memory_and_no_more_than_that(engine: AsyncEngine) -> None:
    store = SqlClientSessionStore(engine, cached=2)
    first, second, third = session(), session(), session()
    await store.add(first)
    await store.add(second)
    kept = await store.get(first.id)
    await store.add(third)
    assert await store.get(first.id) is kept
    assert await store.get(second.id) is not second
    assert await store.get(second.id) == second


@pytest.mark.parametrize("bad", ["", "sess_nope", "nul\x00", "half\ud83d"])
async def test_unknown_ids_are_not_found(engine: AsyncEngine, bad: str) -> None:
    store = SqlClientSessionStore(engine)
    await store.add(session())
    with pytest.raises(SessionNotFound):
        await store.get(bad)
