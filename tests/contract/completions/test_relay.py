"""The relay: what a spool holds reaches the outbox once, whoever is killed and however many relays there are."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as on
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import StorageUnavailable
from app.domain.models.completions import ReadBatch
from app.domain.models.deliveries import EventFilter
from app.infrastructure.clock import SystemClock
from app.infrastructure.completions import relay as relay_module
from app.infrastructure.completions.relay import RelayTimes, SpoolRelay
from app.infrastructure.completions.segments import segment_sizes
from app.infrastructure.completions.spool import SpoolWriter
from app.infrastructure.persistence.engine import EngineLimits, build_engine
from app.infrastructure.persistence.outbox import SqlOutbox
from app.services.event_intake import EventReader

READ = partial(EventReader(SystemClock()).read, source="spool")
WAIT_S = 20.0


def body(number: int, **fields: Any) -> bytes:
    sent = {"event_id": f"e-{number:05}", "session_id": f"s-{number % 7}", "organization_id": "acme", **fields}
    return json.dumps(sent).encode()


def write(folder: Path, *bodies: bytes, close: bool = True) -> SpoolWriter:
    writer = SpoolWriter(folder)
    assert writer.append_many(bodies)
    if close:
        writer.close()
    return writer


async def recorded(engine: AsyncEngine) -> list[str]:
    found = await SqlOutbox(engine).find(EventFilter(), limit=5_000)
    return [one.id for one in reversed(found)]


async def cursors(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as connection:
        return dict((await connection.execute(text("SELECT segment, position FROM completion_spool_cursors"))).all())


def aside(folder: Path) -> list[tuple[bytes, str]]:
    with sqlite3.connect(folder / "cursor.db") as connection:
        found = connection.execute("SELECT body, reason FROM put_aside ORDER BY number").fetchall()
    connection.close()
    return found


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not (found := true()) or (asyncio.iscoroutine(found) and not await found):
            await asyncio.sleep(0.01)


async def test_events_go_to_the_outbox_in_order_and_the_file_goes(engine: AsyncEngine, tmp_path: Path) -> None:
    told: list[bool] = []
    write(tmp_path, *(body(number) for number in range(25)))
    relay = SpoolRelay(engine, tmp_path, READ, on_recorded=lambda: told.append(True), times=RelayTimes(batch_events=10))
    assert await relay.run_once() == 25
    assert await recorded(engine) == [f"e-{number:05}" for number in range(25)]
    assert segment_sizes(tmp_path) == []
    assert await cursors(engine) == {}
    assert len(told) == 3
    assert await relay.run_once() == 0
    assert len(told) == 3
    async with engine.connect() as connection:
        row = (await connection.execute(text("SELECT source, organization_id, run_id FROM completion_events"))).first()
    assert row == ("spool", "acme", None)


async def test_an_open_file_is_read_on(engine: AsyncEngine, tmp_path: Path) -> None:
    relay = SpoolRelay(engine, tmp_path, READ)
    writer = write(tmp_path, body(1), close=False)
    for number in (2, 3):
        await relay.run_once()
        assert len(await recorded(engine)) == number - 1
        ((name, size),) = segment_sizes(tmp_path)
        assert await cursors(engine) == {name: size}
        writer.append(body(number))
    writer.close()
    assert await relay.run_once() == 1
    assert (segment_sizes(tmp_path), await cursors(engine)) == ([], {})


async def test_refused_events_are_put_aside_and_block_nothing(engine: AsyncEngine, tmp_path: Path) -> None:
    await SpoolRelay(engine, tmp_path, READ).run_once()
    write(tmp_path / "first", body(5, organization_id="globex"))
    await SpoolRelay(engine, tmp_path / "first", READ).run_once()
    wrong = [b"{", body(2, duration_ms=-1), body(5)]
    write(tmp_path, body(1), *wrong, body(3))
    assert await SpoolRelay(engine, tmp_path, READ).run_once() == 5
    assert sorted(await recorded(engine)) == ["e-00001", "e-00003", "e-00005"]
    found = aside(tmp_path)
    assert [one for one, _ in found] == wrong
    assert [reason.partition(":")[0] for _, reason in found] == ["invalid_json", "invalid_event", "event_id_taken"]
    assert segment_sizes(tmp_path) == []


async def test_what_the_database_refuses_is_found_and_put_aside(engine: AsyncEngine, tmp_path: Path) -> None:
    def unfit(bodies: Sequence[bytes]) -> ReadBatch:
        batch = READ(bodies)
        bad = [replace(one, outcome=None) if one.id == "e-00002" else one for one in batch.events]  # type: ignore[arg-type]
        return replace(batch, events=tuple(bad))

    write(tmp_path, *(body(number) for number in range(5)))
    await SpoolRelay(engine, tmp_path, unfit).run_once()
    assert await recorded(engine) == [f"e-{number:05}" for number in (0, 1, 3, 4)]
    ((left, reason),) = aside(tmp_path)
    assert (left, reason) == (body(2), f"refused_by_database: {IntegrityError.__name__}")


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_relay_that_dies_beside_its_commit_loses_and_repeats_nothing(
    where: str, engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: nothing is committed. After: the database has it all, and the folder's own cursor nothing."""

    class Died(BaseException):
        pass

    def die(*_args: Any) -> None:
        raise Died

    write(tmp_path, *(body(number) for number in range(30)))
    times = RelayTimes(batch_events=10)
    with monkeypatch.context() as patch:
        if where == "after":
            patch.setattr(relay_module._Folder, "note", die)
        else:

            async def dies(*_args: Any) -> None:
                raise Died

            patch.setattr(relay_module, "record_events", dies)
        with pytest.raises(Died):
            await SpoolRelay(engine, tmp_path, READ, times=times).run_once()
    assert len(await recorded(engine)) == len(await cursors(engine)) * 10 == (10 if where == "after" else 0)
    assert len(segment_sizes(tmp_path)) == 1
    assert await SpoolRelay(engine, tmp_path, READ, times=times).run_once() == (20 if where == "after" else 30)
    assert await recorded(engine) == [f"e-{number:05}" for number in range(30)]


