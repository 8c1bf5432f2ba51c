"""Starting a run: what happens when its conversation is busy, and when the same start comes again."""

import asyncio

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import ConversationNotFound, RunConflict
from app.domain.identifiers import new_run_id
from app.domain.models.conversations import Caller
from app.domain.models.runs import RunBatch, RunStatus
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.journal import SqlRunJournal
from tests.contract.journal.factory import (
    CALLER,
    count_rows,
    end_of,
    new_run,
    record_of,
    row_of,
    running,
    taken,
    waiting,
)

KEYED = {"idempotency_key": "key 1", "request_hash": "h1"}


@pytest.mark.parametrize("state", ["running", "waiting", "queued"])
async def test_a_busy_conversation_rejects_and_nothing_is_written(
    journal: SqlRunJournal, engine: AsyncEngine, state: str
) -> None:
    head = await (waiting(journal) if state == "waiting" else running(journal))
    if state == "queued":
        await journal.hand_back(head, RunBatch())
    before = await count_rows(engine)
    opened = await SqlConversationStore(engine).get(CALLER, head.conversation_id)
    with pytest.raises(RunConflict) as raised:
        await journal.start(new_run(conversation_id=head.conversation_id, on_busy="reject"), "me")
    assert raised.value.reason == "conversation_busy"
    assert await count_rows(engine) == before
    assert await SqlConversationStore(engine).get(CALLER, head.conversation_id) == opened


async def test_an_idle_conversation_rejects_nothing(journal: SqlRunJournal) -> None:
    head = await running(journal)
    await journal.finish(head, record_of(head))
    started = await journal.start(new_run(conversation_id=head.conversation_id, on_busy="reject"), "me")
    assert started.history is not None
    assert started.run.position == 2  # a refused start leaves no gap either


@pytest.mark.parametrize("state", ["running", "waiting", "queued"])
async def test_a_newer_input_interrupts_all_before_it(journal: SqlRunJournal, engine: AsyncEngine, state: str) -> None:
    head = await (waiting(journal) if state == "waiting" else running(journal))
    if state == "queued":
        await journal.hand_back(head, RunBatch())
    thread = head.conversation_id
    queued = (await journal.start(new_run(conversation_id=thread), "you")).run
    await journal.request_cancel(CALLER, queued.id, "user")
    elsewhere = await running(journal)
    started = await journal.start(new_run(conversation_id=thread, on_busy="interrupt"), "me")
    assert set(started.interrupted) == {head.id, queued.id}
    assert started.history is None
    reasons = {run.id: (await row_of(engine, run.id)).cancel_reason for run in (head, queued, started.run, elsewhere)}
    assert reasons == {head.id: "interrupted", queued.id: "user", started.run.id: None, elsewhere.id: None}
    if state == "running":
        assert await journal.renew("me", [head.id]) == {head.id: "interrupted"}
        await journal.finish(head, record_of(head, status=RunStatus.CANCELLED))
    else:
        claimed = await journal.claim("me", take_over=False)
        assert claimed is not None
        assert (claimed.run.id, claimed.cancel_reason) == (head.id, "interrupted")
        await journal.finish(claimed.run, end_of(claimed.run, claimed.last_sequence, RunStatus.CANCELLED))
    second = await journal.claim("you", take_over=False)
    assert second is not None
    assert (second.run.id, second.cancel_reason) == (queued.id, "user")
    await journal.finish(second.run, record_of(second.run, status=RunStatus.CANCELLED))
    last = await taken(journal, "me")
    assert (last.run.id, last.cancel_reason) == (started.run.id, None)


async def test_an_interrupting_start_with_nothing_to_interrupt(journal: SqlRunJournal) -> None:
    head = await running(journal)
    await journal.finish(head, record_of(head))
    started = await journal.start(new_run(conversation_id=head.conversation_id, on_busy="interrupt"), "me")
    assert (started.interrupted, started.history is not None) == ((), True)


async def test_many_starts_at_once_make_one_line(journal: SqlRunJournal) -> None:
    head = await running(journal)
    await journal.finish(head, record_of(head))
    thread = head.conversation_id
    starts = await asyncio.gather(*(journal.start(new_run(conversation_id=thread), "me") for _ in range(6)))
    assert sorted(started.run.position for started in starts) == list(range(2, 8))
    assert sum(started.history is not None for started in starts) == 1


