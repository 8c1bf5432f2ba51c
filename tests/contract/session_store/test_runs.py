"""Whole runs of the SDK's Runner over our sessions, and its compaction over them."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from agents import Agent, RunConfig, Runner, SessionSettings, function_tool
from agents.extensions.memory import SQLAlchemySession
from agents.memory import OpenAIResponsesCompactionSession
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.errors import StorageUnavailable
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.providers.openai.buffered_session import BufferedSession
from app.infrastructure.providers.openai.durable_session import DurableSession
from app.infrastructure.providers.openai.session_store import OpenAISQLAlchemySessionStore
from tests.contract.session_store.conftest import MakeSession, closed, contents, in_both_orders, user

QUIET = RunConfig(tracing_disabled=True)
SUMMARY = {"type": "compaction", "id": "cmp_1", "encrypted_content": "what came before"}


@function_tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def agent(*steps: Any) -> Agent[None]:
    return Agent(name="worker", model=ScriptedModel(steps=steps), tools=[double])


def with_a_tool() -> Agent[None]:
    return agent([function_call("double", {"number": 21}, call_id="call_1")], [assistant_message("It is 42.")])


def kinds(items: list[Any]) -> list[str]:
    return [item.get("type") or item["role"] for item in items]


async def run(worker: Agent[None], text: str, session: Any, *, streamed: bool = False) -> None:
    if not streamed:
        await Runner.run(worker, text, session=session, run_config=QUIET)
        return
    result = Runner.run_streamed(worker, text, session=session, run_config=QUIET)
    async for _ in result.stream_events():
        pass


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_run_with_a_tool_is_stored(make_session: MakeSession, streamed: bool) -> None:
    session = make_session("x")
    await run(with_a_tool(), "Twice 21?", session, streamed=streamed)

    stored = await make_session("x").get_items()
    assert kinds(stored) == ["user", "function_call", "function_call_output", "message"]
    assert stored[2]["output"] == "42"


async def test_the_next_run_is_shown_what_the_run_before_stored(make_session: MakeSession) -> None:
    await run(with_a_tool(), "Twice 21?", make_session("x"))
    second = agent([assistant_message("You asked for twice 21.")])
    await run(second, "What did I ask?", make_session("x"))

    shown = second.model.last_call.input
    assert kinds(shown) == ["user", "function_call", "function_call_output", "message", "user"]
    assert len(await make_session("x").get_items()) == 6


async def test_the_limit_of_the_session_and_of_the_run(make_session: MakeSession) -> None:
    session = make_session("x", session_settings=SessionSettings(limit=3))
    await session.add_items([user(str(number)) for number in range(6)])

    worker = agent([assistant_message("a")])
    await run(worker, "now", session)
    assert contents(worker.model.last_call.input) == ["3", "4", "5", "now"]

    worker = agent([assistant_message("b")])
    config = RunConfig(tracing_disabled=True, session_settings=SessionSettings(limit=1))
    await Runner.run(worker, "again", session=session, run_config=config)
    assert len(worker.model.last_call.input) == 2
    assert len(await session.get_items(100)) == 10


async def test_runs_of_different_sessions_at_once(make_session: MakeSession) -> None:
    await asyncio.gather(*(run(with_a_tool(), str(number), make_session(str(number))) for number in range(10)))
    for number in range(10):
        stored = await make_session(str(number)).get_items()
        assert kinds(stored) == ["user", "function_call", "function_call_output", "message"]
        assert stored[0]["content"] == str(number)


async def test_a_run_over_a_database_that_is_away_ends_with_our_error() -> None:
    engine = build_engine("sqlite:////nowhere/at/all.db")
    with pytest.raises(StorageUnavailable):
        await run(agent([assistant_message("a")]), "hello", OpenAISQLAlchemySessionStore(engine).session("x"))
    await closed(engine)


def compacting(session: DurableSession, output: list[Any], **options: Any) -> tuple[Any, AsyncMock]:
    client = MagicMock()
    client.responses.compact = AsyncMock(return_value=SimpleNamespace(output=output))
    return OpenAIResponsesCompactionSession("x", session, client=client, **options), client.responses.compact


async def test_compaction_replaces_what_the_model_was_shown(make_session: MakeSession) -> None:
    session = make_session("x", session_settings=SessionSettings(limit=20))
    older = [user("hidden 1"), user("hidden 2")]
    turns = [{"role": "assistant" if n % 2 else "user", "content": str(n)} for n in range(20)]
    await session.add_items([*older, *turns])
    wrapped, compact = compacting(session, [SUMMARY])

    await run(agent([assistant_message("done")]), "go on", wrapped)

    compact.assert_awaited_once()
    assert await session.get_items(100) == [*older, SUMMARY]
    await make_session("x").add_items([user("newer")])
    assert await session.get_items(100) == [*older, SUMMARY, user("newer")]
    by_time, by_id = await in_both_orders(session.engine, session.session_id)
    assert by_time == by_id


async def test_compaction_gives_way_to_a_newer_write(make_session: MakeSession) -> None:
    session = make_session("x")
    await session.add_items([user(str(number)) for number in range(3)])
    wrapped, compact = compacting(session, [SUMMARY], should_trigger_compaction=lambda _: True)

    async def meanwhile(**_: Any) -> Any:
        await make_session("x").add_items([user("meanwhile")])
        return SimpleNamespace(output=[SUMMARY])

    compact.side_effect = meanwhile
    await run(agent([assistant_message("done")]), "go on", wrapped)

    compact.assert_awaited_once()
    stored = await session.get_items()
    assert [item.get("content") for item in stored if item.get("role") == "user"] == [
        "0",
        "1",
        "2",
        "go on",
        "meanwhile",
    ]


async def test_the_snapshot_is_the_sdks(make_session: MakeSession) -> None:
    session = make_session("x")
    await session.add_items([user("1"), user("2"), user("3")])

    part = await session._get_compaction_snapshot(2)
    whole = await session._get_compaction_snapshot(3)
    assert (contents(part.items), part.complete) == (["2", "3"], False)
    assert (contents(whole.items), whole.complete) == (["1", "2", "3"], True)

    assert await part.replace_suffix(1, [SUMMARY]) is True
    assert await whole.replace_suffix(0, [SUMMARY]) is False
    assert await session.get_items() == [user("1"), user("2"), SUMMARY]


async def test_a_snapshot_prunes_what_has_expired_before_it(make_session: MakeSession) -> None:
    session = make_session("x")
    await session.add_items([user("old"), user("old"), user("kept"), user("new")])
    snapshot = await session._get_compaction_snapshot(2, prune_prefix=lambda item: item["content"] == "old")

    assert await snapshot.replace_suffix(1, [SUMMARY]) is True
    assert await session.get_items() == [user("kept"), SUMMARY]


@pytest.mark.parametrize("data", ["{", "[]", '"x"'])
async def test_a_snapshot_with_a_corrupt_row_is_none(make_session: MakeSession, store_row: Any, data: str) -> None:
    session = make_session("s")
    await session.add_items([user("1")])
    await store_row(data)
    assert await session._get_compaction_snapshot(5) is None


async def test_the_sdk_still_serves_snapshots_to_its_exact_class_only(make_session: MakeSession) -> None:
    class Derived(SQLAlchemySession):
        pass

    assert await Derived("x", engine=make_session("x").engine)._get_compaction_snapshot(5) is None


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_run_over_a_buffer_writes_what_a_stored_run_writes(make_session: MakeSession, streamed: bool) -> None:
    stored = make_session("x")
    await run(with_a_tool(), "Twice 21?", stored, streamed=streamed)
    history = await stored.get_items()
    buffer = BufferedSession("x", [])
    await run(with_a_tool(), "Twice 21?", buffer, streamed=streamed)
    assert list(buffer.added) == history

    second = agent([assistant_message("You asked for twice 21.")])
    buffer = BufferedSession("x", history)
    await run(second, "What did I ask?", buffer, streamed=streamed)
    await run(agent([assistant_message("You asked for twice 21.")]), "What did I ask?", stored, streamed=streamed)
    assert kinds(second.model.last_call.input) == ["user", "function_call", "function_call_output", "message", "user"]
    assert [*history, *buffer.added] == await stored.get_items()
    assert buffer.removed_from_history == 0
