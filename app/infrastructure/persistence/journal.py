"""The run journal: a run's start, its claim, its lease, its end; each one transaction, each write fenced.

Lock order, everywhere: the conversation's row, then the run's, then the SDK session's.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    CursorResult,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.errors import ConversationNotFound, LeaseLost, RunNotFound
from app.domain.identifiers import session_key
from app.domain.models.conversations import Caller, Item
from app.domain.models.events import SequencedEvent
from app.domain.models.runs import FINAL_STATUSES, ClaimedRun, NewRun, Run, RunRecord, RunResult, RunStatus, StartedRun
from app.infrastructure.persistence import json_text, run_rows
from app.infrastructure.persistence.batches import insert_rows
from app.infrastructure.persistence.clock_sql import now_ms, session_clock
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.event_log import event_rows, events_of
from app.infrastructure.persistence.tables import (
    completion_events,
    conversations,
    messages,
    run_events,
    run_steps,
    run_usage,
    runs,
    sdk_messages,
    sdk_sessions,
)

_UNFINISHED = ("queued", "running", "waiting")


class SqlRunJournal:
    """RunJournal over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine, *, lease_s: float) -> None:
        """`lease_s`: seconds after which a run whose owner did not renew may be taken over."""
        self._engine = engine
        self._lease_ms = round(lease_s * 1000)

    async def start(self, new: NewRun, owner: str) -> StartedRun:
        """Write a new run; see the port."""
        now = datetime.now(UTC)
        async with writing(self._engine) as connection:
            conversation = await self._open_conversation(connection, new, now)
            run = run_rows.new_run(new, conversation, now)
            values = run_rows.new_run_values(run, new.history_items) | {"owner": owner, "lease_ms": self._lease_ms}
            status = (await connection.execute(_INSERT_RUN, values)).scalar_one()
            if status != "running":
                return StartedRun(run, None)
            fresh = conversation.run_count == 1
            history = () if fresh else await _history(connection, run.session_id, new.history_items)
            return StartedRun(run, history)

    async def _open_conversation(
        self, connection: AsyncConnection, new: NewRun, now: datetime
    ) -> Row[*tuple[Any, ...]]:
        if new.conversation_id is None:
            reference = new.provider_conversation_id or new.new_conversation_id
            values = {
                "id": new.new_conversation_id,
                "organization_id": new.caller.organization_id,
                "user_id": new.caller.user_id,
                "agent": new.agent or new.default_agent,
                "metadata": {},
                "kind": "chat",
                "provider": new.provider,
                "provider_conversation_id": new.provider_conversation_id,
                "sdk_session_id": session_key(new.caller.organization_id, reference),
                "run_count": 1,
                "message_count": 0,
                "created_at": now,
                "updated_at": now,
            }
            return (await connection.execute(_INSERT_CONVERSATION, values)).one()
        keys = {"conversation": new.conversation_id, "organization": new.caller.organization_id, "now": now}
        if new.caller.user_id is None:
            row = (await connection.execute(_NEXT_RUN, keys)).one_or_none()
        else:
            row = (await connection.execute(_NEXT_RUN_OF_USER, keys | {"user": new.caller.user_id})).one_or_none()
        if row is None:
            raise ConversationNotFound(new.conversation_id)
        return row

    async def claim(self, owner: str, *, take_over: bool) -> ClaimedRun | None:
        """Claim one run that can go on; see the port."""
        candidates = _CLAIMABLE if take_over else _CLAIMABLE_FOR_OWN
        async with writing(self._engine) as connection:
            run_id = (await connection.execute(candidates, {"owner": owner})).scalar_one_or_none()
            if run_id is None:
                return None
            parameters = {"run": run_id, "owner": owner, "lease_ms": self._lease_ms}
            await connection.execute(_CLAIM, parameters)
            row = (await connection.execute(_CLAIMED, {"run": run_id})).one()
            history = await _history(connection, row.sdk_session_id, row.history_items)
            return ClaimedRun(run_rows.run_of(row), history)

    async def renew(self, owner: str) -> Collection[str]:
        """Extend the owner's leases; see the port."""
        async with writing(self._engine) as connection:
            rows = await connection.execute(_RENEW, {"owner": owner, "lease_ms": self._lease_ms})
            return {row.id for row in rows if row.status == "running"}

    async def finish(self, run: Run, record: RunRecord) -> None:
        """Write the end of a run; see the port."""
        now = record.result.timings.finished_at
        async with writing(self._engine) as connection:
            last_position = (
                await connection.execute(
                    _CLOSE_CONVERSATION,
                    {
                        "conversation": run.conversation_id,
                        "added": len(record.messages),
                        "answered_by": record.result.agent,
                        "first_title": run_rows.title_of(record),
                        "now": now,
                    },
                )
            ).scalar_one_or_none()
            finished: CursorResult[Any] = await connection.execute(
                _FINISH, run_rows.finished_values(record) | {"run": run.id, "held_fence": run.fence}
            )
            if last_position is None or finished.rowcount != 1:
                raise LeaseLost("The run was taken over by another process, or its conversation was deleted.")
            history = await self._history_rows(connection, run.session_id, record.result.items)
            await insert_rows(
                connection,
                {
                    _HISTORY_TABLE[connection.dialect.name]: history,
                    messages: run_rows.message_rows(record, run.conversation_id, last_position),
                    run_steps: run_rows.step_rows(record),
                    run_events: event_rows(run.id, record.events, now),
                    run_usage: run_rows.usage_rows(run, record.result.calls),
                    completion_events: [run_rows.completion_row(record)],
                },
            )

    async def _history_rows(
        self, connection: AsyncConnection, session_id: str, items: Sequence[Item]
    ) -> list[dict[str, Any]]:
        """Lock the SDK's session, made on first use, and return the rows to append to it."""
        if not items:
            return []
        upsert = _TOUCH_SESSION[connection.dialect.name]
        written_at = (await connection.execute(upsert, {"session_id": session_id})).scalar_one()
        return [
            {"session_id": session_id, "message_data": json_text.encode(item), "created_at": written_at}
            for item in items
        ]

    async def events(self, caller: Caller, run_id: str, after: int = 0) -> tuple[Sequence[SequencedEvent], bool]:
        """Return stored events; see the port."""
        async with reading(self._engine) as connection:
            status = (await connection.execute(_of_caller(select(runs.c.status), caller, run_id))).scalar_one_or_none()
            if status is None:
                raise RunNotFound(run_id)
            rows = (
                await connection.execute(
                    select(run_events.c.first_sequence, run_events.c.data)
                    .where(run_events.c.run_id == run_id, run_events.c.sequence > after)
                    .order_by(run_events.c.sequence)
                )
            ).all()
        stored = [event for row in rows for event in events_of(row.first_sequence, row.data) if event.sequence > after]
        return stored, RunStatus(status) in FINAL_STATUSES

    async def result(self, caller: Caller, run_id: str) -> RunResult | None:
        """Return how a run ended; see the port."""
        async with reading(self._engine) as connection:
            row = (await connection.execute(_of_caller(select(runs.c.result), caller, run_id))).one_or_none()
        if row is None:
            raise RunNotFound(run_id)
        return None if row.result is None else run_rows.result_of(row.result)


