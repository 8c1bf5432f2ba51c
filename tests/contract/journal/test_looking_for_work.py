"""When a process looks for runs that it may take over: not after every run, but where it had no room for one."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.runs import ClaimedRun, RunRequest, RunStatus
from app.infrastructure.persistence.journal import SqlRunJournal
from tests.contract.journal.factory import expire, new_run
from tests.contract.journal.test_leases import Gate
from tests.crash.worker import CALLER, working

NEVER_S = 3600.0


class Counted(SqlRunJournal):
    """Counts how often one has looked for a run to claim."""

    looks = 0

    async def claim(self, owner: str, *, take_over: bool, run_id: str | None = None) -> ClaimedRun | None:
        self.looks += 1
        return await super().claim(owner, take_over=take_over, run_id=run_id)


async def test_an_ended_run_is_no_reason_to_look(engine: AsyncEngine) -> None:
    journal = Counted(engine, lease_s=15)
    async with working(engine, journal=journal, take_over=True, poll_s=NEVER_S) as worker:
        first = await worker.say("one")
        for text in ("two", "three", "four", "five"):
            assert (await worker.say(text, first.conversation_id)).status is RunStatus.COMPLETED
        assert journal.looks <= 2  # at the start, and once PostgreSQL is being listened to


@pytest.mark.parametrize("max_running", [1, 2])
async def test_a_lost_run_for_which_there_was_no_room_goes_on_when_there_is(
    engine: AsyncEngine, max_running: int
) -> None:
    gate, journal = Gate(), SqlRunJournal(engine, lease_s=15)
    async with working(engine, agent=gate.agent, take_over=True, poll_s=NEVER_S, max_running=max_running) as worker:
        going = [await worker.runs.start(RunRequest(CALLER, "tool one")) for _ in range(max_running)]
        await gate.reached.wait()
        new = new_run("tool two", stream=False)
        await journal.start(new, "who was killed")
        await expire(engine, new.id)
        gate.go.set()
        async with asyncio.timeout(20):
            for handle in going:
                assert (await handle.result()).status is RunStatus.COMPLETED
            while (await worker.runs.summary(new.caller, new.id)).status is not RunStatus.COMPLETED:
                await asyncio.sleep(0.02)
