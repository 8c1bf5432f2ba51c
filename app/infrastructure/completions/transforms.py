"""What destinations are told of an event: versioned shapes, ours and those of plug-ins."""

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, cast

import msgspec

from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import OutboxEvent

Transform = Callable[[OutboxEvent], Mapping[str, Any]]
"""Makes the body of a message; must depend on the event alone, since it is called again for every attempt."""

ENTRY_POINTS: Final = "durable_agents.completion_transforms"
_canonical: Final = msgspec.json.Encoder(order="deterministic").encode


def event_v1(event: OutboxEvent) -> Mapping[str, Any]:
    """Return everything that is recorded of an event."""
    return {**dict(event.payload), **_identity(event), "run_id": event.run_id, "source": event.source}


def billing_v1(event: OutboxEvent) -> Mapping[str, Any]:
    """Return who used how much of what, at which price; nothing else."""
    payload = event.payload
    metadata = payload.get("metadata")
    tier = metadata.get("tier") if isinstance(metadata, Mapping) else None
    return {
        **_identity(event),
        "session_type": payload.get("session_type"),
        "outcome": _outcome(event).get("status"),
        "models": _models(event),
        "usage": _usage(event),
        "duration_ms": payload.get("duration_ms"),
        "tier": payload.get("tier", tier),
        "project_id": payload.get("project_id"),
        "api_key_id": payload.get("api_key_id"),
    }


def analytics_v2(event: OutboxEvent) -> Mapping[str, Any]:
    """Return one flat row of figures."""
    payload, usage, outcome = event.payload, _usage(event), _outcome(event)
    figures = ("duration_ms", "first_token_ms", "message_count", "tool_call_count", "start_time", "end_time")
    tokens = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "total_tokens", "cost_usd")
    return {
        **_identity(event),
        "session_type": payload.get("session_type"),
        "agent": payload.get("agent"),
        "model": next(iter(_models(event)), None),
        "outcome": outcome.get("status"),
        "error_code": outcome.get("error_code"),
        **{name: payload.get(name) for name in figures},
        **{name: usage.get(name) for name in tokens},
        "metadata": payload.get("metadata") or {},
    }


def audit_v1(event: OutboxEvent) -> Mapping[str, Any]:
    """Return who did what and when, with a digest by which the recorded event can be recognized."""
    recorded = {**_identity(event), "payload": event.payload}
    return {
        **_identity(event),
        "actor": {
            "user_id": event.user_id,
            "organization_id": event.organization_id,
            "api_key_id": event.payload.get("api_key_id"),
        },
        "action": event.type,
        "resource": {"session_id": event.session_id, "run_id": event.run_id, "agent": event.payload.get("agent")},
        "outcome": dict(_outcome(event)),
        "models": _models(event),
        "usage": _usage(event),
        "start_time": event.payload.get("start_time"),
        "end_time": event.payload.get("end_time"),
        "source": event.source,
        "sha256": hashlib.sha256(_canonical(recorded)).hexdigest(),
    }


TRANSFORMS: Final[Mapping[str, Transform]] = {
    "event_v1": event_v1,
    "billing_v1": billing_v1,
    "analytics_v2": analytics_v2,
    "audit_v1": audit_v1,
}


def find_transform(name: str) -> Transform:
    """Return a transform by its name, one of ours or a plug-in's.

    Raises:
        ConfigurationError: there is none, or its plug-in cannot be loaded.
    """
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        known = ", ".join(sorted({*TRANSFORMS, *found.names}))
        raise ConfigurationError(f"There is no transform '{name}'. Known: {known}.")
    try:
        loaded: Any = found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"The transform '{name}' could not be loaded: {type(error).__name__}.") from error
    if not callable(loaded):
        raise ConfigurationError(f"The transform '{name}' is no function.")
    return cast("Transform", loaded)


def _identity(event: OutboxEvent) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "event_type": event.type,
        "version": event.version,
        "timestamp": event.created_at.isoformat(),
        "session_id": event.session_id,
        "user_id": event.user_id,
        "organization_id": event.organization_id,
    }


def _outcome(event: OutboxEvent) -> Mapping[str, Any]:
    told = event.payload.get("outcome")
    return told if isinstance(told, Mapping) else {"status": event.outcome, "error_code": None}


def _usage(event: OutboxEvent) -> Mapping[str, Any]:
    told = event.payload.get("usage")
    return told if isinstance(told, Mapping) else {}


def _models(event: OutboxEvent) -> list[Any]:
    told = event.payload.get("models")
    if isinstance(told, list):
        return told
    model = event.payload.get("model") or _usage(event).get("model")
    return [] if model is None else [model]
