import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.domain.errors import ConfigurationError, StorageUnavailable
from app.infrastructure.persistence.engine import (
    build_engine,
    is_unavailable,
    normalize_url,
    reading,
    translated_errors,
    writing,
)


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///a.db", "sqlite+aiosqlite"),
        ("postgres://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+asyncpg"),
    ],
)
def test_urls_get_the_driver_we_ship(given: str, driver: str) -> None:
    assert normalize_url(given).drivername == driver


@pytest.mark.parametrize("given", ["", "not a url", "mysql://h/d", "oracle://h"])
def test_other_databases_are_refused_by_name(given: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        normalize_url(given)


def wrapped(kind: type[DBAPIError], original: BaseException) -> DBAPIError:
    return kind("SELECT 1", {}, original)


def sqlstate(code: str) -> Exception:
    error = Exception("driver")
    error.sqlstate = code  # type: ignore[attr-defined] - as asyncpg's errors carry it
    return error


@pytest.mark.parametrize(
    ("error", "unavailable"),
    [
        (PoolTimeout(), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (wrapped(OperationalError, Exception("database is locked")), True),
        (wrapped(InterfaceError, Exception("connection is closed")), True),
        (wrapped(DBAPIError, sqlstate("57P01")), True),
        (wrapped(DBAPIError, sqlstate("40001")), True),
        (wrapped(DBAPIError, sqlstate("53300")), True),
        (wrapped(IntegrityError, sqlstate("23505")), False),
        (wrapped(DBAPIError, sqlstate("42601")), False),
        (ValueError(), False),
    ],
)
def test_what_counts_as_not_now(error: BaseException, unavailable: bool) -> None:
    assert is_unavailable(error) is unavailable


def test_foreign_errors_are_translated_with_their_cause() -> None:
    with pytest.raises(StorageUnavailable) as raised, translated_errors():
        raise wrapped(OperationalError, Exception("secret host"))
    assert isinstance(raised.value.__cause__, OperationalError)
    assert "secret" not in raised.value.public_message
    with pytest.raises(ValueError, match="ours"), translated_errors():
        raise ValueError("ours")


async def test_a_process_frozen_in_a_transaction_does_not_keep_its_locks(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infrastructure.persistence.engine._IDLE_IN_TRANSACTION_MS", 200)
    frozen, other = build_engine(postgresql_url), build_engine(postgresql_url)
    async with writing(other) as connection:
        await connection.execute(text("CREATE TABLE things (id INTEGER)"))
    with pytest.raises(StorageUnavailable):
        async with writing(frozen) as connection:
            await connection.execute(text("LOCK TABLE things"))
            async with writing(other) as connection_of_other:  # waits until the lock is free
                await connection_of_other.execute(text("INSERT INTO things VALUES (1)"))
            await connection.execute(text("INSERT INTO things VALUES (2)"))
    async with reading(other) as connection:
        assert (await connection.execute(text("SELECT id FROM things"))).scalars().all() == [1]
    for engine in (frozen, other):
        await engine.dispose()
