"""Any order of starts, claims, steps, waits, decisions, ends, lost owners and deletions leaves the journal in order."""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from sqlalchemy import func, select

from app.domain.errors import ConversationNotFound, LeaseLost, RunConflict, RunNotFound
from app.domain.models.approvals import Decision
from app.domain.models.runs import FINAL_STATUSES, Run, RunStatus
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.event_log import events_of
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import (
    completion_events,
    messages,
    run_approvals,
    run_events,
    run_steps,
    run_usage,
    runs,
)
from tests.contract.journal.factory import (
    CALLER,
    batch,
    call,
    end_of,
    expire,
    items_of,
    new_run,
    parking,
    request,
    step,
)

OWNERS = st.sampled_from(["me", "you"])
ENDS = st.sampled_from([RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
QUEUED, RUNNING, WAITING = RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING
_template: list[Path] = []


@dataclass
class Expected:
    """What the journal should hold of a run."""

    id: str
    conversation: str
    position: int
    status: RunStatus
    owner: str | None
    fence: int
    attempts: int = 1
    free: bool = False
    """Nobody holds it: its lease is over, or it was let go."""
    last: int = 0
    steps: set[str] = field(default_factory=set)
    calls: int = 0
    requests: dict[str, str] = field(default_factory=dict)
    cancel: str | None = None

    def free_it(self) -> None:
        """As the journal does when a run is let go."""
        self.status, self.owner, self.free = QUEUED, None, True


class Journal(RuleBasedStateMachine):
    """Two owners over one database; `held` remembers who was ever given what, so most of it is stale."""

    conversations: Bundle[str] = Bundle("conversations")
    held: Bundle[Run] = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        shutil.copy(_template[0], self.folder / "test.db")
        self.engine = build_engine(f"sqlite:///{self.folder / 'test.db'}")
        self.journal = SqlRunJournal(self.engine, lease_s=3600)
        self.runs: dict[str, Expected] = {}
        self.deleted: set[str] = set()
        self.completions = 0
        self.paid_by_deleted = 0

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def unfinished(self, conversation: str) -> list[Expected]:
        own = [run for run in self.runs.values() if run.conversation == conversation]
        return sorted((run for run in own if run.status not in FINAL_STATUSES), key=lambda run: run.position)

    def holds(self, run: Run) -> Expected | None:
        """The expectation of a run if it is still held by this very claim."""
        known = self.runs.get(run.id)
        return known if known is not None and known.status is RUNNING and known.fence == run.fence else None

    def write(self, run: Run, work: Any) -> Expected | None:
        """Do a fenced write; it must happen exactly when the run is still held."""
        known = self.holds(run)
        if known is None:
            with pytest.raises(LeaseLost):
                self.do(work)
            return None
        told = self.do(work)
        if told is not None:
            assert told == known.cancel
        return known

    def next_number(self, run: Run) -> int:
        known = self.runs.get(run.id)
        return 1 if known is None else known.last + 1

    @rule(owner=OWNERS, target=held)
    def open(self, owner: str) -> Run:
        started = self.do(self.journal.start(new_run(), owner))
        run = started.run
        assert started.history == ()
        self.runs[run.id] = Expected(run.id, run.conversation_id, 1, RUNNING, owner, 1)
        return run

    @rule(run=held, target=conversations)
    def conversation(self, run: Run) -> str:
        return run.conversation_id

    @rule(
        owner=OWNERS, conversation=conversations, on_busy=st.sampled_from(["queue", "reject", "interrupt"]), target=held
    )
    def start(self, owner: str, conversation: str, on_busy: Any) -> Any:
        before = self.unfinished(conversation)
        new = new_run(conversation_id=conversation, on_busy=on_busy)
        try:
            started = self.do(self.journal.start(new, owner))
        except ConversationNotFound:
            assert conversation in self.deleted
            return multiple()
        except RunConflict:
            assert before
            assert on_busy == "reject"
            return multiple()
        assert not (before and on_busy == "reject")
        assert (started.history is None) == bool(before)
        if on_busy == "interrupt":
            assert set(started.interrupted) == {run.id for run in before}
            for run in before:
                self.ask_to_end(run, "interrupted")
        positions = [run.position for run in self.runs.values() if run.conversation == conversation]
        known = Expected(
            new.id, conversation, max(positions) + 1, QUEUED if before else RUNNING, owner, 0 if before else 1
        )
        assert started.run.position == known.position
        self.runs[new.id] = known
        return started.run

    @rule(owner=OWNERS, take_over=st.booleans(), target=held)
    def claim(self, owner: str, take_over: bool) -> Any:
        can_go_on = {
            head.id
            for head in (self.unfinished(name)[0] for name in {run.conversation for run in self.live()})
            if head.free or (head.status is QUEUED and head.owner == owner)
        }
        if not take_over:
            awaited = {run.conversation for run in self.live() if run.status is QUEUED and run.owner == owner}
            can_go_on = {name for name in can_go_on if self.runs[name].conversation in awaited}
        claimed = self.do(self.journal.claim(owner, take_over=take_over))
        if claimed is None:
            assert not can_go_on
            return multiple()
        assert claimed.run.id in can_go_on
        known = self.runs[claimed.run.id]
        known.attempts += known.status is RUNNING
        if known.status is WAITING:
            known.requests = {
                name: "expired" if state == "pending" else state for name, state in known.requests.items()
            }
        known.status, known.owner, known.free, known.fence = RUNNING, owner, False, known.fence + 1
        assert (claimed.run.fence, claimed.run.attempts) == (known.fence, known.attempts)
        assert (claimed.last_sequence, claimed.cancel_reason) == (known.last, known.cancel)
        assert set(claimed.steps) == known.steps
        assert len(claimed.calls) == known.calls
        assert {approval.request.call_id: approval.state for approval in claimed.approvals} == known.requests
        return claimed.run

    def live(self) -> list[Expected]:
        return [run for run in self.runs.values() if run.status not in FINAL_STATUSES]

    @rule(owner=OWNERS)
    def renew(self, owner: str) -> None:
        mine = {run.id: run for run in self.live() if run.owner == owner and run.status is not WAITING}
        assert self.do(self.journal.renew(owner, list(self.runs))) == {name: run.cancel for name, run in mine.items()}
        for run in mine.values():
            run.free = False

    @rule(run=held)
    def lose(self, run: Run) -> None:
        known = self.runs.get(run.id)
        if known is not None and known.status not in FINAL_STATUSES:
            self.do(expire(self.engine, run.id))
            known.free = True

    @rule(run=held, events=st.integers(0, 3))
    def record(self, run: Run, events: int) -> None:
        first = self.next_number(run)
        key = f"/t:{run.fence}_{first}_{events}"
        made = batch(first if events else None, step(key), calls=(call(key),), events=events)
        known = self.write(run, self.journal.record(run, made))
        if known is not None:
            known.last, known.free = known.last + events, False
            known.calls += key not in known.steps
            known.steps.add(key)
            self.do(self.journal.record(run, made))  # the answer got lost

    @rule(run=held, commits=st.booleans())
    def use_tool(self, run: Run, commits: bool) -> None:
        first = self.next_number(run)

        async def work() -> None:
            async with self.journal.transaction(run) as transaction:
                reason = await transaction.commit(batch(first, step(f"/t:tool_{first}")))
                assert self.holds(run) is None or reason == self.runs[run.id].cancel
                if not commits:
                    raise RunConflict("undone", reason="test")

        if self.holds(run) is not None and not commits:
            with pytest.raises(RunConflict):
                self.do(work())
            return
        known = self.write(run, work())
        if known is not None:
            known.last, known.free = first, False
            known.steps.add(f"/t:tool_{first}")

    @rule(run=held, requests=st.integers(1, 3))
    def park(self, run: Run, requests: int) -> None:
        first = self.next_number(run)
        asked = [
            request(number, call_id=f"a{first}_{number}", step=f"/t:a{first}_{number}") for number in range(requests)
        ]
        record = parking(run, *asked, rest=batch(first, step(f"/t:p{first}")))
        known = self.write(run, self.journal.park(run, record, 3600))
        if known is not None:
            known.last += 2
            known.steps.add(f"/t:p{first}")
            known.requests |= {made.call_id: "pending" for made in asked}
            owner = known.owner
            known.status, known.owner, known.free = WAITING, None, False
            if known.cancel is not None:
                known.free_it()
                known.owner = owner  # it closes the run itself, if it lives
            else:
                self.completions += 1  # the request for approval
            self.do(self.journal.park(run, record, 3600))

    @rule(run=held, approve=st.booleans(), count=st.integers(1, 3))
    def decide(self, run: Run, approve: bool, count: int) -> None:
        known = self.runs.get(run.id)
        pending = [] if known is None else [name for name, state in known.requests.items() if state == "pending"]
        decisions = [Decision(name, approve=approve) for name in pending[:count]]
        work = self.journal.decide(CALLER, run.id, decisions, "bob")
        if known is None:
            with pytest.raises(RunNotFound):
                self.do(work)
        elif decisions and known.status is not WAITING:
            with pytest.raises(RunConflict):
                self.do(work)
        else:
            assert self.do(work) == len(pending) - len(decisions)
            known.requests |= {made.call_id: "approved" if approve else "rejected" for made in decisions}
            if decisions and len(decisions) == len(pending):
                known.free_it()

    @rule(run=held)
    def hand_back(self, run: Run) -> None:
        made = batch(self.next_number(run), step(f"/t:h{self.next_number(run)}"))
        known = self.write(run, self.journal.hand_back(run, made))
        if known is not None:
            known.last += 1
            known.steps.add(made.steps[0].key)
            known.free_it()
            self.do(self.journal.hand_back(run, made))

    @rule(owner=OWNERS)
    def hand_back_queued(self, owner: str) -> None:
        self.do(self.journal.hand_back_queued(owner))
        for run in self.live():
            if run.status is QUEUED and run.owner == owner:
                run.free_it()

    @rule(run=held)
    def request_cancel(self, run: Run) -> None:
        known = self.runs.get(run.id)
        if known is None:
            with pytest.raises(RunNotFound):
                self.do(self.journal.request_cancel(CALLER, run.id, "user"))
            return
        assert self.do(self.journal.request_cancel(CALLER, run.id, "user")) is known.status
        if known.status not in FINAL_STATUSES:
            self.ask_to_end(known, "user")

    def ask_to_end(self, run: Expected, reason: str) -> None:
        run.cancel = run.cancel or reason
        if run.status is WAITING:
            run.free_it()

    @rule(run=held, status=ENDS)
    def finish(self, run: Run, status: RunStatus) -> None:
        record = end_of(run, self.next_number(run) - 1, status)
        known = self.write(run, self.journal.finish(run, record))
        if known is not None:
            known.status, known.owner, known.free, known.last = status, None, False, known.last + 1
            self.completions += 1
            self.do(self.journal.finish(run, record))

    @rule(conversation=conversations)
    def delete(self, conversation: str) -> None:
        if conversation not in self.deleted:
            self.do(SqlConversationStore(self.engine).delete(CALLER, conversation))
            self.deleted.add(conversation)
            gone = [run for run in self.runs.values() if run.conversation == conversation]
            self.paid_by_deleted += sum(run.calls for run in gone)
            for run in gone:
                del self.runs[run.id]

    @invariant()
    def in_order(self) -> None:
        self.do(self.check())

    async def check(self) -> None:
        async with self.engine.connect() as connection:
            rows = (await connection.execute(select(runs).order_by("conversation_id", "position"))).all()
            used = (await connection.execute(select(func.count()).select_from(run_usage))).scalar_one()
            ended = (await connection.execute(select(func.count()).select_from(completion_events))).scalar_one()
            steps = (await connection.execute(select(run_steps.c.run_id, run_steps.c.step))).all()
            asked = (await connection.execute(select(run_approvals))).all()
            events = (await connection.execute(select(run_events).order_by("run_id", "sequence"))).all()
            told = dict(
                (
                    await connection.execute(
                        select(messages.c.conversation_id, func.max(messages.c.position)).group_by("conversation_id")
                    )
                ).all()
            )
        assert {
            row.id: (row.status, row.owner, row.fence, row.attempts, row.last_sequence, row.cancel_reason)
            for row in rows
        } == {
            run.id: (run.status.value, run.owner, run.fence, run.attempts, run.last, run.cancel)
            for run in self.runs.values()
        }
        assert ended == self.completions
        assert used == sum(run.calls for run in self.runs.values()) + self.paid_by_deleted
        assert {tuple(row) for row in steps} == {(run.id, key) for run in self.runs.values() for key in run.steps}
        assert {(row.run_id, row.call_id): row.state for row in asked} == {
            (run.id, name): state for run in self.runs.values() for name, state in run.requests.items()
        }
        for run in self.runs.values():
            stored = [
                item for row in events if row.run_id == run.id for item in events_of(row.first_sequence, row.data)
            ]
            assert [item.sequence for item in stored] == list(range(1, run.last + 1))
        for conversation in {run.conversation for run in self.runs.values()}:
            await self.check_conversation(conversation, told.get(conversation, 0))

    async def check_conversation(self, conversation: str, told: int) -> None:
        own = sorted(
            (run for run in self.runs.values() if run.conversation == conversation), key=lambda run: run.position
        )
        assert [run.position for run in own] == list(range(1, len(own) + 1))
        assert sum(run.status is RUNNING for run in own) <= 1
        ended = [run for run in own if run.status in FINAL_STATUSES]
        assert own[: len(ended)] == ended  # nobody overtakes
        assert all(run.status is QUEUED for run in own[len(ended) + 1 :])
        assert told == sum(2 if run.status is RunStatus.COMPLETED else 1 for run in ended)
        assert len(await items_of(self.engine, conversation)) == 4 * len(ended)

    def teardown(self) -> None:
        self.do(self.engine.dispose())
        self.runner.close()
        shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def template(sqlite_template: Path) -> None:
    _template[:] = [sqlite_template]


class TestJournal(Journal.TestCase):  # type: ignore[name-defined,misc] - made by Hypothesis
    settings = settings(max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
