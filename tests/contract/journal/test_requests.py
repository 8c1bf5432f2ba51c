"""What others ask of a run: its end, and decisions on its tool calls."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import InvalidInput, LeaseLost, RunConflict, RunNotFound
from app.domain.models.approvals import Decision
from app.domain.models.conversations import Caller
from app.domain.models.events import RunWaiting
from app.domain.models.runs import RunBatch, RunStatus
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import completion_events
from tests.contract.journal.factory import (
    CALLER,
    batch,
    call,
    count_rows,
    deltas,
    end_of,
    new_run,
    parking,
    record_of,
    request,
    row_of,
    running,
    step,
    taken,
    waiting,
)

YES, NO = Decision("a1", approve=True), Decision("a1", approve=False)
OTHERS = [Caller("other", "ada"), Caller("other"), Caller("acme", "bob")]


async def states(journal: SqlRunJournal, run_id: str) -> list[str]:
    return [approval.state for approval in await journal.approvals(CALLER, run_id)]


async def told_of(engine: AsyncEngine, run_id: str) -> Sequence[Any]:
    """What billing, analytics and audit are told of a run, in order."""
    async with engine.connect() as connection:
        asked = select(completion_events).where(completion_events.c.run_id == run_id)
        return (await connection.execute(asked.order_by(completion_events.c.created_at))).all()


async def test_a_parked_run_waits_for_its_approvals(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    await journal.record(run, batch(1))
    rest = RunBatch((step(),), (call(),), deltas(2, 2))
    record = parking(run, request(2), request(1), rest=rest)
    await journal.park(run, record, 60)
    before = await count_rows(engine)
    await journal.park(run, record, 60)  # the answer got lost
    assert await count_rows(engine) == before
    stored, status = await journal.events(CALLER, run.id)
    assert status is RunStatus.WAITING
    assert [event.sequence for event in stored] == [1, 2, 3, 4]
    assert stored[-1].event == RunWaiting(run.id, run.conversation_id, 2)
    assert await journal.result(CALLER, run.id) == record.result
    asked = await journal.approvals(CALLER, run.id)
    assert [approval.request for approval in asked] == [request(2), request(1)]
    assert {approval.state for approval in asked} == {"pending"}
    assert all(approval.expires_at is not None for approval in asked)
    row = await row_of(engine, run.id)
    assert (row.owner, row.finished_at) == (None, None)
    with pytest.raises(LeaseLost):
        await journal.record(run, batch(5))
    with pytest.raises(LeaseLost):
        await journal.finish(run, end_of(run, 4))
    rows = await count_rows(engine)
    assert (rows["completion_events"], rows["agent_messages"]) == (1, 0)
    (told,) = await told_of(engine, run.id)
    assert (told.id, told.type, told.outcome) == (record.completion.id, "approval.requested", "success")
    assert (told.session_id, told.organization_id, told.user_id) == (run.conversation_id, "acme", "ada")
    assert told.payload["tools"] == ["rm"]
    assert [one["id"] for one in told.payload["approvals"]] == ["a2", "a1"]
    assert "usage" not in told.payload  # the end of the run counts it, once


async def test_nobody_overtakes_a_waiting_run(journal: SqlRunJournal) -> None:
    run = await waiting(journal)
    behind = await journal.start(new_run(conversation_id=run.conversation_id), "me")
    assert behind.history is None
    assert await journal.claim("me", take_over=True) is None


async def test_a_run_goes_on_with_its_last_decision(journal: SqlRunJournal) -> None:
    run = await waiting(journal, request(1), request(2))
    assert await journal.decide(CALLER, run.id, [YES], "bob") == 1
    assert await journal.claim("me", take_over=True) is None
    assert (await journal.summary(CALLER, run.id)).status is RunStatus.WAITING
    assert await journal.decide(CALLER, run.id, [Decision("a2", approve=False)], "bob") == 0
    assert await journal.result(CALLER, run.id) is None
    claimed = await taken(journal, "me")
    assert [approval.state for approval in claimed.approvals] == ["approved", "rejected"]
    assert claimed.last_sequence == 1


async def test_always_answers_every_open_request_of_the_tool(journal: SqlRunJournal) -> None:
    run = await waiting(journal, request(1), request(2), request(3, tool="mv"))
    assert await journal.decide(CALLER, run.id, [Decision("a1", approve=False, message="never", always=True)], "b") == 1
    found = await journal.approvals(CALLER, run.id)
    assert [(approval.state, approval.always, approval.message) for approval in found] == [
        ("rejected", True, "never"),
        ("rejected", True, "never"),
        ("pending", False, None),
    ]


async def test_always_leaves_another_decision_of_the_same_call_alone(journal: SqlRunJournal) -> None:
    run = await waiting(journal, request(1), request(2))
    decisions = [Decision("a1", approve=True, always=True), Decision("a2", approve=False)]
    assert await journal.decide(CALLER, run.id, decisions, None) == 0
    assert await states(journal, run.id) == ["approved", "rejected"]


async def test_the_same_decision_again_changes_nothing(journal: SqlRunJournal) -> None:
    run = await waiting(journal, request(1), request(2))
    assert await journal.decide(CALLER, run.id, [YES], "bob") == 1
    assert await journal.decide(CALLER, run.id, [YES], "eve") == 1
    assert (await journal.approvals(CALLER, run.id))[0].decided_by == "bob"
    assert await journal.decide(CALLER, run.id, [Decision("a2", approve=True)], "bob") == 0
    claimed = await taken(journal, "me")
    assert await journal.decide(CALLER, run.id, [YES], "bob") == 0  # also when the run has gone on
    assert await journal.claim("you", take_over=True) is None
    await journal.record(claimed.run, batch(2))


async def test_another_decision_is_a_conflict_and_all_or_none(journal: SqlRunJournal) -> None:
    run = await waiting(journal, request(1), request(2))
    await journal.decide(CALLER, run.id, [YES], "bob")
    with pytest.raises(RunConflict) as raised:
        await journal.decide(CALLER, run.id, [Decision("a2", approve=True), NO], "eve")
    assert raised.value.reason == "already_decided"
    assert await states(journal, run.id) == ["approved", "pending"]


async def test_two_who_decide_at_once(journal: SqlRunJournal) -> None:
    run = await waiting(journal)
    results = await asyncio.gather(
        journal.decide(CALLER, run.id, [YES], "bob"),
        journal.decide(CALLER, run.id, [NO], "eve"),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["RunConflict", "int"]
    (found,) = await journal.approvals(CALLER, run.id)
    assert found.decided_by == ("bob" if found.state == "approved" else "eve")


@pytest.mark.parametrize(
    "decisions",
    [
        [Decision("unknown", approve=True)],
        [YES, YES],
        [YES, Decision("/t:a1", approve=True)],
        [Decision("c", approve=True)],
    ],
)
async def test_a_decision_must_name_one_request(journal: SqlRunJournal, decisions: list[Decision]) -> None:
    twice = [request(5, call_id="c"), request(6, call_id="c")]
    run = await waiting(journal, request(1), *twice)
    with pytest.raises(InvalidInput):
        await journal.decide(CALLER, run.id, decisions, None)
    assert await states(journal, run.id) == ["pending"] * 3
    steps = [Decision("/t:a1", approve=True), Decision("/t:a5", approve=True), Decision("/t:a6", approve=False)]
    assert await journal.decide(CALLER, run.id, steps, None) == 0


async def test_a_long_call_id_is_found_by_what_the_model_called_it(journal: SqlRunJournal) -> None:
    long = "call_" + "x" * 400
    run = await waiting(journal, request(1, call_id=long, step=f"/t:{long}"))
    assert await journal.decide(CALLER, run.id, [Decision(long, approve=True)], None) == 0


async def test_a_run_that_does_not_wait(journal: SqlRunJournal) -> None:
    run = await waiting(journal, request(1), request(2))
    await journal.request_cancel(CALLER, run.id, "user")
    with pytest.raises(RunConflict) as raised:
        await journal.decide(CALLER, run.id, [YES], "bob")
    assert raised.value.reason == "not_waiting"
    claimed = await taken(journal, "me")
    await journal.finish(claimed.run, end_of(claimed.run, 1, RunStatus.CANCELLED))
    with pytest.raises(RunConflict):
        await journal.decide(CALLER, run.id, [YES], "bob")
    assert await states(journal, run.id) == ["expired", "expired"]
    never = await running(journal)
    with pytest.raises(InvalidInput):
        await journal.decide(CALLER, never.id, [YES], "bob")


@pytest.mark.parametrize("caller", OTHERS)
async def test_another_tenant_s_run_does_not_exist(journal: SqlRunJournal, engine: AsyncEngine, caller: Caller) -> None:
    run = await waiting(journal)
    with pytest.raises(RunNotFound):
        await journal.decide(caller, run.id, [YES], None)
    with pytest.raises(RunNotFound):
        await journal.request_cancel(caller, run.id, "user")
    with pytest.raises(RunNotFound):
        await journal.approvals(caller, run.id)
    with pytest.raises(RunNotFound):
        await journal.summary(caller, run.id)
    with pytest.raises(RunNotFound):
        await journal.last_sequence(caller, run.id)
    assert await journal.approvals(caller) == []
    assert await journal.list(caller) == ([], False)
    row = await row_of(engine, run.id)
    assert (row.status, row.cancel_reason) == ("waiting", None)
    assert await journal.decide(Caller("acme"), run.id, [YES], None) == 0


async def test_the_end_of_a_running_run_is_its_owner_s_to_write(journal: SqlRunJournal) -> None:
    run = await running(journal)
    assert await journal.request_cancel(CALLER, run.id, "user") is RunStatus.RUNNING
    assert await journal.request_cancel(CALLER, run.id, "interrupted") is RunStatus.RUNNING  # the first reason stays
    assert await journal.claim("you", take_over=True) is None
    assert await journal.renew("me", [run.id]) == {run.id: "user"}
    assert await journal.record(run, batch(1)) == "user"
    await journal.finish(run, end_of(run, 1, RunStatus.CANCELLED))
    assert await journal.request_cancel(CALLER, run.id, "user") is RunStatus.CANCELLED


async def test_the_end_of_a_queued_run(journal: SqlRunJournal) -> None:
    head = await running(journal)
    queued = (await journal.start(new_run(conversation_id=head.conversation_id), "me")).run
    assert await journal.request_cancel(CALLER, queued.id, "user") is RunStatus.QUEUED
    assert await journal.renew("me", [queued.id]) == {queued.id: "user"}
    await journal.finish(head, record_of(head))
    claimed = await journal.claim("me", take_over=False)
    assert claimed is not None
    assert (claimed.run.id, claimed.cancel_reason) == (queued.id, "user")


async def test_the_end_of_a_run_that_nobody_holds(journal: SqlRunJournal) -> None:
    parked, handed_back = await waiting(journal), await running(journal)
    await journal.hand_back(handed_back, RunBatch())
    assert await journal.request_cancel(CALLER, parked.id, "user") is RunStatus.WAITING
    assert await journal.request_cancel(CALLER, handed_back.id, "user") is RunStatus.QUEUED
    assert await journal.result(CALLER, parked.id) is None
    for run in (parked, handed_back):
        assert (await taken(journal, "you", run.id)).cancel_reason == "user"


async def test_an_ended_run_is_left_alone(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    record = record_of(run)
    await journal.finish(run, record)
    assert await journal.request_cancel(CALLER, run.id, "user") is RunStatus.COMPLETED
    assert (await row_of(engine, run.id)).cancel_reason is None
    assert await journal.result(CALLER, run.id) == record.result


async def test_a_run_that_parks_after_its_end_was_asked_for(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    await journal.request_cancel(CALLER, run.id, "user")
    record = parking(run)
    await journal.park(run, record, 3600)
    await journal.park(run, record, 3600)
    assert (await row_of(engine, run.id)).status == "queued"
    assert await journal.result(CALLER, run.id) is None
    assert await told_of(engine, run.id) == []  # nobody is asked: it does not wait
    assert (await taken(journal, "you")).cancel_reason == "user"


async def test_a_run_may_wait_several_times(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await waiting(journal)
    await journal.decide(CALLER, run.id, [YES], "bob")
    again = (await taken(journal, "me")).run
    await journal.park(again, parking(again, request(2), request(3), last_sequence=1), 3600)
    assert await states(journal, run.id) == ["approved", "pending", "pending"]
    assert await journal.decide(CALLER, run.id, [Decision("a2", approve=True)], "bob") == 1
    assert await journal.decide(CALLER, run.id, [Decision("a3", approve=True)], "bob") == 0
    last = await taken(journal, "me")
    assert [approval.request.call_id for approval in last.approvals] == ["a1", "a2", "a3"]
    await journal.finish(last.run, end_of(last.run, 2))
    told = await told_of(engine, run.id)
    assert [one.type for one in told] == ["approval.requested", "approval.requested", "session.completed"]
    assert len({one.id for one in told}) == 3
    assert [[asked["id"] for asked in one.payload["approvals"]] for one in told[:2]] == [["a1"], ["a2", "a3"]]


@pytest.mark.parametrize("table", ["agent_run_approvals", "completion_events"])
async def test_a_run_that_cannot_be_parked_tells_nobody(
    journal: SqlRunJournal, engine: AsyncEngine, table: str
) -> None:
    run = await running(journal)
    before = await count_rows(engine)

    def broken(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if table in statement:
            raise LookupError(table)

    event.listen(engine.sync_engine, "before_cursor_execute", broken)
    with pytest.raises(LookupError):
        await journal.park(run, parking(run), 3600)
    event.remove(engine.sync_engine, "before_cursor_execute", broken)
    assert await count_rows(engine) == before
    assert (await row_of(engine, run.id)).status == "running"
    await journal.park(run, parking(run), 3600)
    assert len(await told_of(engine, run.id)) == 1
