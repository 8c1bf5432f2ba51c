"""The body of `POST /v1/events` as the API's description tells it."""

from typing import Any, Final

from app.domain.models.completions import EVENT_TYPES, MAX_EVENT_BYTES

_NAME: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": 255}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_MS: Final[dict[str, Any]] = {"type": "number", "minimum": 0}
_TOKENS: Final = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
_OUTCOMES: Final = ["success", "error", "timeout", "user_terminated"]
_TIME: Final[dict[str, Any]] = {"type": "string", "format": "date-time"}

_USAGE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": dict.fromkeys(_TOKENS, _COUNT)
    | {"model": _NAME, "cost_usd": {"type": "string", "description": "US dollars; text keeps every digit."}},
}
_EVENT: Final[dict[str, Any]] = {
    "title": "SessionEvent",
    "type": "object",
    "description": f"One event, at most {MAX_EVENT_BYTES} bytes. Names may be camelCase; what is not known is kept.",
    "required": ["session_id"],
    "properties": {
        "event_id": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[!-~]+$"},
        "event_type": {"type": "string", "enum": list(EVENT_TYPES), "default": EVENT_TYPES[0]},
        "timestamp": _TIME,
        "session_id": _NAME,
        "session_type": {"type": "string", "enum": ["chat", "api", "autonomous", "webhook", "realtime"]},
        "user_id": _NAME,
        "agent": _NAME,
        "start_time": _TIME,
        "end_time": _TIME,
        "duration_ms": _MS,
        "message_count": _COUNT,
        "tool_call_count": _COUNT,
        "usage": _USAGE,
        "outcome": {
            "type": "object",
            "properties": {"status": {"type": "string", "enum": _OUTCOMES}, "error_code": _NAME},
        },
        "transport": {"type": "string", "enum": ["websocket", "webrtc", "sip"]},
        "metadata": {"type": "object"},
    },
}
_BATCH: Final[dict[str, Any]] = {
    "title": "SessionEvents",
    "type": "object",
    "required": ["events"],
    "additionalProperties": False,
    "properties": {"events": {"type": "array", "maxItems": 1_000, "items": _EVENT}},
}
EVENT_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [_EVENT, _BATCH]}}}}
}
