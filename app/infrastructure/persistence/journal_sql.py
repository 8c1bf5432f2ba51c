"""The statements of the run journal.

They are built once: SQLAlchemy then finds their compiled text by identity instead of walking them at every use.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    column,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    table,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.infrastructure.persistence.clock_sql import now_ms, session_clock
from app.infrastructure.persistence.run_rows import JOURNAL_VERSION
from app.infrastructure.persistence.tables import (
    UtcDateTime,
    completion_events,
    conversations,
    run_approvals,
    run_steps,
    run_usage,
    runs,
    sdk_messages,
    sdk_sessions,
)

UNFINISHED = tuple(literal_column(f"'{status}'") for status in ("queued", "running", "waiting"))
"""Written out in the statements: SQLite uses a partial index only where it reads its very condition, and compares
parameters with nothing. Without the indexes, every look for work reads all runs there ever were."""
UNFINISHED_RUN = runs.c.status.in_(UNFINISHED)

CONVERSATION_COLUMNS = (
    conversations.c.id,
    conversations.c.agent,
    conversations.c.last_agent,
    conversations.c.run_count,
    conversations.c.sdk_session_id,
    conversations.c.provider_conversation_id,
)

INSERT_CONVERSATION = insert(conversations).returning(*CONVERSATION_COLUMNS)

NEXT_RUN = (
    update(conversations)
    .where(
        conversations.c.id == bindparam("conversation"),
        conversations.c.organization_id == bindparam("organization"),
        conversations.c.kind == "chat",
    )
    .values(run_count=conversations.c.run_count + 1, updated_at=bindparam("now"))
    .returning(*CONVERSATION_COLUMNS)
)
NEXT_RUN_OF_USER = NEXT_RUN.where(conversations.c.user_id == bindparam("user"))

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
        "attempts",
        "journal_version",
        "created_at",
        "idempotency_key",
        "request_hash",
        "project_id",
        "api_key_id",
    )
    busy = (
        select(literal(1))
        .select_from(_earlier)
        .where(_earlier.c.conversation_id == bindparam("conversation_id"), _earlier.c.status.in_(UNFINISHED))
        .exists()
    )
    status = case((busy, literal("queued", String)), else_=literal("running", String))
    # A queued run has not been claimed yet: its first claim is number 1.
    fence = case((busy, literal(0, Integer)), else_=literal(1, Integer))
    started_at = case((busy, literal(None, UtcDateTime)), else_=bindparam("created_at", type_=UtcDateTime))
    values = [bindparam(name, type_=runs.c[name].type).label(name) for name in plain]
    source = select(*values, status, fence, started_at, now_ms() + bindparam("lease_ms", type_=BigInteger))
    columns = [*plain, "status", "fence", "started_at", "lease_until_ms"]
    return insert(runs).from_select(columns, source).returning(runs.c.status)


INSERT_RUN = _insert_run()

LATEST_ITEMS = (
    select(sdk_messages.c.message_data)
    .where(sdk_messages.c.session_id == bindparam("session"))
    .order_by(sdk_messages.c.created_at.desc(), sdk_messages.c.id.desc())
    .limit(bindparam("most"))
)


INTERRUPT = (
    update(runs)
    .where(
        runs.c.conversation_id == bindparam("conversation"),
        runs.c.status.in_(UNFINISHED),
        runs.c.position < bindparam("before"),
    )
    .values(
        cancel_reason=func.coalesce(runs.c.cancel_reason, "interrupted"),
        # Nobody holds a waiting run, so somebody must claim it to close it.
        status=case((runs.c.status == "waiting", "queued"), else_=runs.c.status),
        owner=case((runs.c.status == "waiting", null()), else_=runs.c.owner),
        lease_until_ms=case((runs.c.status == "waiting", 0), else_=runs.c.lease_until_ms),
        result=null(),
    )
    .returning(runs.c.id)
)

WITH_SESSION = select(runs, conversations.c.sdk_session_id, conversations.c.provider_conversation_id).join(
    conversations, conversations.c.id == runs.c.conversation_id
)

KEYED = WITH_SESSION.where(
    runs.c.organization_id == bindparam("organization"), runs.c.idempotency_key == bindparam("key")
)


def _claimable() -> Select[Any, Any]:
    mine = and_(runs.c.status == "queued", runs.c.owner == bindparam("owner"))
    # Handed back, lost, or waiting for longer than its approvals are kept open.
    unheld = runs.c.lease_until_ms < now_ms()
    # What was cancelled before its turn has nothing to say: it is closed at once, as soon as nothing runs beside it.
    has_a_turn = or_(runs.c.cancel_reason.is_(None), runs.c.started_at.is_not(None))
    blocked = (
        select(literal(1))
        .select_from(_earlier)
        .where(
            _earlier.c.conversation_id == runs.c.conversation_id,
            _earlier.c.status.in_(UNFINISHED),
            or_(and_(has_a_turn, _earlier.c.position < runs.c.position), _earlier.c.status == "running"),
            _earlier.c.id != runs.c.id,
        )
        .exists()
    )
    return (
        select(runs.c.id, runs.c.status)
        .where(
            runs.c.status.in_(UNFINISHED),
            or_(mine, unheld),
            runs.c.journal_version <= JOURNAL_VERSION,
            ~blocked,
        )
        .order_by(runs.c.created_at, runs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=runs)
    )


CLAIMABLE = _claimable()
CLAIMABLE_FOR_OWN = CLAIMABLE.where(
    runs.c.conversation_id.in_(
        select(_earlier.c.conversation_id).where(
            _earlier.c.owner == bindparam("owner"), _earlier.c.status == "queued", _earlier.c.status.in_(UNFINISHED)
        )
    )
)

CLAIMABLE_RUN = CLAIMABLE.where(runs.c.id == bindparam("run"))
CLAIMABLE_RUN_FOR_OWN = CLAIMABLE_FOR_OWN.where(runs.c.id == bindparam("run"))

CLAIM = (
    update(runs)
    .where(runs.c.id == bindparam("run"))
    .values(
        # Only a lost owner counts: neither the queue, nor a hand-back, nor the wait for a person does.
        attempts=case((runs.c.status == "running", runs.c.attempts + 1), else_=runs.c.attempts),
        status="running",
        owner=bindparam("owner"),
        fence=runs.c.fence + 1,
        lease_until_ms=now_ms() + bindparam("lease_ms", type_=BigInteger),
        started_at=func.coalesce(runs.c.started_at, bindparam("now", type_=UtcDateTime)),
        result=null(),
    )
)

CLAIMED = WITH_SESSION.where(runs.c.id == bindparam("run"))

EXPIRE_APPROVALS = (
    update(run_approvals)
    .where(run_approvals.c.run_id == bindparam("run"), run_approvals.c.state == "pending")
    .values(state="expired", decided_at=bindparam("now", type_=UtcDateTime))
)

STEPS = select(run_steps).where(run_steps.c.run_id == bindparam("run"))
USAGE = select(run_usage).where(run_usage.c.run_id == bindparam("run"))
APPROVALS = (
    select(run_approvals, runs.c.conversation_id, runs.c.status)
    .join(runs, runs.c.id == run_approvals.c.run_id)
    .where(run_approvals.c.run_id == bindparam("run"))
    .order_by(run_approvals.c.position)
)

RENEW = (
    update(runs)
    .where(
        runs.c.owner == bindparam("holder"),
        runs.c.id.in_(bindparam("held", expanding=True)),
        runs.c.status.in_(("queued", "running")),
    )
    .values(lease_until_ms=now_ms() + bindparam("lease_ms", type_=BigInteger))
    .returning(runs.c.id, runs.c.cancel_reason)
)

HAND_BACK_QUEUED = (
    update(runs)
    .where(runs.c.owner == bindparam("holder"), runs.c.status == "queued", runs.c.status.in_(UNFINISHED))
    .values(owner=null(), lease_until_ms=0)
)

_HELD = and_(runs.c.id == bindparam("run"), runs.c.fence == bindparam("held_fence"), runs.c.status == "running")
_AS_EXPECTED = or_(
    bindparam("expected", type_=Integer).is_(None), runs.c.last_sequence == bindparam("expected", type_=Integer)
)

RECORD = (
    update(runs)
    .where(_HELD, _AS_EXPECTED)
    .values(
        last_sequence=func.coalesce(bindparam("last", type_=Integer), runs.c.last_sequence),
        lease_until_ms=now_ms() + bindparam("lease_ms", type_=BigInteger),
    )
    .returning(runs.c.cancel_reason)
)

HAND_BACK = (
    update(runs)
    .where(_HELD, _AS_EXPECTED)
    .values(
        last_sequence=func.coalesce(bindparam("last", type_=Integer), runs.c.last_sequence),
        status="queued",
        owner=null(),
        lease_until_ms=0,
    )
    .returning(runs.c.cancel_reason)
)

PARK = (
    update(runs)
    .where(_HELD, _AS_EXPECTED)
    .values(
        last_sequence=func.coalesce(bindparam("last", type_=Integer), runs.c.last_sequence),
        # Someone who asked for the end while the run was on its way here must not wait for the approvals.
        status=case((runs.c.cancel_reason.is_(None), "waiting"), else_="queued"),
        owner=case((runs.c.cancel_reason.is_(None), null()), else_=runs.c.owner),
        lease_until_ms=case(
            (runs.c.cancel_reason.is_(None), now_ms() + bindparam("expires_ms", type_=BigInteger)), else_=0
        ),
        result=case((runs.c.cancel_reason.is_(None), bindparam("result", type_=runs.c.result.type)), else_=null()),
    )
    .returning(runs.c.cancel_reason)
)

STANDING = select(runs.c.status, runs.c.fence, runs.c.last_sequence, runs.c.cancel_reason).where(
    runs.c.id == bindparam("run")
)

CLOSE_CONVERSATION = (
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

_finish = (
    update(runs)
    .where(_HELD, _AS_EXPECTED)
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
                "last_message",
            )
        }
    )
)
_added_items = bindparam("added_items", type_=Integer)
_latest_item = (
    select(sdk_messages.c.id)
    .where(sdk_messages.c.session_id == bindparam("session"))
    .order_by(sdk_messages.c.created_at.desc(), sdk_messages.c.id.desc())
    .limit(1)
    .scalar_subquery()
)
_last_row_id = (
    select(column("seq"))
    .select_from(table("sqlite_sequence"))
    .where(column("name") == literal_column(f"'{sdk_messages.name}'"))
    .scalar_subquery()
)
FINISH = {
    # Ids are given one after the other, and nobody else writes now: where the history will end is known beforehand.
    "sqlite": _finish.values(history_end_id=func.coalesce(_last_row_id, 0) + _added_items),
    # There it is known when the items are in: the last statement of the transaction writes it, if there are any.
    "postgresql": _finish.values(history_end_id=case((_added_items > 0, null()), else_=func.coalesce(_latest_item, 0))),
}
"""Parameters beside the columns: `added_items`, how many the run adds to its history, and on PostgreSQL `session`."""


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
HISTORY_TABLE = {"postgresql": sdk_messages, "sqlite": _sdk_messages_text}

TOUCH_SESSION = {
    "postgresql": _touch_session(postgresql, func.greatest, sdk_messages),
    "sqlite": _touch_session(sqlite, func.max, _sdk_messages_text),
}

RECORDED = select(literal(1)).where(completion_events.c.id == bindparam("event"))
