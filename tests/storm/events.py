"""Events that show whether they are whole: each carries a digest of its own id."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any


def made(event_id: str) -> dict[str, Any]:
    """Return an event of an id; its session is one of a few, so that order has to be kept."""
    return {
        "event_id": event_id,
        "session_id": f"conv_{sha256(event_id.encode()).digest()[0]}",
        "user_id": "ann",
        "usage": {"input_tokens": 1_000, "output_tokens": 40, "model": "gpt-5.4-mini"},
        "duration_ms": 1_234,
        "message_count": 2,
        "tier": digest(event_id),
        "metadata": {"note": "which way does the river go " * 8},
    }


def digest(event_id: str) -> str:
    """Return what an event of this id has as its tier, which every transform carries."""
    return sha256(event_id.encode()).hexdigest()[:24]


def is_whole(body: Mapping[str, Any]) -> bool:
    """Tell whether a body at a receiver is that of its event."""
    usage = body["usage"]
    return body["tier"] == digest(body["event_id"]) and usage["total_tokens"] == 1_040
