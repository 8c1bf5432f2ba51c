"""How a run ended, in a Response's words."""

from collections.abc import Mapping
from typing import Any, Final

from app.api.openai.response_objects import ResponseEnd
from app.domain.errors import GuardrailTripped, InvalidInput, RateLimited, TurnLimitReached
from app.domain.models.events import RunCancelled, RunCompleted, RunFailed, RunWaiting, TerminalEvent
from app.domain.models.usage import TokenUsage

_ERROR_CODES: Final[Mapping[str, str]] = {
    RateLimited.code: "rate_limit_exceeded",
    GuardrailTripped.code: "invalid_prompt",
    InvalidInput.code: "invalid_prompt",
}
"""A Response's error codes are a closed list; our own code stands in `type`."""

_STOPPED_BY_SOMEONE: Final = frozenset({"user", "interrupted"})

_INCOMPLETE_REASONS: Final = frozenset({"max_output_tokens", "content_filter", "max_messages"})


def end_of(event: TerminalEvent | RunWaiting, usage: TokenUsage, finished_at: int | None, *, cut: bool) -> ResponseEnd:
    """Return how a response ended with this event; one that waits for approvals is completed.

    `cut`: its last message is incomplete.
    """
    match event:
        case RunCompleted() | RunWaiting():
            completed = ResponseEnd("completed", usage=usage, finished_at=finished_at)
            return ResponseEnd("incomplete", incomplete="max_output_tokens", usage=usage) if cut else completed
        case RunCancelled() if event.reason in _STOPPED_BY_SOMEONE:
            return ResponseEnd("cancelled", usage=usage)
        case RunCancelled():
            return ResponseEnd("failed", _error("server_error", event.message, f"run_{event.reason}"), usage=usage)
        case RunFailed():
            reason = "max_messages" if event.code == TurnLimitReached.code else event.details.get("incomplete_reason")
            if reason in _INCOMPLETE_REASONS:
                return ResponseEnd("incomplete", incomplete=reason, usage=usage)
            code = _ERROR_CODES.get(event.code, "server_error")
            return ResponseEnd("failed", _error(code, event.message, event.code), usage=usage)


def usage_since(tokens: TokenUsage, before: TokenUsage) -> TokenUsage:
    """Return what a part of a run used: all of the run, without what the parts before it did."""
    return TokenUsage(
        requests=max(0, tokens.requests - before.requests),
        input_tokens=max(0, tokens.input_tokens - before.input_tokens),
        cached_tokens=max(0, tokens.cached_tokens - before.cached_tokens),
        cache_write_tokens=max(0, tokens.cache_write_tokens - before.cache_write_tokens),
        output_tokens=max(0, tokens.output_tokens - before.output_tokens),
        reasoning_tokens=max(0, tokens.reasoning_tokens - before.reasoning_tokens),
    )


def _error(code: str, message: str, kind: str) -> dict[str, Any]:
    return {"code": code, "message": message, "type": kind}