async def test_the_same_start_again_gives_the_same_run(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    first = await journal.start(new_run(**KEYED), "me")
    assert not first.existing
    before = await count_rows(engine)
    again = await journal.start(new_run(**KEYED), "you")
    assert (again.run, again.existing, again.history, again.interrupted) == (first.run, True, None, ())
    assert await count_rows(engine) == before
    assert await journal.started(CALLER, "key 1", "h1") == again
    assert await journal.started(CALLER, "key 2", "h1") is None


@pytest.mark.parametrize("on_busy", ["queue", "reject", "interrupt"])
async def test_the_same_start_in_a_conversation_that_it_made_busy(
    journal: SqlRunJournal, engine: AsyncEngine, on_busy: str
) -> None:
    head = await running(journal)
    await journal.finish(head, record_of(head))
    keyed = {"conversation_id": head.conversation_id, "on_busy": on_busy, **KEYED}
    first = await journal.start(new_run(**keyed), "me")
    before = await count_rows(engine)
    again = await journal.start(new_run(**keyed), "me")
    assert (again.run.id, again.existing) == (first.run.id, True)
    assert await count_rows(engine) == before
    assert (await row_of(engine, first.run.id)).cancel_reason is None
    assert (await SqlConversationStore(engine).get(CALLER, head.conversation_id)).run_count == 2


async def test_a_start_that_has_ended_is_known_still(journal: SqlRunJournal) -> None:
    first = await journal.start(new_run(**KEYED), "me")
    await journal.finish(first.run, record_of(first.run))
    again = await journal.start(new_run(**KEYED), "me")
    assert (again.run.id, again.existing) == (first.run.id, True)


async def test_another_request_with_the_same_key_is_refused(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    await journal.start(new_run(**KEYED), "me")
    before = await count_rows(engine)
    with pytest.raises(RunConflict) as raised:
        await journal.start(new_run(idempotency_key="key 1", request_hash="h2"), "me")
    assert raised.value.reason == "idempotency_conflict"
    with pytest.raises(RunConflict):
        await journal.started(CALLER, "key 1", "h2")
    assert await count_rows(engine) == before


async def test_a_key_belongs_to_its_organization_and_user(journal: SqlRunJournal) -> None:
    mine = await journal.start(new_run(**KEYED), "me")
    bob, other, everybody = Caller("acme", "bob"), Caller("other", "ada"), Caller("acme")
    with pytest.raises(RunConflict):
        await journal.start(new_run(caller=bob, **KEYED), "me")
    with pytest.raises(RunConflict):
        await journal.started(bob, "key 1", "h1")
    assert await journal.started(other, "key 1", "h1") is None
    theirs = await journal.start(new_run(caller=other, **KEYED), "me")
    assert (theirs.existing, theirs.run.id == mine.run.id) == (False, False)
    whole = await journal.started(everybody, "key 1", "h1")
    assert whole is not None
    assert whole.run.id == mine.run.id


async def test_two_equal_starts_at_once_make_one_run(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    starts = await asyncio.gather(*(journal.start(new_run(**KEYED), f"owner {n}") for n in range(5)))
    assert len({started.run.id for started in starts}) == 1
    assert sum(not started.existing for started in starts) == 1
    rows = await count_rows(engine)
    assert (rows["agent_runs"], rows["agent_conversations"]) == (1, 1)


async def test_two_different_starts_with_one_key_at_once(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    head = await running(journal)
    keyed = [
        new_run(conversation_id=head.conversation_id, idempotency_key="k", request_hash=f"h{number}")
        for number in range(4)
    ]
    starts = await asyncio.gather(*(journal.start(new, "me") for new in keyed), return_exceptions=True)
    assert sorted(type(started).__name__ for started in starts) == ["RunConflict"] * 3 + ["StartedRun"]
    assert (await count_rows(engine))["agent_runs"] == 2


async def test_a_run_id_that_exists_is_a_fault_of_ours(journal: SqlRunJournal) -> None:
    run_id = new_run_id()
    await journal.start(new_run(id=run_id), "me")
    with pytest.raises(IntegrityError):
        await journal.start(new_run(id=run_id, **KEYED), "me")


async def test_a_deleted_conversation_takes_no_run(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    head = await running(journal)
    await SqlConversationStore(engine).delete(CALLER, head.conversation_id)
    with pytest.raises(ConversationNotFound):
        await journal.start(new_run(conversation_id=head.conversation_id, **KEYED), "me")
    assert await journal.started(CALLER, "key 1", "h1") is None
