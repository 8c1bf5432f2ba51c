"""What is asked of runs: events, results, lists."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Select, select

from app.domain.errors import RunNotFound
from app.domain.models.conversations import Caller
from app.domain.models.events import SequencedEvent
from app.domain.models.runs import FINAL_STATUSES, Run, RunResult, RunStatus, RunSummary
from app.infrastructure.persistence import run_rows
from app.infrastructure.persistence.engine import reading
from app.infrastructure.persistence.event_log import events_of
from app.infrastructure.persistence.journal_part import JournalPart, of_caller, of_tenant
from app.infrastructure.persistence.journal_sql import UNFINISHED_RUN, WITH_SESSION
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.tables import run_events, runs

_SUMMARY = (
    runs.c.id,
    runs.c.conversation_id,
    runs.c.agent,
    runs.c.last_agent,
    runs.c.status,
    runs.c.attempts,
    runs.c.owner,
    runs.c.cancel_reason,
    runs.c.error_code,
    runs.c.created_at,
    runs.c.started_at,
    runs.c.finished_at,
)
_EVENTS_AT_ONCE = 200
"""Rows of events read at once: a reader of a long run gets it in parts."""


class RunReads(JournalPart):
    """Reading; every method looks only at runs of the caller."""

    async def events(self, caller: Caller, run_id: str, after: int = 0) -> tuple[Sequence[SequencedEvent], RunStatus]:
        """Return stored events; see the port."""
        async with reading(self._engine) as connection:
            asked = of_caller(select(runs.c.status), caller, run_id)
            status = (await connection.execute(asked)).scalar_one_or_none()
            if status is None:
                raise RunNotFound(run_id)
            rows = (
                await connection.execute(
                    select(run_events.c.first_sequence, run_events.c.data)
                    .where(run_events.c.run_id == run_id, run_events.c.sequence > after)
                    .order_by(run_events.c.sequence)
                    .limit(_EVENTS_AT_ONCE)
                )
            ).all()
        stored = [event for row in rows for event in events_of(row.first_sequence, row.data) if event.sequence > after]
        return stored, RunStatus(status)

    async def last_sequence(self, caller: Caller, run_id: str) -> int:
        """Return the number of the last recorded event; see the port."""
        async with reading(self._engine) as connection:
            asked = of_caller(select(runs.c.last_sequence), caller, run_id)
            last = (await connection.execute(asked)).scalar_one_or_none()
        if last is None:
            raise RunNotFound(run_id)
        return last

    async def accepted(self, caller: Caller, run_id: str) -> Run:
        """Return a run as it was asked for; see the port."""
        async with reading(self._engine) as connection:
            row = (await connection.execute(of_caller(WITH_SESSION, caller, run_id))).one_or_none()
        if row is None:
            raise RunNotFound(run_id)
        return run_rows.run_of(row)

    async def result(self, caller: Caller, run_id: str) -> RunResult | None:
        """Return how a run ended or what it waits for; see the port."""
        async with reading(self._engine) as connection:
            row = (await connection.execute(of_caller(select(runs.c.result), caller, run_id))).one_or_none()
        if row is None:
            raise RunNotFound(run_id)
        return None if row.result is None else run_rows.result_of(row.result)

    async def list(
        self,
        caller: Caller,
        *,
        statuses: Collection[RunStatus] = (),
        conversation_id: str | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> tuple[Sequence[RunSummary], bool]:
        """Return runs, newest first; see the port."""
        if any(name is not None and not can_exist(name) for name in (conversation_id, after)):
            return [], False
        statement = of_tenant(select(*_SUMMARY), caller).limit(limit + 1)
        if statuses:
            statement = statement.where(runs.c.status.in_([status.value for status in statuses]))
            if FINAL_STATUSES.isdisjoint(statuses):
                statement = statement.where(UNFINISHED_RUN)
        statement = _page(statement, after) if conversation_id is None else _page_of(statement, conversation_id, after)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        return [run_rows.summary_of(row) for row in rows[:limit]], len(rows) > limit

    async def summary(self, caller: Caller, run_id: str) -> RunSummary:
        """Return one run as in a list; see the port."""
        async with reading(self._engine) as connection:
            row = (await connection.execute(of_caller(select(*_SUMMARY), caller, run_id))).one_or_none()
        if row is None:
            raise RunNotFound(run_id)
        return run_rows.summary_of(row)


def _page(statement: Select[*tuple[Any, ...]], after: str | None) -> Select[*tuple[Any, ...]]:
    statement = statement.order_by(runs.c.id.desc())
    return statement if after is None else statement.where(runs.c.id < after)


def _page_of(statement: Select[*tuple[Any, ...]], conversation_id: str, after: str | None) -> Select[*tuple[Any, ...]]:
    """Return the statement for one conversation, by its own index; its order is that of the runs' execution."""
    statement = statement.where(runs.c.conversation_id == conversation_id).order_by(runs.c.position.desc())
    if after is None:
        return statement
    before = runs.alias("before")
    position = select(before.c.position).where(before.c.id == after, before.c.conversation_id == conversation_id)
    return statement.where(runs.c.position < position.scalar_subquery())
