"""The contract of RunJournal, over SQLite and PostgreSQL."""

import asyncio
from dataclasses import replace

import pytest
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import ConversationNotFound, LeaseLost, RunNotFound
from app.domain.models.conversations import Caller
from app.domain.models.events import RunCompleted
from app.domain.models.runs import RunStatus
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import (
    completion_events,
    conversations,
    messages,
    run_events,
    run_steps,
    run_usage,
    runs,
    sdk_messages,
)
from tests.contract.journal.factory import (
    CALLER,
    NASTY,
    all_events,
    count_rows,
    deltas,
    expire,
    items_of,
    new_run,
    record_of,
)


async def test_a_first_run_opens_its_conversation_and_is_claimed(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    new = new_run()
    started = await journal.start(new, "me")
    assert started.history == ()
    run = started.run
    assert (run.id, run.conversation_id, run.position, run.fence, run.attempts) == (
        new.id,
        new.new_conversation_id,
        1,
        1,
        1,
    )
    assert run.session_id == f"acme:{new.new_conversation_id}"
    assert run.session_mode == "local"
    opened = await SqlConversationStore(engine).get(CALLER, run.conversation_id)
    assert (opened.agent, opened.run_count, opened.message_count, opened.user_id) == ("scribe", 1, 0, "ada")


async def test_the_provider_s_conversation_is_the_key_of_the_session(journal: SqlRunJournal) -> None:
    started = await journal.start(new_run(provider_conversation_id="conv_theirs"), "me")
    assert started.run.session_id == "acme:conv_theirs"
    assert started.run.session_mode == "server"


@pytest.mark.parametrize("caller", [Caller("other", "ada"), Caller("other"), Caller("acme", "bob")])
async def test_another_tenant_s_conversation_does_not_exist(
    journal: SqlRunJournal, engine: AsyncEngine, caller: Caller
) -> None:
    first = (await journal.start(new_run(), "me")).run
    before = await count_rows(engine)
    with pytest.raises(ConversationNotFound):
        await journal.start(new_run(caller=caller, conversation_id=first.conversation_id), "me")
    for read in (journal.events(caller, first.id), journal.result(caller, first.id)):
        with pytest.raises(RunNotFound):
            await read
    assert await count_rows(engine) == before


@pytest.mark.parametrize("conversation", ["conv_none", "x" * 500, "nul\x00", "half\ud83d", ""])
async def test_an_id_that_cannot_exist_is_not_found(journal: SqlRunJournal, conversation: str) -> None:
    with pytest.raises(ConversationNotFound):
        await journal.start(new_run(conversation_id=conversation), "me")
    with pytest.raises(RunNotFound):
        await journal.result(CALLER, conversation)
    with pytest.raises(RunNotFound):
        await journal.events(CALLER, conversation)


async def test_the_organization_reaches_every_user_s_conversation(journal: SqlRunJournal) -> None:
    first = (await journal.start(new_run(), "me")).run
    second = await journal.start(new_run(caller=Caller("acme"), conversation_id=first.conversation_id), "me")
    assert second.run.position == 2


async def test_the_agent_of_a_conversation(journal: SqlRunJournal) -> None:
    first = (await journal.start(new_run(agent="scribe"), "me")).run
    await journal.finish(first, record_of(first))
    thread = first.conversation_id
    plain = (await journal.start(new_run(agent=None, default_agent="x", conversation_id=thread), "me")).run
    sticky = new_run(agent=None, default_agent="x", sticky_agent=True, conversation_id=thread)
    assert plain.agent == "scribe"
    assert (await journal.start(sticky, "me")).run.agent == "poet"


async def test_runs_of_one_conversation_wait_for_each_other(journal: SqlRunJournal) -> None:
    first = (await journal.start(new_run("one"), "me")).run
    second = await journal.start(new_run("two", conversation_id=first.conversation_id), "me")
    third = await journal.start(new_run("three", conversation_id=first.conversation_id), "you")
    assert second.history is None
    assert third.history is None
    assert await journal.claim("me", take_over=True) is None
    await journal.finish(first, record_of(first))

    assert await journal.claim("you", take_over=True) is None  # the head is mine, and I keep renewing it
    claimed = await journal.claim("me", take_over=False)
    assert claimed is not None
    assert claimed.run.id == second.run.id
    assert (claimed.run.fence, claimed.run.attempts) == (1, 1)
    assert claimed.run.options == second.run.options
    assert claimed.run.input == second.run.input
    assert [item.get("type", item.get("role")) for item in claimed.history] == [
        "user",
        "function_call",
        "function_call_output",
        "assistant",
    ]
    assert await journal.claim("you", take_over=True) is None
    await journal.finish(claimed.run, record_of(claimed.run))
    last = await journal.claim("you", take_over=False)
    assert last is not None
    assert last.run.id == third.run.id


async def test_history_is_cut_to_its_latest_items(journal: SqlRunJournal) -> None:
    first = (await journal.start(new_run("one"), "me")).run
    await journal.finish(first, record_of(first))
    second = await journal.start(new_run("two", conversation_id=first.conversation_id, history_items=2), "me")
    assert second.history is not None
    assert [item.get("type", item.get("role")) for item in second.history] == ["function_call_output", "assistant"]
    await journal.finish(second.run, record_of(second.run))
    third = await journal.start(new_run("3", conversation_id=first.conversation_id, history_items=0), "me")
    assert third.history == ()


async def test_a_lost_run_is_taken_over_once(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "lost")).run
    assert await journal.claim("me", take_over=True) is None
    await expire(engine, run.id)
    assert await journal.claim("me", take_over=False) is None  # nothing of mine waits for it
    claims = await asyncio.gather(*(journal.claim(owner, take_over=True) for owner in ("me", "you", "them")))
    taken = [claim for claim in claims if claim is not None]
    assert len(taken) == 1
    assert (taken[0].run.fence, taken[0].run.attempts) == (2, 2)
    with pytest.raises(LeaseLost):
        await journal.finish(run, record_of(run))
    await journal.finish(taken[0].run, record_of(taken[0].run))


