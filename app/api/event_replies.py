"""Events as HTTP tells them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from app.domain.models.completions import Intake
from app.domain.models.deliveries import OutboxEvent
from app.domain.scrubbing import CONTENT_FIELDS
from app.services.event_tokens import IssuedEventToken


class RefusedEventReply(Struct, frozen=True, kw_only=True):
    """An event of a batch that was not taken."""

    index: int
    """Its place in the batch, from 0."""
    event_id: str | None
    code: str
    message: str
    param: str | None


class EventIntakeReply(Struct, frozen=True, kw_only=True):
    """What became of a batch."""

    object: Literal["event.intake"] = "event.intake"
    accepted: int
    """New events."""
    duplicates: int
    """Events that were there already."""
    event_ids: Sequence[str]
    """Of all events that are recorded now, in the order of the batch."""
    refused: Sequence[RefusedEventReply]


class EventReply(Struct, frozen=True, kw_only=True):
    """A recorded event, without what was said in its session."""

    object: Literal["event"] = "event"
    id: str
    type: str
    version: int
    created_at: int
    """When it was recorded; seconds since 1970."""
    organization_id: str
    user_id: str | None
    session_id: str
    run_id: str | None
    outcome: str
    source: str | None
    data: Mapping[str, Any]


class EventList(Struct, frozen=True, kw_only=True):
    """A page of events, the newest first."""

    object: Literal["list"] = "list"
    data: Sequence[EventReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EventTokenReply(Struct, frozen=True, kw_only=True):
    """A token for a browser."""

    object: Literal["event.token"] = "event.token"
    token: str
    expires_at: int
    """Seconds since 1970."""


def intake_reply(intake: Intake) -> EventIntakeReply:
    """Return what is told of a batch."""
    return EventIntakeReply(
        accepted=intake.accepted,
        duplicates=intake.duplicates,
        event_ids=intake.event_ids,
        refused=[
            RefusedEventReply(
                index=one.index, event_id=one.event_id, code=one.code, message=one.message, param=one.param
            )
            for one in intake.refused
        ],
    )


def event_list(found: Sequence[OutboxEvent], *, has_more: bool) -> EventList:
    """Return a page of events."""
    return EventList(
        data=[_event(one) for one in found],
        first_id=found[0].id if found else None,
        last_id=found[-1].id if found else None,
        has_more=has_more,
    )


def token_reply(issued: IssuedEventToken) -> EventTokenReply:
    """Return a token that was just made."""
    return EventTokenReply(token=issued.token, expires_at=int(issued.expires_at.timestamp()))


def _event(event: OutboxEvent) -> EventReply:
    return EventReply(
        id=event.id,
        type=event.type,
        version=event.version,
        created_at=int(event.created_at.timestamp()),
        organization_id=event.organization_id,
        user_id=event.user_id,
        session_id=event.session_id,
        run_id=event.run_id,
        outcome=event.outcome,
        source=event.source,
        data={name: value for name, value in event.payload.items() if name not in CONTENT_FIELDS},
    )
