"""The SDK's Session protocol, in what it promises and in what it leaves open."""

import inspect
import logging
from typing import Any

import pytest
from agents import Session, SessionSettings
from agents.extensions.memory import SQLAlchemySession
from agents.memory.session import _session_accepts_wrapper
from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.domain.errors import ConfigurationError
from app.infrastructure.persistence.tables import sdk_messages, sdk_sessions
from app.infrastructure.providers.openai.corrupt_rows import CorruptRows, corrupt_rows
from app.infrastructure.providers.openai.durable_session import DurableSession
from app.infrastructure.providers.openai.session_tables import MESSAGES_TABLE, session_tables
from tests.contract.session_store.conftest import MakeSession, StoreRow, contents, row_counts, user

NO_ITEMS = ["not json {{{", "[1, 2]", "null", '"text"', "7", "", "[" * 100_000]


def test_it_is_a_session_that_takes_the_wrapper(session: DurableSession) -> None:
    assert isinstance(session, Session)
    assert isinstance(session, SQLAlchemySession)
    assert _session_accepts_wrapper(session)
    assert session.session_settings == SessionSettings()


@pytest.mark.parametrize("name", ["__init__", "from_url"])
def test_it_is_constructed_like_the_sdks(name: str) -> None:
    ours = inspect.signature(getattr(DurableSession, name)).parameters
    theirs = inspect.signature(getattr(SQLAlchemySession, name)).parameters
    assert list(ours) == list(theirs)
    assert [parameter.kind for parameter in ours.values()] == [parameter.kind for parameter in theirs.values()]


def test_it_has_every_attribute_that_the_sdks_constructor_sets(plain_engine: AsyncEngine) -> None:
    assert set(vars(SQLAlchemySession("x", engine=plain_engine))) <= set(vars(DurableSession("x", engine=plain_engine)))


def test_its_tables_are_the_sdks_and_the_migrated_ones(plain_engine: AsyncEngine) -> None:
    ours = DurableSession("x", engine=plain_engine)
    theirs = SQLAlchemySession(
        "x", engine=plain_engine, sessions_table=sdk_sessions.name, messages_table=sdk_messages.name
    )

    def shape(table: Table) -> Any:
        columns = [(column.name, column.primary_key, column.nullable) for column in table.columns]
        return table.name, columns, [(index.name, index.columns.keys()) for index in table.indexes]

    assert shape(ours._sessions) == shape(theirs._sessions) == shape(sdk_sessions)
    assert shape(ours._messages) == shape(theirs._messages) == shape(sdk_messages)


def test_other_databases_are_refused() -> None:
    class OtherEngine:
        class dialect:  # noqa: N801 - the engine's own attribute
            name = "mysql"

    with pytest.raises(ConfigurationError, match="mysql"):
        DurableSession("x", engine=OtherEngine())  # type: ignore[arg-type]


async def test_a_second_session_compiles_no_sql(make_session: MakeSession) -> None:
    async def use(session: DurableSession) -> None:
        await session.add_items([user("1"), user("2")])
        await session.get_items()
        await session.get_items(1)
        await session.pop_item()
        await session.clear_session()

    first, second = make_session("first"), make_session("second")
    await use(first)
    compiled = len(first.engine.sync_engine._compiled_cache)  # type: ignore[arg-type]
    await use(second)

    assert len(second.engine.sync_engine._compiled_cache) == compiled  # type: ignore[arg-type]
    assert first._messages is second._messages


async def test_items_come_back_in_order(session: DurableSession) -> None:
    await session.add_items([user("1"), user("2")], wrapper=None)
    await session.add_items([user("3")])

    assert await session.get_items(wrapper=None) == [user("1"), user("2"), user("3")]
    assert contents(await session.get_items(2)) == ["2", "3"]
    assert contents(await session.get_items(limit=100)) == ["1", "2", "3"]


async def test_adding_nothing_writes_nothing(session: DurableSession) -> None:
    await session.add_items([])
    assert await row_counts(session.engine, "default:s") == (0, 0)


async def test_the_latest_item_is_popped_first(session: DurableSession) -> None:
    assert await session.pop_item() is None
    await session.add_items([user("1"), user("2")])

    assert await session.pop_item(wrapper=None) == user("2")
    assert await session.pop_item() == user("1")
    assert await session.pop_item() is None


async def test_clear_deletes_items_and_session(session: DurableSession, make_session: MakeSession) -> None:
    await session.add_items([user("1")])
    await make_session("kept").add_items([user("kept")])

    await session.clear_session(wrapper=None)
    await session.clear_session()

    assert await row_counts(session.engine, "default:s") == (0, 0)
    assert contents(await make_session("kept").get_items()) == ["kept"]
    await session.add_items([user("again")])
    assert contents(await session.get_items()) == ["again"]


@pytest.mark.parametrize("settings", [SessionSettings(limit=2), {"limit": 2}])
async def test_settings_limit_what_is_read_by_default(make_session: MakeSession, settings: Any) -> None:
    session = make_session("s", session_settings=settings)
    await session.add_items([user("1"), user("2"), user("3")])

    assert contents(await session.get_items()) == ["2", "3"]
    assert contents(await session.get_items(1)) == ["3"]
    assert contents(await session.get_items(3)) == ["1", "2", "3"]


@pytest.mark.parametrize("limit", [0, -1, -(2**40)])
async def test_a_limit_of_zero_or_less_gives_none(make_session: MakeSession, limit: int) -> None:
    session = make_session("s", session_settings=SessionSettings(limit=limit))
    await session.add_items([user("1")])

    assert await session.get_items(limit) == []
    assert await session.get_items() == []


