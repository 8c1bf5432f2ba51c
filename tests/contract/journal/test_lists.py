"""Lists of runs and approvals: in order, in pages, and of one tenant only."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import RunNotFound
from app.domain.models.approvals import Decision
from app.domain.models.conversations import Caller
from app.domain.models.runs import Run, RunStatus
from app.infrastructure.persistence.journal import SqlRunJournal
from tests.contract.journal.factory import (
    CALLER,
    batch,
    deltas,
    end_of,
    new_run,
    record_of,
    request,
    running,
    taken,
    waiting,
)


async def one_of_each(journal: SqlRunJournal) -> dict[str, Run]:
    made = {"completed": await running(journal)}
    await journal.finish(made["completed"], record_of(made["completed"]))
    made["running"] = await running(journal, owner="you")
    made["queued"] = (await journal.start(new_run(conversation_id=made["running"].conversation_id), "me")).run
    made["waiting"] = await waiting(journal)
    return made


async def test_runs_are_listed_newest_first_in_pages(journal: SqlRunJournal) -> None:
    made = [await running(journal) for _ in range(5)]
    newest = [run.id for run in reversed(made)]
    page, more = await journal.list(CALLER, limit=2)
    assert ([run.id for run in page], more) == (newest[:2], True)
    page, more = await journal.list(CALLER, limit=2, after=page[-1].id)
    assert ([run.id for run in page], more) == (newest[2:4], True)
    page, more = await journal.list(CALLER, limit=2, after=page[-1].id)
    assert ([run.id for run in page], more) == (newest[4:], False)
    page, more = await journal.list(CALLER, limit=5)
    assert (len(page), more) == (5, False)
    assert await journal.list(CALLER, after=newest[-1]) == ([], False)


async def test_runs_of_a_conversation_are_listed_in_pages(journal: SqlRunJournal) -> None:
    first = await running(journal)
    made = [first, *[(await journal.start(new_run(conversation_id=first.conversation_id), "me")).run for _ in range(4)]]
    other = await running(journal)
    newest = [run.id for run in reversed(made)]
    page, more = await journal.list(CALLER, conversation_id=first.conversation_id, limit=2)
    assert ([run.id for run in page], more) == (newest[:2], True)
    page, more = await journal.list(CALLER, conversation_id=first.conversation_id, limit=2, after=page[-1].id)
    assert ([run.id for run in page], more) == (newest[2:4], True)
    page, more = await journal.list(
        CALLER, conversation_id=first.conversation_id, statuses=[RunStatus.RUNNING], after=page[-1].id
    )
    assert ([run.id for run in page], more) == ([first.id], False)
    assert await journal.list(CALLER, conversation_id=first.conversation_id, after=first.id) == ([], False)
    assert await journal.list(CALLER, conversation_id=first.conversation_id, after=other.id) == ([], False)


async def test_runs_are_picked_by_status_and_conversation(journal: SqlRunJournal) -> None:
    made = await one_of_each(journal)
    for status, run in made.items():
        page, more = await journal.list(CALLER, statuses=[RunStatus(status)])
        assert ([found.id for found in page], more) == ([run.id], False)
    page, _ = await journal.list(CALLER, statuses=[RunStatus.QUEUED, RunStatus.WAITING])
    assert [found.id for found in page] == [made["waiting"].id, made["queued"].id]
    page, _ = await journal.list(CALLER, conversation_id=made["running"].conversation_id)
    assert [found.id for found in page] == [made["queued"].id, made["running"].id]
    page, _ = await journal.list(CALLER, statuses=[RunStatus.FAILED], conversation_id=made["running"].conversation_id)
    assert page == []


@pytest.mark.parametrize("caller", [Caller("other", "ada"), Caller("other"), Caller("acme", "bob")])
async def test_other_tenants_see_none(journal: SqlRunJournal, caller: Caller) -> None:
    made = await one_of_each(journal)
    assert await journal.list(caller) == ([], False)
    assert await journal.list(caller, conversation_id=made["running"].conversation_id) == ([], False)
    theirs = await running(journal, caller=caller)
    assert [run.id for run in (await journal.list(caller))[0]] == [theirs.id]
    assert len((await journal.list(CALLER))[0]) == 4
    assert len((await journal.list(Caller("acme")))[0]) == (5 if caller.organization_id == "acme" else 4)


@pytest.mark.parametrize("name", ["", "nul\x00", "half\ud83d"])
async def test_ids_that_cannot_exist_find_none(journal: SqlRunJournal, name: str) -> None:
    await running(journal)
    assert await journal.list(CALLER, after=name) == ([], False)
    assert await journal.list(CALLER, conversation_id=name) == ([], False)
    for read in (journal.summary(CALLER, name), journal.approvals(CALLER, name), journal.last_sequence(CALLER, name)):
        with pytest.raises(RunNotFound):
            await read
    for ask in (journal.decide(CALLER, name, [], None), journal.request_cancel(CALLER, name, "user")):
        with pytest.raises(RunNotFound):
            await ask
    assert await journal.claim("me", take_over=True, run_id=name) is None


async def test_a_summary_says_where_a_run_stands(journal: SqlRunJournal) -> None:
    made = await one_of_each(journal)
    done = await journal.summary(CALLER, made["completed"].id)
    assert (done.status, done.agent, done.owner, done.error_code) == (RunStatus.COMPLETED, "poet", None, None)
    assert done.started_at is not None
    assert done.finished_at is not None
    held = await journal.summary(CALLER, made["running"].id)
    assert (held.status, held.agent, held.owner, held.finished_at) == (RunStatus.RUNNING, "scribe", "you", None)
    queued = await journal.summary(CALLER, made["queued"].id)
    assert (queued.status, queued.started_at, queued.cancel_reason) == (RunStatus.QUEUED, None, None)
    await journal.request_cancel(CALLER, made["queued"].id, "user")
    assert (await journal.summary(CALLER, made["queued"].id)).cancel_reason == "user"
    page, _ = await journal.list(CALLER, statuses=[RunStatus.COMPLETED])
    assert page == [done]


async def test_approvals_of_all_runs_latest_first(journal: SqlRunJournal) -> None:
    first = await waiting(journal, request(1), request(2))
    second = await waiting(journal, request(3))
    found = await journal.approvals(CALLER)
    assert [approval.request.call_id for approval in found] == ["a3", "a1", "a2"]
    assert found[0].conversation_id == second.conversation_id
    assert [approval.run_id for approval in await journal.approvals(CALLER, limit=1)] == [second.id]
    await journal.decide(CALLER, first.id, [Decision("a1", approve=True)], None)
    still = await journal.approvals(CALLER, open_only=True)
    assert [approval.request.call_id for approval in still] == ["a3", "a2"]
    await journal.request_cancel(CALLER, second.id, "user")
    still = await journal.approvals(CALLER, open_only=True)
    assert [approval.request.call_id for approval in still] == ["a2"]
    assert await journal.approvals(CALLER, second.id, open_only=True) == []
    assert [approval.state for approval in await journal.approvals(CALLER, first.id)] == ["approved", "pending"]
    assert await journal.approvals(CALLER, (await running(journal)).id) == []


async def test_what_was_never_decided_counts_as_expired_at_the_end(journal: SqlRunJournal) -> None:
    run = await waiting(journal)
    await journal.request_cancel(CALLER, run.id, "user")
    claimed = (await taken(journal, "me")).run
    await journal.finish(claimed, end_of(claimed, 1, RunStatus.CANCELLED))
    (found,) = await journal.approvals(CALLER, run.id)
    assert (found.state, found.expires_at) == ("expired", None)


async def test_a_reader_ahead_of_the_record_gets_what_comes_later(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    await journal.record(run, batch(1, events=2))
    assert await journal.events(CALLER, run.id, after=7) == ([], RunStatus.RUNNING)
    await journal.record(run, batch(3, events=2))
    stored, _ = await journal.events(CALLER, run.id, after=3)
    assert stored == list(deltas(4))


async def test_a_long_run_is_read_in_parts(journal: SqlRunJournal) -> None:
    run = await running(journal)
    for number in range(1, 231):
        await journal.record(run, batch(number))
    read: list[int] = []
    while True:
        stored, _ = await journal.events(CALLER, run.id, after=read[-1] if read else 0)
        if not stored:
            break
        read += [event.sequence for event in stored]
    assert read == list(range(1, 231))
