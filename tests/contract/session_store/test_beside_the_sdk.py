"""The SDK's own session, pointed at our tables: it reads what we wrote, and we read what it wrote."""

import pytest
from agents.extensions.memory import EncryptedSession, SQLAlchemySession

from app.infrastructure.providers.openai.durable_session import DurableSession
from app.infrastructure.providers.openai.session_tables import MESSAGES_TABLE, SESSIONS_TABLE
from tests.contract.session_store.conftest import contents, row_counts, user

ODD = [
    user("\x00 \ud800 ü"),
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"role": "user", "content": [{"a": 1}]},
]


@pytest.fixture
def theirs(session: DurableSession) -> SQLAlchemySession:
    return SQLAlchemySession(
        session.session_id, engine=session.engine, sessions_table=SESSIONS_TABLE, messages_table=MESSAGES_TABLE
    )


async def test_it_reads_what_we_wrote(session: DurableSession, theirs: SQLAlchemySession) -> None:
    await session.add_items(ODD)
    assert await theirs.get_items() == ODD
    assert await theirs.get_items(2) == ODD[1:]


async def test_we_read_what_it_wrote(session: DurableSession, theirs: SQLAlchemySession) -> None:
    await theirs.add_items(ODD)
    assert await session.get_items() == ODD
    assert await session.get_items(2) == ODD[1:]


async def test_writing_in_turns(session: DurableSession, theirs: SQLAlchemySession) -> None:
    for number in range(4):
        await session.add_items([user(f"ours {number}")])
        await theirs.add_items([user(f"theirs {number}")])
    expected = [f"{whose} {number}" for number in range(4) for whose in ("ours", "theirs")]

    assert contents(await session.get_items()) == contents(await theirs.get_items()) == expected
    assert contents(await session.get_items(3)) == contents(await theirs.get_items(3)) == expected[-3:]


async def test_removing_in_turns(session: DurableSession, theirs: SQLAlchemySession) -> None:
    await session.add_items([user("1"), user("2")])
    await theirs.add_items([user("3"), user("4")])

    assert await session.pop_item() == user("4")
    assert await theirs.pop_item() == user("3")
    assert await theirs.pop_item() == user("2")
    assert await session.pop_item() == user("1")

    await session.add_items([user("5")])
    await theirs.clear_session()
    assert await session.get_items() == []
    await theirs.add_items([user("6")])
    await session.clear_session()
    assert await row_counts(session.engine, session.session_id) == (0, 0)


async def test_the_sdks_encryption_goes_around_ours(session: DurableSession) -> None:
    encrypted = EncryptedSession(session.session_id, session, encryption_key="a key for tests", ttl=600)
    await encrypted.add_items([user("a secret")])

    assert contents(await encrypted.get_items()) == ["a secret"]
    assert "a secret" not in str(await session.get_items())
    assert await encrypted.pop_item() == user("a secret")
