"""Completion events from outside: how a session ended that did not run here."""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from app.domain.models.deliveries import OutboxEvent

EventType = Literal["session.completed", "run.failed", "approval.requested", "budget.exceeded"]
SessionType = Literal["chat", "api", "autonomous", "webhook", "realtime"]
SessionOutcome = Literal["success", "error", "timeout", "user_terminated"]
Transport = Literal["websocket", "webrtc", "sip"]
"""How a realtime session was connected."""

EVENT_TYPES: Final[tuple[str, ...]] = get_args(EventType)
EVENT_VERSION: Final = 1
MAX_EVENT_BYTES: Final = 256 * 1024
"""Bytes of one event as JSON."""


@dataclass(slots=True)  # not frozen: that doubles what it costs to make one, and each event makes one
class SessionEvent:
    """A checked event from outside, before it is known whose it is."""

    id: str
    """The caller's own, or minted when it was captured; whoever gets it twice knows it by this."""
    type: EventType
    version: int
    session_id: str
    user_id: str | None
    organization_id: str | None
    """The organization that the caller names; whose event it is, the key says."""
    outcome: SessionOutcome
    timestamp: str | None
    """When it happened, by the caller's clock, in UTC as ISO 8601; None: it was not told."""
    payload: dict[str, Any]
    """Everything else, in the shape of the events of our own runs; content and unknown fields stand apart."""


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event that was not taken, and why."""

    index: int
    """Its place in the batch, from 0."""
    event_id: str | None
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Intake:
    """What became of a batch."""

    accepted: int
    """New events."""
    duplicates: int
    """Events that were there already."""
    refused: tuple[RefusedEvent, ...] = ()
    event_ids: tuple[str, ...] = ()
    """Of all events that are recorded now, new or not, in the order of the batch."""


@dataclass(frozen=True, slots=True)
class EventScope:
    """Whose events somebody may report; None: anybody's. The last two are noted with every event."""

    organization_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    project_id: str | None = None
    api_key_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """A batch as it was read: what may be recorded, and what may not."""

    events: tuple[OutboxEvent, ...] = ()
    """In the order of the batch; each is created a microsecond after the one before, so that they stay in order."""
    places: tuple[int, ...] = ()
    """Where each of the events stands in the batch, from 0."""
    refused: tuple[RefusedEvent, ...] = ()