def _of_caller(statement: Select[Any], caller: Caller, run_id: str) -> Select[Any]:
    statement = statement.where(runs.c.id == run_id, runs.c.organization_id == caller.organization_id)
    return statement if caller.user_id is None else statement.where(runs.c.user_id == caller.user_id)


async def _history(connection: AsyncConnection, session_id: str, limit: int) -> tuple[Item, ...]:
    """Return the latest items of a session: by the index, so that the cost does not grow with the conversation."""
    if limit <= 0:
        return ()
    rows = (await connection.execute(_LATEST_ITEMS, {"session": session_id, "most": limit})).scalars().all()
    return run_rows.items_of(rows)


# Statements are built once: SQLAlchemy then finds their compiled text by identity instead of walking them every time.

_CONVERSATION_COLUMNS = (
    conversations.c.id,
    conversations.c.agent,
    conversations.c.last_agent,
    conversations.c.run_count,
    conversations.c.sdk_session_id,
    conversations.c.provider_conversation_id,
)

_INSERT_CONVERSATION = insert(conversations).returning(*_CONVERSATION_COLUMNS)

_NEXT_RUN = (
    update(conversations)
    .where(
        conversations.c.id == bindparam("conversation"),
        conversations.c.organization_id == bindparam("organization"),
        conversations.c.kind == "chat",
    )
    .values(run_count=conversations.c.run_count + 1, updated_at=bindparam("now"))
    .returning(*_CONVERSATION_COLUMNS)
)
_NEXT_RUN_OF_USER = _NEXT_RUN.where(conversations.c.user_id == bindparam("user"))

_earlier = runs.alias("earlier")


def _insert_run() -> Any:
    """A run goes ahead when its conversation has no unfinished one; its conversation's row is locked already."""
    plain = (
        "id",
        "conversation_id",
        "organization_id",
        "user_id",
        "agent",
        "position",
        "session_mode",
        "input",
        "options",
        "stream",
        "history_items",
        "owner",
        "fence",
        "attempts",
        "journal_version",
        "created_at",
    )
    busy = (
        select(literal(1))
        .select_from(_earlier)
        .where(_earlier.c.conversation_id == bindparam("conversation_id"), _earlier.c.status.in_(_UNFINISHED))
        .exists()
    )
    status = case((busy, literal("queued", String)), else_=literal("running", String))
    values = [bindparam(name, type_=runs.c[name].type).label(name) for name in plain]
    source = select(*values, status, now_ms() + bindparam("lease_ms", type_=BigInteger))
    return insert(runs).from_select([*plain, "status", "lease_until_ms"], source).returning(runs.c.status)


