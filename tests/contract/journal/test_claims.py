"""Who may execute a run, and what a claim brings along."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import LeaseLost
from app.domain.models.approvals import Decision
from app.domain.models.runs import RunBatch, RunStatus
from app.domain.models.usage import Price
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.run_rows import JOURNAL_VERSION
from app.infrastructure.persistence.tables import runs
from tests.contract.journal.factory import (
    CALLER,
    NASTY,
    NOW,
    batch,
    call,
    end_of,
    expire,
    new_run,
    record_of,
    request,
    row_of,
    running,
    step,
    taken,
    waiting,
)


async def test_a_lost_run_comes_with_all_that_was_recorded(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    earlier = await running(journal)
    await journal.finish(earlier, record_of(earlier))
    run = (await journal.start(new_run(NASTY, conversation_id=earlier.conversation_id), "lost")).run
    steps = (
        step("/m1", kind="model", request_hash="h1", result=[{"text": NASTY, "deep": [None, 1.5, True]}]),
        step("/t:a", state="started", result=None, name="note 中文"),
        step("/g:x", kind="guardrail", result=False, response_id="resp_9"),
    )
    calls = (call("/m1"), replace(call("/m2"), price=None, first_token_ms=None, response_id=None, accuracy="estimated"))
    await journal.record(run, RunBatch(steps[:2], calls[:1], batch(1, events=4).events))
    await journal.record(run, RunBatch(steps[2:], calls[1:]))
    await expire(engine, run.id)

    claimed = await taken(journal, "me")
    assert claimed.run == replace(run, fence=2, attempts=2)
    assert dict(claimed.steps) == {made.key: made for made in steps}
    assert set(claimed.calls) == set(calls)
    assert claimed.last_sequence == 4
    assert claimed.started_at == run.created_at
    assert (claimed.approvals, claimed.cancel_reason) == ((), None)
    assert [item.get("type", item.get("role")) for item in claimed.history] == [
        "user",
        "function_call",
        "function_call_output",
        "assistant",
    ]
    await journal.finish(claimed.run, end_of(claimed.run, 4))


async def test_a_price_of_nothing_is_not_an_unknown_one(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal, "lost")
    free = replace(call(), price=Price(call().price.cost_usd * 0, "free 1"))  # type: ignore[union-attr] - it is priced
    await journal.record(run, RunBatch(calls=(free,)))
    await expire(engine, run.id)
    assert (await taken(journal, "me")).calls == (free,)


async def test_calls_come_back_in_the_order_of_their_ends(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    """A nested call ends before the call that it is part of, and begins after it."""
    run = await running(journal, "lost")
    long = replace(call("/m1"), latency_ms=5000)
    short = replace(call("/t:a/m1"), started_at=NOW.replace(second=NOW.second + 1), latency_ms=10)
    await journal.record(run, RunBatch(calls=(short,)))
    await journal.record(run, RunBatch(calls=(long,)))
    await expire(engine, run.id)
    assert (await taken(journal, "me")).calls == (short, long)


async def test_attempts_count_lost_owners_only(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    await journal.hand_back(run, batch(1))
    again = (await taken(journal, "you")).run
    assert (again.fence, again.attempts) == (2, 1)
    await expire(engine, run.id)
    lost = (await taken(journal, "me")).run
    assert (lost.fence, lost.attempts) == (3, 2)
    record = end_of(lost, 1)
    assert record.completion is not None
    asked = replace(record.completion, type="approval.requested")
    record = replace(
        record, completion=asked, result=replace(record.result, status=RunStatus.WAITING, approvals=(request(),))
    )
    await journal.park(lost, record, 3600)
    await journal.decide(CALLER, run.id, [Decision("a1", approve=True)], "bob")
    decided = (await taken(journal, "you")).run
    assert (decided.fence, decided.attempts) == (4, 2)


async def test_a_named_run_is_claimed_or_none(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    older, wanted = await running(journal), await running(journal)
    for run in (older, wanted):
        await journal.hand_back(run, RunBatch())
    claimed = await journal.claim("me", take_over=True, run_id=wanted.id)
    assert claimed is not None
    assert claimed.run.id == wanted.id
    for name in (wanted.id, "run_unknown"):
        assert await journal.claim("me", take_over=True, run_id=name) is None
    behind = (await journal.start(new_run(conversation_id=wanted.conversation_id), "me")).run
    assert await journal.claim("me", take_over=True, run_id=behind.id) is None
    await expire(engine, behind.id)
    assert await journal.claim("you", take_over=True, run_id=behind.id) is None
    assert (await taken(journal, "you")).run.id == older.id


async def test_a_named_run_of_somebody_else_is_left_alone_without_taking_over(
    journal: SqlRunJournal, engine: AsyncEngine
) -> None:
    lost = await running(journal, "lost")
    await expire(engine, lost.id)
    assert await journal.claim("me", take_over=False, run_id=lost.id) is None
    mine = (await journal.start(new_run(conversation_id=lost.conversation_id), "me")).run
    assert await journal.claim("me", take_over=False, run_id=mine.id) is None  # it has to wait for the lost one
    claimed = await journal.claim("me", take_over=False, run_id=lost.id)
    assert claimed is not None
    await journal.finish(claimed.run, end_of(claimed.run, 0))
    claimed = await journal.claim("me", take_over=False, run_id=mine.id)
    assert claimed is not None
    assert claimed.run.id == mine.id


async def test_the_oldest_run_comes_first(journal: SqlRunJournal) -> None:
    made = [await running(journal) for _ in range(3)]
    for run in reversed(made):
        await journal.hand_back(run, RunBatch())
    assert [(await taken(journal, "me")).run.id for _ in made] == [run.id for run in made]
    assert await journal.claim("me", take_over=True) is None


async def test_each_run_has_one_claimer(journal: SqlRunJournal) -> None:
    made = [await running(journal) for _ in range(4)]
    for run in made:
        await journal.hand_back(run, RunBatch())
    claims = await asyncio.gather(*(journal.claim(f"owner {n}", take_over=True) for n in range(8)))
    claims += [await journal.claim("last", take_over=True) for _ in made]
    assert sorted(claim.run.id for claim in claims if claim is not None) == sorted(run.id for run in made)


async def test_a_waiting_run_is_closed_when_its_time_is_over(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await waiting(journal, request(1), request(2))
    assert await journal.claim("me", take_over=True) is None
    await journal.decide(CALLER, run.id, [Decision("a1", approve=True)], "bob")
    await expire(engine, run.id)
    assert await journal.claim("me", take_over=False) is None
    claimed = await taken(journal, "me")
    assert [(approval.state, approval.expires_at) for approval in claimed.approvals] == [
        ("approved", None),
        ("expired", None),
    ]
    assert claimed.approvals[1].decided_at is not None
    assert (claimed.run.attempts, claimed.last_sequence) == (1, 1)
    assert await journal.result(CALLER, run.id) is None


async def test_approvals_come_back_as_they_were_asked(journal: SqlRunJournal) -> None:
    plain = request(1, scope="/t:c9", agent="poet", arguments='{"a": "中文"}')
    run = await waiting(journal, plain, request(2))
    decisions = [Decision("a1", approve=False, message=NASTY, always=True), Decision("a2", approve=True)]
    await journal.decide(CALLER, run.id, decisions, "bob")
    first, second = (await taken(journal, "me")).approvals
    assert (first.request, second.request) == (plain, request(2))
    assert (first.state, first.always, first.decided_by) == ("rejected", True, "bob")
    assert first.message == NASTY.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
    assert (second.state, second.always, second.message) == ("approved", False, None)


@pytest.mark.parametrize("version", [JOURNAL_VERSION, JOURNAL_VERSION + 1])
async def test_a_newer_release_s_run_is_left_alone(journal: SqlRunJournal, engine: AsyncEngine, version: int) -> None:
    run = await running(journal)
    await journal.hand_back(run, RunBatch())
    async with writing(engine) as connection:
        await connection.execute(update(runs).values(journal_version=version))
    claimed = await journal.claim("me", take_over=True)
    named = await journal.claim("me", take_over=True, run_id=run.id)
    assert (claimed is not None) == (version == JOURNAL_VERSION)
    assert named is None


async def test_a_run_handed_back_goes_on_anywhere(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    made = batch(1, step(), events=2)
    await journal.hand_back(run, made)
    await journal.hand_back(run, made)  # the answer got lost
    row = await row_of(engine, run.id)
    assert (row.status, row.owner, row.last_sequence) == ("queued", None, 2)
    with pytest.raises(LeaseLost):
        await journal.record(run, batch(3))
    assert await journal.renew("me", [run.id]) == {}
    claimed = await taken(journal, "you")
    assert set(claimed.steps) == {"/t:c1"}
    with pytest.raises(LeaseLost):
        await journal.hand_back(run, made)
    await journal.record(claimed.run, batch(3))


async def test_queued_runs_are_handed_back_together(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    head = await running(journal)
    mine = [(await journal.start(new_run(conversation_id=head.conversation_id), "me")).run for _ in range(2)]
    other = (await journal.start(new_run(conversation_id=head.conversation_id), "you")).run
    await journal.hand_back_queued("me")
    assert [(await row_of(engine, run.id)).owner for run in (head, *mine, other)] == ["me", None, None, "you"]
    assert await journal.renew("me", [run.id for run in (head, *mine)]) == {head.id: None}
    await journal.finish(head, record_of(head))
    assert (await taken(journal, "them")).run.id == mine[0].id


async def test_only_held_and_named_runs_are_renewed(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    held, unnamed, parked = await running(journal), await running(journal), await waiting(journal)
    ended, theirs = await running(journal), await running(journal, "you")
    await journal.finish(ended, record_of(ended))
    await journal.request_cancel(CALLER, held.id, "user")
    for run in (held, unnamed):
        await expire(engine, run.id)
    named = [held.id, parked.id, ended.id, theirs.id, "run_unknown"]
    assert await journal.renew("me", named) == {held.id: "user"}
    assert await journal.renew("me", []) == {}
    assert (await row_of(engine, unnamed.id)).lease_until_ms == 1
    assert (await taken(journal, "you")).run.id == unnamed.id


async def test_any_number_of_runs_is_renewed(journal: SqlRunJournal) -> None:
    run = await running(journal)
    assert await journal.renew("me", [run.id, *(f"run_{number}" for number in range(1200))]) == {run.id: None}


async def test_a_queued_run_is_nobody_s_to_write(journal: SqlRunJournal) -> None:
    """What `start` returns for a queued run must not pass for its first claim, which another process may get."""
    head = await running(journal)
    queued = (await journal.start(new_run(conversation_id=head.conversation_id), "me")).run
    await journal.hand_back_queued("me")
    await journal.finish(head, record_of(head))
    claimed = await taken(journal, "you")
    assert claimed.run.id == queued.id
    with pytest.raises(LeaseLost):
        await journal.record(queued, batch(1))
