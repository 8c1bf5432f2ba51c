"""A process is killed before and after every commit of a run; another one completes it, and nothing happens twice."""

import asyncio
import random
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.approvals import Decision
from app.domain.models.runs import RunStatus
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.tables import completion_events
from tests.crash.audit import recorded
from tests.crash.killing import check_all, complete_all, victims
from tests.crash.scenario import build_agent, make_bookings
from tests.crash.worker import CALLER, working

OTHER_POINTS = 12
"""How many points that are no commits are tried, at most."""


def chosen(kinds: list[str]) -> list[int]:
    """The numbers of all points at commits, and of some of the others, evenly."""
    commits = [number for number, kind in enumerate(kinds, 1) if kind.endswith("commit")]
    others = [number for number, kind in enumerate(kinds, 1) if not kind.endswith("commit")]
    return sorted({*commits, *others[:: max(1, len(others) // OTHER_POINTS)]})


@pytest.mark.crash
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_kill_at_every_commit(database_url: str, tmp_path: Path, stream: bool) -> None:
    engine = build_engine(database_url)
    await make_bookings(engine)
    async with victims(database_url, tmp_path) as killing:
        whole = await killing.run("whole", -1, stream=stream)
        assert not whole["killed"]
        points = chosen(whole["points"])
        assert sum(kind == "after commit" for kind in whole["points"]) >= 8
        killed = 0
        for point in points:
            killed += (await killing.run(f"p{point}", point, stream=stream))["killed"]
    # How many flushes of deltas a streamed run has is a matter of time, so its last points may not be reached.
    assert killed >= len(points) - 4
    left = await recorded(engine)
    before = killing.calls.counts()
    # Whatever was killed before the commit of its start is not there at all; all others are, and go on.
    missing = {f"p{point}" for point in points} - left.keys()
    first = whole["points"].index("after commit") + 1
    assert missing == {f"p{point}" for point in points if point < first}
    assert {run.status for run in left.values()} == {"running", "completed"}

    await complete_all(engine, killing.calls, left)
    after = killing.calls.counts()
    found = await recorded(engine)
    for run in left.values():
        assert found[run.name].attempts == (1 if run.status == "completed" else 2)
        for call in run.committed():
            assert after[call] == before[call], f"{call} was made again"
    await check_all(engine, killing.calls, set(left))
    # It was killed between saying that it would send and sending: nobody did, and the model was told.
    assert 0 in {after[f"tool {name}.send"] for name in left}
    # A process that was lost once repeats at most the calls that were under way.
    assert max(after.values()) <= 2
    await engine.dispose()


@pytest.mark.crash
async def test_a_transactional_tool_writes_once_over_fifty_kills(database_url: str, tmp_path: Path) -> None:
    engine = build_engine(database_url)
    await make_bookings(engine)
    points = random.Random(3)
    async with victims(database_url, tmp_path) as killing:
        whole = await killing.run("whole", -1, stream=False)
        first = whole["points"].index("after commit") + 1
        for number in range(50):
            told = await killing.run(f"k{number}", points.randint(first, len(whole["points"])), stream=False)
            assert told["killed"]
    left = await recorded(engine)
    assert len(left) == 51
    await complete_all(engine, killing.calls, left)
    await check_all(engine, killing.calls, set(left))
    await engine.dispose()


@pytest.mark.crash
async def test_a_run_asks_for_its_approvals_once_wherever_it_is_killed(database_url: str, tmp_path: Path) -> None:
    engine = build_engine(database_url)
    await make_bookings(engine)
    async with victims(database_url, tmp_path) as killing:
        points = (await killing.run("whole", -1, stream=False, asking=True))["points"]
        commits = [number for number, kind in enumerate(points, 1) if kind.endswith("commit")]
        for point in commits[-3:]:  # those of the last call before it waits, and of the waiting itself
            assert (await killing.run(f"p{point}", point, stream=False, asking=True))["killed"]
    left = await recorded(engine)
    assert {run.status for run in left.values()} == {"running", "waiting"}
    assert {run.name: await told_of(engine, run.run_id) for run in left.values()} == {
        run.name: ["approval.requested"] if run.status == "waiting" else [] for run in left.values()
    }
    agent = build_agent(killing.calls, asking=True)
    async with working(engine, lease_s=15, take_over=True, agent=agent) as worker:
        for run in left.values():
            result = await asyncio.wait_for(worker.runs.result(CALLER, run.run_id), 60)
            assert result.status is RunStatus.WAITING
            assert await told_of(engine, run.run_id) == ["approval.requested"]
        run = left["whole"]
        await worker.runs.decide(CALLER, run.run_id, [Decision("whole.send", approve=True)])
        assert (await worker.runs.result(CALLER, run.run_id)).status is RunStatus.COMPLETED
        assert await told_of(engine, run.run_id) == ["approval.requested", "session.completed"]
    await engine.dispose()


async def told_of(engine: AsyncEngine, run_id: str) -> list[str]:
    """The types of the events that billing, analytics and audit have of a run, in order."""
    asked = select(completion_events.c.type).where(completion_events.c.run_id == run_id)
    async with engine.connect() as connection:
        return list((await connection.execute(asked.order_by(completion_events.c.created_at))).scalars())