async def test_any_text_survives(session: DurableSession) -> None:
    items = [
        user("NUL \x00, half an emoji \ud83d, a whole one \U0001f600, ümläut, \u2028, quotes ' \" \\ :name %s ?"),
        {
            "type": "function_call",
            "call_id": "c",
            "name": "f",
            "arguments": '{"a": "\\u0000"}',
            "big": 2**70,
            "x": 1e300,
        },
        {"role": "user", "content": [{"type": "input_text", "text": ""}], "nothing": None, "yes": True},
    ]
    await session.add_items(items)

    assert await session.get_items() == items
    async with session.engine.connect() as connection:
        stored = (await connection.execute(text(f"SELECT message_data FROM {MESSAGES_TABLE} ORDER BY id"))).scalars()
        assert all(data.isascii() for data in stored)
    assert [await session.pop_item() for _ in items] == items[::-1]


async def test_text_can_be_kept_readable(plain_engine: AsyncEngine, store_row: StoreRow) -> None:
    session = DurableSession("default:s", engine=plain_engine, ensure_ascii=False)
    await session.add_items([user("ümläut \x00")])

    async with plain_engine.connect() as connection:
        stored = (await connection.execute(text(f"SELECT message_data FROM {MESSAGES_TABLE}"))).scalar_one()
    assert "ümläut" in stored
    assert contents(await session.get_items()) == ["ümläut \x00"]


@pytest.mark.parametrize("data", NO_ITEMS, ids=range(len(NO_ITEMS)))
async def test_a_corrupt_row_is_left_out_and_reported_once(
    session: DurableSession, store_row: StoreRow, caplog: pytest.LogCaptureFixture, data: str
) -> None:
    await session.add_items([user("1"), user("2"), user("3")])
    row = await store_row(data)
    before = corrupt_rows.count

    with caplog.at_level(logging.WARNING):
        assert contents(await session.get_items()) == ["1", "2", "3"]
        assert contents(await session.get_items(1)) == ["3"]
        assert contents(await session.get_items(2)) == ["2", "3"]
        assert contents(await session.get_items(7)) == ["1", "2", "3"]
        assert await session.pop_item() == user("3")
        assert contents(await session.get_items()) == ["1", "2"]

    assert corrupt_rows.count == before + 1
    [record] = [record for record in caplog.records if record.name.endswith("corrupt_rows")]
    assert f"Row {row} of {MESSAGES_TABLE}" in record.getMessage()
    assert data == "" or len(data) < 5 or data not in record.getMessage()
    assert (await row_counts(session.engine, "default:s")) == (1, 2)


async def test_a_session_of_corrupt_rows_is_empty(session: DurableSession, store_row: StoreRow) -> None:
    await session.add_items([user("1")])
    for data in NO_ITEMS:
        await store_row(data)
    assert await session.pop_item() == user("1")
    await session.add_items([user("2")])
    for data in NO_ITEMS:
        await store_row(data)
    assert contents(await session.get_items(1)) == ["2"]
    assert await session.pop_item() == user("2")
    assert await session.pop_item() is None
    assert await row_counts(session.engine, "default:s") == (1, 0)


def test_the_memory_of_corrupt_rows_is_bounded(plain_engine: AsyncEngine) -> None:
    rows = CorruptRows(remembered=2)
    for row_id in (1, 2, 2, 3, 3):
        rows.report(plain_engine, "t", row_id)
    assert rows.count == 3
    assert len(rows._met) == 2


async def test_a_subclass_may_transform_what_is_stored(plain_engine: AsyncEngine) -> None:
    class Reversed(DurableSession):
        async def _serialize_item(self, item: Any) -> str:
            return (await super()._serialize_item(item))[::-1]

        async def _deserialize_item(self, item: str) -> Any:
            return await super()._deserialize_item(item[::-1])

    session = Reversed("default:s", engine=plain_engine)
    await session.add_items([user("abc")])

    assert await DurableSession("default:s", engine=plain_engine).get_items() == []
    assert await session.get_items() == [user("abc")]
    assert await session._get_compaction_snapshot(5) is None
    assert await session.pop_item() == user("abc")


async def test_tables_are_created_on_request_only(tmp_path: Any) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'new.db'}"
    names = {"sessions_table": "my sessions", "messages_table": "my_messages"}
    session = DurableSession.from_url("x", url=url, create_tables=True, **names)
    await session.add_items([user("1")])
    other = DurableSession.from_url("x", url=url, **names)

    assert contents(await other.get_items()) == ["1"]
    assert session_tables(*names.values()) is session_tables(*names.values())
    await session.engine.dispose()
    await other.engine.dispose()


async def test_an_engine_with_pragmas_of_its_own_keeps_them(sqlite_engine: AsyncEngine, tmp_path: Any) -> None:
    async def busy_timeout_ms(engine: AsyncEngine) -> int:
        async with engine.connect() as connection:
            return (await connection.execute(text("PRAGMA busy_timeout"))).scalar_one()

    DurableSession("x", engine=sqlite_engine)
    assert await busy_timeout_ms(sqlite_engine) == 20_000

    plain = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'plain.db'}", connect_args={"timeout": 1})
    DurableSession("x", engine=plain)
    assert await busy_timeout_ms(plain) == 5_000
    await plain.dispose()


async def test_errors_of_an_engine_made_from_a_url_hold_no_items(tmp_path: Any) -> None:
    session = DurableSession.from_url("x", url=f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(Exception, match="no such table") as caught:
        await session.add_items([user("a secret")])
    assert "a secret" not in str(caught.value)
    await session.engine.dispose()