async def test_whoever_waits_behind_a_lost_run_may_take_it_over(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "lost")).run
    await journal.start(new_run(conversation_id=run.conversation_id), "me")
    await expire(engine, run.id)
    claimed = await journal.claim("me", take_over=False)
    assert claimed is not None
    assert claimed.run.id == run.id


async def test_a_queued_run_of_a_lost_process_is_executed_as_a_first_attempt(
    journal: SqlRunJournal, engine: AsyncEngine
) -> None:
    first = (await journal.start(new_run(), "me")).run
    queued = (await journal.start(new_run(conversation_id=first.conversation_id), "lost")).run
    await journal.finish(first, record_of(first))
    await expire(engine, queued.id)
    claimed = await journal.claim("me", take_over=True)
    assert claimed is not None
    assert (claimed.run.id, claimed.run.attempts) == (queued.id, 1)


async def test_a_newer_release_s_run_is_left_alone(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "lost")).run
    await expire(engine, run.id)
    async with writing(engine) as connection:
        await connection.execute(update(runs).values(journal_version=99))
    assert await journal.claim("me", take_over=True) is None


async def test_renewing_keeps_a_lease(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    first = (await journal.start(new_run(), "me")).run
    queued = (await journal.start(new_run(conversation_id=first.conversation_id), "me")).run
    for run in (first, queued):
        await expire(engine, run.id)
    assert await journal.renew("me", [first.id, queued.id]) == {first.id: None, queued.id: None}
    assert await journal.renew("you", [first.id, queued.id]) == {}
    assert await journal.claim("you", take_over=True) is None


async def test_the_database_refuses_two_running_runs(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    first = (await journal.start(new_run(), "me")).run
    queued = (await journal.start(new_run(conversation_id=first.conversation_id), "me")).run
    with pytest.raises(IntegrityError):
        async with writing(engine) as connection:
            await connection.execute(update(runs).where(runs.c.id == queued.id).values(status="running"))


async def test_the_end_of_a_run_fills_every_table(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    new = new_run(NASTY)
    run = (await journal.start(new, "me")).run
    record = record_of(run, answer=NASTY)
    await journal.finish(run, record)

    stored, status = await journal.events(CALLER, run.id)
    assert status is RunStatus.COMPLETED
    assert [event.sequence for event in stored] == list(range(1, len(all_events(run)) + 2))
    assert [event.event for event in stored[:-1]] == all_events(run)
    assert isinstance(stored[-1].event, RunCompleted)
    assert (await journal.events(CALLER, run.id, after=4))[0] == stored[4:]
    assert await journal.result(CALLER, run.id) == record.result

    found = await SqlConversationStore(engine).messages(CALLER, run.conversation_id)
    assert [(message.position, message.role) for message in found] == [(1, "user"), (2, "assistant")]
    assert found[1].text == NASTY.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
    assert await items_of(engine, run.conversation_id) == list(record.result.items)
    async with engine.connect() as connection:
        usage = (await connection.execute(select(run_usage).order_by("step"))).all()
        steps = (await connection.execute(select(run_steps).order_by("step"))).all()
        completion = (await connection.execute(select(completion_events))).one()
        row = (await connection.execute(select(runs))).one()
        thread = (await connection.execute(select(conversations))).one()
    assert [(call.step, call.cost_usd, call.accuracy) for call in usage] == [
        ("/m1", record.result.cost_usd, "exact"),
        ("/t:c1/m1", None, "estimated"),
    ]
    assert [step.result for step in steps] == [[{"type": "message"}], NASTY]
    assert (completion.run_id, completion.type, completion.outcome) == (run.id, "session.completed", "success")
    assert completion.payload["metadata"] == {"ticket": NASTY}
    assert (row.status, row.owner, row.lease_until_ms, row.input_tokens) == ("completed", None, None, 105)
    assert (thread.last_agent, thread.message_count) == ("poet", 2)


async def test_the_sdk_s_own_session_reads_what_a_run_left(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "me")).run
    theirs = SQLAlchemySession(
        run.session_id,
        engine=engine,
        sessions_table="sdk_agent_sessions",
        messages_table="sdk_agent_session_messages",
    )
    await theirs.add_items([{"role": "user", "content": "before"}])
    await journal.finish(run, record_of(run))
    await theirs.add_items([{"role": "user", "content": "after"}])
    items = [dict(item) for item in await theirs.get_items()]
    assert [item.get("type", item.get("content")) for item in items] == [
        "before",
        "hello",
        "function_call",
        "function_call_output",
        "hi",
        "after",
    ]


async def test_a_lost_lease_writes_nothing(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "me")).run
    before = await count_rows(engine)
    with pytest.raises(LeaseLost):
        await journal.finish(replace(run, fence=7), record_of(run))
    assert await count_rows(engine) == before
    async with engine.connect() as connection:
        assert (await connection.execute(select(conversations.c.message_count))).scalar_one() == 0


async def test_a_deleted_conversation_ends_its_run(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "me")).run
    await SqlConversationStore(engine).delete(CALLER, run.conversation_id)
    with pytest.raises(LeaseLost):
        await journal.finish(run, record_of(run))
    assert set((await count_rows(engine)).values()) == {0}