async def test_two_relays_of_one_folder_take_turns(engine: AsyncEngine, tmp_path: Path) -> None:
    write(tmp_path, *(body(number) for number in range(200)))
    relays = [SpoolRelay(engine, tmp_path, READ, times=RelayTimes(batch_events=20)) for _ in range(3)]
    assert sum(await asyncio.gather(*(relay.run_once() for relay in relays))) == 200
    assert len(await recorded(engine)) == 200


async def test_relays_that_cannot_see_each_others_lock_do_no_harm(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network's file system: the cursors in the database decide, and who is late reads them anew."""
    overtaken: list[int] = []
    real = relay_module._Folder.locked

    def unseen(self: Any) -> Any:
        (tmp_path / "relay.lock").unlink(missing_ok=True)
        overtaken.append(1)
        return real(self)

    monkeypatch.setattr(relay_module._Folder, "locked", unseen)
    writer = write(tmp_path, *(body(number) for number in range(300)), close=False)
    relays = [SpoolRelay(engine, tmp_path, READ, times=RelayTimes(batch_events=7)) for _ in range(2)]
    await asyncio.gather(*(relay.run_once() for relay in relays))
    assert len(overtaken) > 2  # at least one of them had to begin anew
    assert await recorded(engine) == [f"e-{number:05}" for number in range(300)]
    ((name, size),) = segment_sizes(tmp_path)
    assert await cursors(engine) == {name: size}
    writer.close()


@asynccontextmanager
async def locked(url: str) -> Any:
    """Hold SQLite's only write lock."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


async def test_a_locked_database_is_waited_for(sqlite_url: str, tmp_path: Path) -> None:
    engine = build_engine(sqlite_url, EngineLimits(sqlite_busy_timeout_s=0.05))
    folder = tmp_path / "spool"
    write(folder, b"{", *(body(number) for number in range(10)))
    times = RelayTimes(poll_s=0.01, first_backoff_s=0.01, most_backoff_s=0.05)
    relay = SpoolRelay(engine, folder, READ, times=times)
    async with locked(sqlite_url):
        with pytest.raises(StorageUnavailable):
            await relay.run_once()
        await relay.start()
        await until(lambda: relay.failing)
    await until(lambda: not segment_sizes(folder))
    await relay.aclose()
    assert await recorded(engine) == [f"e-{number:05}" for number in range(10)]
    assert [one for one, _ in aside(folder)] == [b"{"]  # once, however often its batch was tried
    await engine.dispose()


async def test_a_started_relay_follows_its_folder_until_it_is_closed(engine: AsyncEngine, tmp_path: Path) -> None:
    relay = SpoolRelay(engine, tmp_path / "later", READ, times=RelayTimes(poll_s=0.01))
    await relay.start()
    for number in range(3):
        write(tmp_path / "later", body(number))
        async with asyncio.timeout(WAIT_S):
            while len(await recorded(engine)) <= number:
                await asyncio.sleep(0.01)
    await relay.aclose()
    write(tmp_path / "later", body(9))
    await asyncio.sleep(0)
    assert len(await recorded(engine)) == 3
    assert len(segment_sizes(tmp_path / "later")) == 1


async def test_a_thousand_events_take_one_insert(postgresql_engine: AsyncEngine, tmp_path: Path) -> None:
    statements: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        statements.append(statement.split()[0])

    write(tmp_path, *(body(number) for number in range(1_000)))
    on.listen(postgresql_engine.sync_engine, "before_cursor_execute", note)
    assert await SpoolRelay(postgresql_engine, tmp_path, READ).run_once() == 1_000
    # Where it is; then, in one transaction, the cursor and all rows; at the end the finished file's cursor goes.
    assert statements == ["SELECT", "INSERT", "INSERT", "DELETE"]


async def test_a_database_from_a_backup_gets_again_what_it_has_lost(engine: AsyncEngine, tmp_path: Path) -> None:
    writer = write(tmp_path, *(body(number) for number in range(6)), close=False)
    relay = SpoolRelay(engine, tmp_path, READ, times=RelayTimes(batch_events=3))
    await relay.run_once()
    ((name, size),) = segment_sizes(tmp_path)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM completion_events WHERE id >= 'e-00003'"))
        half = {"position": 64 + (size - 64) // 2, "name": name}
        await connection.execute(
            text("UPDATE completion_spool_cursors SET position = :position WHERE segment = :name"), half
        )
    assert await relay.run_once() == 3
    assert await recorded(engine) == [f"e-{number:05}" for number in range(6)]
    writer.close()
