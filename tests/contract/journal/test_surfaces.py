"""What the surfaces that ask for runs need of the journal: the run as it was asked for, notes, and its place."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import RunConflict, RunNotFound
from app.domain.models.conversations import Caller
from app.domain.models.runs import RunOptions
from app.infrastructure.persistence.journal import SqlRunJournal
from tests.contract.journal.factory import CALLER, count_rows, new_run, parking, record_of, row_of, running, waiting


async def test_a_run_is_found_as_it_was_asked_for(journal: SqlRunJournal) -> None:
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    options = RunOptions(
        instructions="Be short.", client_tools=(tool,), metadata={"a": "b"}, surface={"shown": {"as": [1, None]}}
    )
    started = await journal.start(new_run(options=options), "me")
    found = await journal.accepted(CALLER, started.run.id)
    assert found.options == options
    assert found.input == started.run.input
    assert found.conversation_id == started.run.conversation_id


async def test_notes_are_kept_beside_what_is_there(journal: SqlRunJournal) -> None:
    head = await running(journal)
    before = await journal.accepted(CALLER, head.id)
    await journal.note(CALLER, head.id, {"deleted": True})
    await journal.note(CALLER, head.id, {"deleted": False, "more": 1})
    noted = await journal.accepted(CALLER, head.id)
    assert noted.options.surface == {**before.options.surface, "deleted": False, "more": 1}
    assert replace(noted.options, surface=before.options.surface) == before.options
    await journal.finish(head, record_of(head))  # its claim is as good as before


@pytest.mark.parametrize("stranger", [Caller("other", "ada"), Caller("acme", "bob")])
async def test_strangers_find_and_note_nothing(journal: SqlRunJournal, stranger: Caller) -> None:
    head = await running(journal)
    with pytest.raises(RunNotFound):
        await journal.accepted(stranger, head.id)
    with pytest.raises(RunNotFound):
        await journal.note(stranger, head.id, {"deleted": True})
    for run_id in ("run_none", "run_\x00"):
        with pytest.raises(RunNotFound):
            await journal.accepted(CALLER, run_id)


async def test_a_run_follows_the_last_one_only(journal: SqlRunJournal) -> None:
    head = await running(journal)
    await journal.finish(head, record_of(head))
    thread = head.conversation_id
    second = await journal.start(new_run(conversation_id=thread, after_run_id=head.id), "me")
    assert second.run.position == 2
    with pytest.raises(RunConflict) as conflict:
        await journal.start(new_run(conversation_id=thread, after_run_id=head.id), "me")
    assert conflict.value.reason == "not_last"
    third = await journal.start(new_run(conversation_id=thread, after_run_id=second.run.id), "me")
    assert third.run.position == 3  # a refused start leaves no gap


async def test_two_that_follow_one_run_at_once(journal: SqlRunJournal) -> None:
    head = await running(journal)
    await journal.finish(head, record_of(head))
    new = [new_run(conversation_id=head.conversation_id, after_run_id=head.id) for _ in range(4)]
    starts = await asyncio.gather(*(journal.start(one, "me") for one in new), return_exceptions=True)
    assert sorted(type(started).__name__ for started in starts) == ["RunConflict"] * 3 + ["StartedRun"]


async def test_in_another_conversation_a_run_follows_freely(journal: SqlRunJournal) -> None:
    head, copy = await running(journal), await running(journal)
    await journal.finish(copy, record_of(copy))
    started = await journal.start(new_run(conversation_id=copy.conversation_id, after_run_id=head.id), "me")
    assert started.run.position == 2


async def test_nothing_stands_behind_a_waiting_run_unless_it_may(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    head = await waiting(journal)
    thread = head.conversation_id
    before = await count_rows(engine)
    for on_busy in ("queue", "reject", "interrupt"):
        refused = new_run(conversation_id=thread, behind_waiting=False, on_busy=on_busy)
        with pytest.raises(RunConflict) as conflict:
            await journal.start(refused, "me")
        assert conflict.value.reason == "approval_required"
    assert await count_rows(engine) == before
    assert (await row_of(engine, head.id)).status == "waiting"
    queued = await journal.start(new_run(conversation_id=thread), "me")
    assert queued.run.position == 2  # a refused start leaves no gap


async def test_what_waits_for_no_person_refuses_nothing(journal: SqlRunJournal) -> None:
    head, other = await running(journal), await waiting(journal)
    assert head.conversation_id != other.conversation_id
    behind = await journal.start(new_run(conversation_id=head.conversation_id, behind_waiting=False), "me")
    assert behind.history is None
    fresh = await journal.start(new_run(behind_waiting=False), "me")
    assert fresh.history == ()


async def test_a_repeated_start_is_known_also_when_its_run_waits_by_now(journal: SqlRunJournal) -> None:
    keyed = {"idempotency_key": "key 1", "request_hash": "h1", "behind_waiting": False}
    head = await running(journal, **keyed)
    await journal.park(head, parking(head), 3600)
    # The repeated one has looked the key up before the first one was written.
    again = await journal.start(new_run(conversation_id=head.conversation_id, **keyed), "you")
    assert (again.existing, again.run.id) == (True, head.id)
