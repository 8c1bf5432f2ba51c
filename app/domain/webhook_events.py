"""The types of events that webhook endpoints may ask for, ours and the platform's."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.domain.models.deliveries import OutboxEvent

OWN_TYPES: Final = ("session.completed", "run.failed", "approval.requested", "budget.exceeded")
PLATFORM_TYPES: Final = ("response.completed", "response.failed", "response.cancelled")
EVENT_TYPES: Final = (*OWN_TYPES, *PLATFORM_TYPES)

_RUN: Final = "run_"


def webhook_type(event_types: Sequence[str], event: OutboxEvent) -> str | None:
    """Return the type under which an endpoint gets an event, the platform's if it asks for that; None: not at all."""
    platform = _platform_type(event)
    if platform is not None and platform in event_types:
        return platform
    return event.type if event.type in event_types else None


def webhook_data(kind: str, event: OutboxEvent, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an event's data: the platform's tell the id of the response and nothing else; ours are `own`."""
    if kind in PLATFORM_TYPES and event.run_id is not None:
        return {"id": f"resp_{event.run_id.removeprefix(_RUN)}"}
    return own


def sample_data(kind: str) -> Mapping[str, Any]:
    """Return the data of a test's event."""
    return {"id": "resp_test"} if kind in PLATFORM_TYPES else {"event_type": kind, "test": True}


def _platform_type(event: OutboxEvent) -> str | None:
    if event.run_id is None or not event.run_id.startswith(_RUN):
        return None
    match event.type, event.outcome:
        case "session.completed", _:
            return "response.completed"
        case "run.failed", "user_terminated":
            return "response.cancelled"
        case "run.failed", _:
            return "response.failed"
        case _:
            return None