async def test_the_same_end_may_be_written_twice(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    """The answer to a commit can get lost on the way; the retry must find that it had happened."""
    run = (await journal.start(new_run(), "me")).run
    record = record_of(run)
    await journal.finish(run, record)
    before = await count_rows(engine)
    await journal.finish(run, record)
    assert await count_rows(engine) == before
    async with engine.connect() as connection:
        assert (await connection.execute(select(conversations.c.message_count))).scalar_one() == 2
    with pytest.raises(LeaseLost):
        await journal.finish(run, record_of(run))  # another end of the same run is not the same end


async def test_ids_from_outside_may_have_any_length(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "me")).run
    record = record_of(run)
    endless = f"/t:call_{'x' * 900}\x00"
    record = replace(
        record,
        rest=replace(
            record.rest,
            steps=tuple(replace(step, key=f"{endless}{step.key}", name="n" * 400) for step in record.rest.steps),
            calls=tuple(
                replace(call, step=f"{endless}{call.step}", response_id="r" * 999) for call in record.rest.calls
            ),
        ),
    )
    await journal.finish(run, record)
    rows = await count_rows(engine)
    assert (rows["agent_run_steps"], rows["agent_run_usage"]) == (2, 2)


async def test_a_run_that_has_not_ended(journal: SqlRunJournal) -> None:
    run = (await journal.start(new_run(), "me")).run
    assert await journal.result(CALLER, run.id) is None
    assert await journal.events(CALLER, run.id) == ([], RunStatus.RUNNING)


async def test_many_deltas_share_few_rows(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "me")).run
    record = record_of(run)
    told = (*deltas(1, 1000), replace(record.rest.events[-1], sequence=1001))
    await journal.finish(run, replace(record, rest=replace(record.rest, events=told)))
    assert (await count_rows(engine))["agent_run_events"] == 6
    stored, _ = await journal.events(CALLER, run.id, after=333)
    assert [event.sequence for event in stored] == list(range(334, 1002))


async def test_a_corrupt_row_of_the_history_is_passed_over(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    first = (await journal.start(new_run(), "me")).run
    await journal.finish(first, record_of(first))
    async with writing(engine) as connection:
        rows = [{"session_id": first.session_id, "message_data": data} for data in ("{broken", "[1]", '"text"')]
        await connection.execute(insert(sdk_messages), rows)
    second = await journal.start(new_run(conversation_id=first.conversation_id), "me")
    assert second.history is not None
    assert len(second.history) == 4


async def test_a_failed_run_keeps_its_input_and_says_so(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = (await journal.start(new_run(), "me")).run
    await journal.finish(run, record_of(run, status=RunStatus.FAILED))
    async with engine.connect() as connection:
        completion = (await connection.execute(select(completion_events))).one()
        told = (await connection.execute(select(messages))).all()
        kinds = (await connection.execute(select(run_events.c.kind).order_by("sequence"))).scalars().all()
    assert (completion.type, completion.outcome) == ("run.failed", "error")
    assert [message.role for message in told] == ["user"]
    assert kinds[:3] == ["state", "delta", "state"]
