"""The statements of the run journal.

They are built once: SQLAlchemy then finds their compiled text by identity instead of walking them at every use.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    MetaData,
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

from app.infrastructure.persistence.clock_sql import now_ms, session_clock
from app.infrastructure.persistence.run_rows import JOURNAL_VERSION
from app.infrastructure.persistence.tables import completion_events, conversations, runs, sdk_messages, sdk_sessions

UNFINISHED = ("queued", "running", "waiting")

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
        "fence",
        "attempts",
        "journal_version",
        "created_at",
    )
    busy = (
        select(literal(1))
        .select_from(_earlier)
        .where(_earlier.c.conversation_id == bindparam("conversation_id"), _earlier.c.status.in_(UNFINISHED))
        .exists()
    )
    status = case((busy, literal("queued", String)), else_=literal("running", String))
    values = [bindparam(name, type_=runs.c[name].type).label(name) for name in plain]
    source = select(*values, status, now_ms() + bindparam("lease_ms", type_=BigInteger))
    return insert(runs).from_select([*plain, "status", "lease_until_ms"], source).returning(runs.c.status)


INSERT_RUN = _insert_run()

LATEST_ITEMS = (
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
            _earlier.c.status.in_(UNFINISHED),
            _earlier.c.position < runs.c.position,
        )
        .exists()
    )
    statement = (
        select(runs.c.id)
        .where(
            runs.c.status.in_(("queued", "running")),
            or_(mine, lost),
            runs.c.journal_version <= JOURNAL_VERSION,
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


CLAIMABLE = _claimable(own_conversations_only=False)
CLAIMABLE_FOR_OWN = _claimable(own_conversations_only=True)

CLAIM = (
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

CLAIMED = (
    select(runs, conversations.c.sdk_session_id, conversations.c.provider_conversation_id)
    .join(conversations, conversations.c.id == runs.c.conversation_id)
    .where(runs.c.id == bindparam("run"))
)

RENEW = (
    update(runs)
    .where(runs.c.owner == bindparam("holder"), runs.c.status.in_(("queued", "running")))
    .values(lease_until_ms=now_ms() + bindparam("lease_ms", type_=BigInteger))
    .returning(runs.c.id, runs.c.status)
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

FINISH = (
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
HISTORY_TABLE = {"postgresql": sdk_messages, "sqlite": _sdk_messages_text}

TOUCH_SESSION = {
    "postgresql": _touch_session(postgresql, func.greatest, sdk_messages),
    "sqlite": _touch_session(sqlite, func.max, _sdk_messages_text),
}

RECORDED = select(literal(1)).where(completion_events.c.id == bindparam("event"))
