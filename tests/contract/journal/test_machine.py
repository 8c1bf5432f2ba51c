"""Any order of starts, claims, renewals, ends, lost owners and deletions leaves the journal in order."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from sqlalchemy import func, select

from app.domain.errors import ConversationNotFound, LeaseLost
from app.domain.models.runs import Run
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import completion_events, messages, run_usage, runs
from tests.contract.journal.factory import CALLER, expire, new_run, record_of
from tests.crash.worker import items_of

OWNERS = st.sampled_from(["me", "you"])
_template: list[Path] = []


class Journal(RuleBasedStateMachine):
    """Two owners over one database; `held` remembers who believes to hold what, rightly or not."""

    conversations: Bundle[str] = Bundle("conversations")
    held: Bundle[Run] = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        shutil.copy(_template[0], self.folder / "test.db")
        self.engine = build_engine(f"sqlite:///{self.folder / 'test.db'}")
        self.journal = SqlRunJournal(self.engine, lease_s=3600)
        self.fences: dict[str, int] = {}
        self.finished: dict[str, str] = {}
        self.deleted: set[str] = set()

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def took(self, run: Run) -> Run:
        assert run.fence > self.fences.get(run.id, 0)
        self.fences[run.id] = run.fence
        return run

    @rule(owner=OWNERS, target=conversations)
    def open(self, owner: str) -> str:
        started = self.do(self.journal.start(new_run(), owner))
        assert started.history == ()
        self.took(started.run)
        self.do(self.journal.finish(started.run, record_of(started.run)))
        self.finished[started.run.id] = started.run.conversation_id
        return started.run.conversation_id

    @rule(owner=OWNERS, conversation=conversations, target=held)
    def start(self, owner: str, conversation: str) -> Any:
        try:
            started = self.do(self.journal.start(new_run(conversation_id=conversation), owner))
        except ConversationNotFound:
            assert conversation in self.deleted
            return multiple()
        if started.history is None:
            return multiple()
        return self.took(started.run)

    @rule(owner=OWNERS, take_over=st.booleans(), target=held)
    def claim(self, owner: str, take_over: bool) -> Any:
        claimed = self.do(self.journal.claim(owner, take_over=take_over))
        return multiple() if claimed is None else self.took(claimed.run)

    @rule(owner=OWNERS)
    def renew(self, owner: str) -> None:
        self.do(self.journal.renew(owner))

    @rule(run=held)
    def lose(self, run: Run) -> None:
        self.do(expire(self.engine, run.id))

    @rule(run=consumes(held))
    def finish(self, run: Run) -> None:
        rightful = self.fences[run.id] == run.fence and run.id not in self.finished
        try:
            self.do(self.journal.finish(run, record_of(run)))
        except LeaseLost:
            assert not rightful or run.conversation_id in self.deleted
        else:
            assert rightful
            self.finished[run.id] = run.conversation_id

    @rule(conversation=conversations)
    def delete(self, conversation: str) -> None:
        if conversation not in self.deleted:
            self.do(SqlConversationStore(self.engine).delete(CALLER, conversation))
            self.deleted.add(conversation)

    @invariant()
    def in_order(self) -> None:
        self.do(self.check())

    async def check(self) -> None:
        async with self.engine.connect() as connection:
            rows = (await connection.execute(select(runs).order_by("conversation_id", "position"))).all()
            used = (await connection.execute(select(run_usage.c.run_id))).scalars().all()
            completed = (await connection.execute(select(completion_events.c.run_id))).scalars().all()
            told = dict(
                (
                    await connection.execute(
                        select(messages.c.conversation_id, func.max(messages.c.position)).group_by("conversation_id")
                    )
                ).all()
            )
        assert sorted(completed) == sorted(self.finished)
        assert sorted(used) == sorted([*self.finished, *self.finished])  # each record has two calls
        for conversation in {row.conversation_id for row in rows}:
            own = [row for row in rows if row.conversation_id == conversation]
            assert [row.position for row in own] == list(range(1, len(own) + 1))
            assert sum(row.status == "running" for row in own) <= 1
            ended = [row for row in own if row.status == "completed"]
            assert own[: len(ended)] == ended  # nobody overtakes
            assert told[conversation] == 2 * len(ended)
            assert len(await items_of(self.engine, conversation)) == 4 * len(ended)

    def teardown(self) -> None:
        self.do(self.engine.dispose())
        self.runner.close()
        shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def template(sqlite_template: Path) -> None:
    _template[:] = [sqlite_template]


class TestJournal(Journal.TestCase):  # type: ignore[name-defined,misc] - made by Hypothesis
    settings = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