_INSERT_RUN = _insert_run()

_LATEST_ITEMS = (
    select(sdk_messages.c.message_data)
    .where(sdk_messages.c.session_id == bindparam("session"))
    .order_by(sdk_messages.c.created_at.desc(), sdk_messages.c.id.desc())
    .limit(bindparam("most"))
)


def _claimable(*, own_conversations_only: bool) -> Select[Any]:
    mine = and_(runs.c.status == "queued", runs.c.owner == bindparam("owner"))
    lost = runs.c.lease_until_ms < now_ms()
    blocked = (
        select(literal(1))
        .select_from(_earlier)
        .where(
            _earlier.c.conversation_id == runs.c.conversation_id,
            _earlier.c.status.in_(_UNFINISHED),
            _earlier.c.position < runs.c.position,
        )
        .exists()
    )
    statement = (
        select(runs.c.id)
        .where(
            runs.c.status.in_(("queued", "running")),
            or_(mine, lost),
            runs.c.journal_version <= run_rows.JOURNAL_VERSION,
            ~blocked,
        )
        .order_by(runs.c.created_at, runs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=runs)
    )
    if own_conversations_only:
        own = select(_earlier.c.conversation_id).where(
            _earlier.c.owner == bindparam("owner"), _earlier.c.status == "queued"
        )
        statement = statement.where(runs.c.conversation_id.in_(own))
    return statement


_CLAIMABLE = _claimable(own_conversations_only=False)
_CLAIMABLE_FOR_OWN = _claimable(own_conversations_only=True)

_CLAIM = (
    update(runs)
    .where(runs.c.id == bindparam("run"))
    .values(
        # A queued run has not been executed yet: its first claim is its first attempt.
        attempts=case((runs.c.status == "running", runs.c.attempts + 1), else_=runs.c.attempts),
        status="running",
        owner=bindparam("owner"),
        fence=runs.c.fence + 1,
        lease_until_ms=now_ms() + bindparam("lease_ms", type_=BigInteger),
    )
)

_CLAIMED = (
    select(runs, conversations.c.sdk_session_id, conversations.c.provider_conversation_id)
    .join(conversations, conversations.c.id == runs.c.conversation_id)
    .where(runs.c.id == bindparam("run"))
)

_RENEW = (
    update(runs)
    .where(runs.c.owner == bindparam("owner"), runs.c.status.in_(("queued", "running")))
    .values(lease_until_ms=now_ms() + bindparam("lease_ms", type_=BigInteger))
    .returning(runs.c.id, runs.c.status)
)

_CLOSE_CONVERSATION = (
    update(conversations)
    .where(conversations.c.id == bindparam("conversation"))
    .values(
        message_count=conversations.c.message_count + bindparam("added"),
        last_agent=bindparam("answered_by"),
        title=func.coalesce(conversations.c.title, bindparam("first_title", type_=String)),
        last_session_sync_at=bindparam("now"),
        updated_at=bindparam("now"),
    )
    .returning(conversations.c.message_count)
)

_FINISH = (
    update(runs)
    .where(runs.c.id == bindparam("run"), runs.c.fence == bindparam("held_fence"), runs.c.status == "running")
    .values(
        {
            name: bindparam(name, type_=runs.c[name].type)
            for name in (
                "status",
                "last_agent",
                "owner",
                "lease_until_ms",
                "result",
                "error_code",
                "spans",
                "trace_id",
                "last_sequence",
                "requests",
                "input_tokens",
                "cached_tokens",
                "output_tokens",
                "reasoning_tokens",
                "cost_usd",
                "started_at",
                "finished_at",
            )
        }
    )
)


def _touch_session(dialect: Any, latest: Any, history: Table) -> Any:
    """Make or lock the session's row, and return the time its next items carry: never before its last one."""
    newest = (
        select(func.max(history.c.created_at)).where(history.c.session_id == bindparam("session_id")).scalar_subquery()
    )
    return (
        dialect.insert(sdk_sessions)
        .values(session_id=bindparam("session_id"))
        .on_conflict_do_update(index_elements=["session_id"], set_={"updated_at": session_clock()})
        .returning(latest(session_clock(), func.coalesce(newest, session_clock()), type_=history.c.created_at.type))
    )


# SQLite keeps the SDK's times as text of whole seconds; passing through a datetime would add microseconds, and the
# SDK's next item of the same second would sort before ours. So the text is carried over untouched.
_sdk_messages_text = Table(
    sdk_messages.name,
    MetaData(),
    Column("id", sdk_messages.c.id.type, primary_key=True),
    Column("session_id", String),
    Column("message_data", Text),
    Column("created_at", String),
)
_HISTORY_TABLE = {"postgresql": sdk_messages, "sqlite": _sdk_messages_text}

_TOUCH_SESSION = {
    "postgresql": _touch_session(postgresql, func.greatest, sdk_messages),
    "sqlite": _touch_session(sqlite, func.max, _sdk_messages_text),
}
