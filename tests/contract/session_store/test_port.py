"""The port AgentSessionStore."""

import sqlite3

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import InvalidInput, StorageUnavailable
from app.domain.identifiers import session_key
from app.domain.ports import AgentSessionStore
from app.infrastructure.persistence.engine import EngineLimits, build_engine
from app.infrastructure.providers.openai.session_store import OpenAISQLAlchemySessionStore
from tests.contract.session_store.conftest import closed, contents, row_counts, user

KEY = session_key("acme", "conv_1")


async def test_appends_in_order_and_reads_the_latest(store: AgentSessionStore) -> None:
    await store.append(KEY, (user("1"), user("2")))
    await store.append(KEY, [user("3")])

    assert contents(await store.items(KEY)) == ["1", "2", "3"]
    assert contents(await store.items(KEY, 2)) == ["2", "3"]
    assert contents(await store.items(KEY, 9)) == ["1", "2", "3"]


@pytest.mark.parametrize("limit", [0, -1, -100])
async def test_a_limit_of_zero_or_less_gives_none(store: AgentSessionStore, limit: int) -> None:
    await store.append(KEY, [user("1")])
    assert await store.items(KEY, limit) == []


async def test_an_unknown_session_is_empty_and_may_be_cleared(store: AgentSessionStore) -> None:
    await store.clear(KEY)
    assert await store.items(KEY) == []


async def test_clear_removes_every_row_of_that_session_only(store: AgentSessionStore, engine: AsyncEngine) -> None:
    other = session_key("acme", "conv_2")
    await store.append(KEY, [user("1")])
    await store.append(other, [user("2")])

    await store.clear(KEY)

    assert await row_counts(engine, KEY) == (0, 0)
    assert contents(await store.items(other)) == ["2"]


async def test_appending_nothing_writes_nothing(store: AgentSessionStore, engine: AsyncEngine) -> None:
    await store.append(KEY, [])
    assert await row_counts(engine, KEY) == (0, 0)


async def test_an_append_is_whole_or_absent(store: AgentSessionStore, engine: AsyncEngine) -> None:
    with pytest.raises(TypeError):
        await store.append(KEY, [user("1"), {"role": "user", "content": object()}])
    assert await row_counts(engine, KEY) == (0, 0)


async def test_the_session_is_the_history_of_the_port(store: OpenAISQLAlchemySessionStore) -> None:
    await store.append(KEY, [user("port")])
    session = store.session("conv_1", organization_id="acme")
    await session.add_items([user("session")])

    assert session.session_id == KEY
    assert contents(await session.get_items()) == contents(await store.items(KEY)) == ["port", "session"]


async def test_organizations_do_not_share_a_session(store: OpenAISQLAlchemySessionStore) -> None:
    for organization in ("acme", "other", "default"):
        await store.session("same", organization_id=organization).add_items([user(organization)])
    await store.session("same", organization_id="other").clear_session()

    assert contents(await store.session("same", organization_id="acme").get_items()) == ["acme"]
    assert await store.session("same", organization_id="other").get_items() == []
    assert contents(await store.session("same").get_items()) == ["default"]


async def test_a_key_of_the_organization_is_used_as_it_is(store: OpenAISQLAlchemySessionStore) -> None:
    assert store.session("acme:x", organization_id="acme").session_id == "acme:x"
    assert store.session("acme:x", organization_id="other").session_id == "other:acme:x"
    assert store.session("x").session_id == "default:x"


@pytest.mark.parametrize(("organization", "session_id"), [("acme", ""), ("acme", "acme:"), ("a:b", "x"), ("", "x")])
def test_a_malformed_id_is_the_callers_error(
    store: OpenAISQLAlchemySessionStore, organization: str, session_id: str
) -> None:
    with pytest.raises(InvalidInput):
        store.session(session_id, organization_id=organization)


def test_an_id_that_is_too_long_is_the_callers_error(store: OpenAISQLAlchemySessionStore) -> None:
    assert len(store.session("x" * 247).session_id) == 255
    for session_id in ("x" * 248, "default:" + "x" * 248):
        with pytest.raises(InvalidInput):
            store.session(session_id)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "postgresql://nobody@/none?host=/nowhere"])
async def test_a_database_that_is_away_is_unavailable(url: str) -> None:
    engine = build_engine(url)
    store = OpenAISQLAlchemySessionStore(engine)
    session = store.session("x")

    for call in (
        lambda: store.items(KEY),
        lambda: store.append(KEY, [user("1")]),
        lambda: store.clear(KEY),
        session.get_items,
        session.pop_item,
        lambda: session._get_compaction_snapshot(5),
    ):
        with pytest.raises(StorageUnavailable) as caught:
            await call()
        assert caught.value.__cause__ is not None
    await closed(engine)


async def test_a_file_that_stays_locked_is_unavailable_and_nothing_is_written(sqlite_url: str) -> None:
    engine = build_engine(sqlite_url, EngineLimits(sqlite_busy_timeout_s=0.05))
    store = OpenAISQLAlchemySessionStore(engine)
    other_process = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other_process.execute("BEGIN IMMEDIATE")

    with pytest.raises(StorageUnavailable):
        await store.append(KEY, [user("1")])

    other_process.execute("ROLLBACK")
    other_process.close()
    assert await store.items(KEY) == []
    await engine.dispose()
