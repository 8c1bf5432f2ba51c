"""Foreign exceptions to ours: where errors of the SDK, the OpenAI client and agents' code are translated."""

import re
from collections.abc import Callable

import agents.exceptions as sdk
import openai

from app.domain.errors import (
    AgentFailed,
    AppError,
    GuardrailTripped,
    InvalidInput,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
    RateLimited,
    TurnLimitReached,
)

_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "quota_exceeded"})


def translate(error: BaseException) -> AppError:
    """Return our error for a foreign one, the nearest in the tree; the caller keeps the cause.

    Every class the SDK or the client exports has an entry below; a test fails when a new one has none.
    The text of a foreign exception is never used: it may hold prompts, keys or file names.
    """
    if isinstance(error, AppError):
        return error
    for kind in type(error).__mro__:
        translator = _TRANSLATORS.get(kind)
        if translator is not None:
            return translator(error)
    return _agent_code(error)


def _agent_code(_error: BaseException) -> AppError:
    return AgentFailed("The agent's own code raised an error. The server's log has it under the run's id.")


def _timeout(error: BaseException) -> AppError:
    return ProviderTimeout("The model's endpoint did not answer in time.", request_id=_request_id(error))


def _unreachable(error: BaseException) -> AppError:
    # The client has one exception for all of the transport; how far it came is in the cause.
    if "Connect" not in type(error.__cause__).__name__ and error.__cause__ is not None:
        return _stream_error(error)
    return ProviderTimeout("The model's endpoint could not be reached.", request_id=_request_id(error))


def _status(error: BaseException) -> AppError:
    if not isinstance(error, openai.APIStatusError):
        return _garbage(error)
    request_id = error.request_id
    status = error.status_code
    if status == 429:
        quota = error.code in _QUOTA_CODES
        return RateLimited(
            "The quota at the model's endpoint is used up." if quota else "The model's endpoint is at its rate limit.",
            retryable=not quota,
            retry_after_s=_retry_after_s(error),
            request_id=request_id,
        )
    if status in {408, 409, 504}:
        return ProviderTimeout("The model's endpoint did not answer in time.", request_id=request_id)
    if status >= 500:
        return ProviderError("The model's endpoint failed.", retryable=True, request_id=request_id)
    reason = {
        401: "The model's endpoint refused the API key. Check OPENAI_API_KEY.",
        403: "The API key has no access to this model or feature.",
        404: "The model's endpoint does not know this model or route.",
        413: "The request is too large for the model.",
    }.get(status, "The model's endpoint refused the request.")
    if status == 400 and error.code == "context_length_exceeded":
        reason = "The conversation is longer than the model's context window."
    return ProviderRejected(reason, upstream_status=status, request_id=request_id)


def _retry_after_s(error: openai.APIStatusError) -> float | None:
    headers = error.response.headers
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value) * scale
    return None


def _request_id(error: BaseException) -> str | None:
    return error.request_id if isinstance(error, openai.APIStatusError) else None


def _garbage(_error: BaseException) -> AppError:
    return ProviderRejected("The model's endpoint sent an answer that cannot be read.", upstream_status=None)


def _stream_error(_error: BaseException) -> AppError:
    return ProviderError("The model's endpoint broke off its answer.", retryable=True)


def cut_short(reason: str | None = None) -> ProviderRejected:
    """Return the error for an answer that ends before it is complete; `reason` as the endpoint says it."""
    return ProviderRejected(
        "The model stopped before its answer was complete: output limit or content filter.",
        upstream_status=None,
        incomplete_reason=reason,
    )


def reported_failure() -> ProviderError:
    """Return the error for a failure that the endpoint reports in an answer of status 200."""
    return ProviderError("The model's endpoint reported a failure instead of an answer.", retryable=True)


def _not_text(_error: BaseException) -> AppError:
    return InvalidInput("The conversation holds characters that are no valid Unicode (lone surrogates).", param="input")


def _mcp_cancelled(_error: BaseException) -> AppError:
    return AgentFailed("An MCP server ended a tool call before it had a result.")


def _turns(_error: BaseException) -> AppError:
    return TurnLimitReached("The run needed more turns than it is allowed. Raise max_turns or simplify the task.")


def _model_behavior(error: BaseException) -> AppError:
    # The SDK has one class for what the model does wrong and for how an endpoint ends an answer; its text tells.
    text = str(error)
    if "terminal event `response.incomplete`" in text:
        return cut_short(next((reason for reason in _INCOMPLETE_REASONS if reason in text), None))
    if any(f"terminal event `{ending}`" in text for ending in ("response.failed", "response.error", "error")):
        return reported_failure()
    return AgentFailed("The model's answer could not be used: a tool that does not exist, or malformed output.")


def _refusal(_error: BaseException) -> AppError:
    return AgentFailed("The model refused to produce the requested output.")


def _user_error(error: BaseException) -> AppError:
    # What a tool raises reaches us inside of one of these.
    if isinstance(error.__cause__, Exception):
        return translate(error.__cause__)
    return InvalidInput("The agent or its options are set up wrongly. The server's log says how, under the run's id.")


def _tool_timeout(error: BaseException) -> AppError:
    name = error.tool_name if isinstance(error, sdk.ToolTimeoutError) else "?"
    return AgentFailed(f"The tool '{name}' did not end in time.")


def _guardrail(error: BaseException) -> AppError:
    if isinstance(error, sdk.InputGuardrailTripwireTriggered | sdk.OutputGuardrailTripwireTriggered):
        name = error.guardrail_result.guardrail.get_name()
    elif isinstance(error, sdk.ToolInputGuardrailTripwireTriggered | sdk.ToolOutputGuardrailTripwireTriggered):
        name = error.guardrail.get_name()
    else:
        name = "unknown"
    side = "input" if "Input" in type(error).__name__ else "output"
    return GuardrailTripped(f"The guardrail '{name}' refused the {side}.", guardrail=name)


_INCOMPLETE_REASONS = ("max_output_tokens", "content_filter")

_TRANSLATORS: dict[type[BaseException], Callable[[BaseException], AppError]] = {
    openai.APITimeoutError: _timeout,
    openai.APIConnectionError: _unreachable,
    openai.APIStatusError: _status,
    openai.APIResponseValidationError: _garbage,
    openai.APIError: _stream_error,
    openai.OpenAIError: _garbage,
    openai.LengthFinishReasonError: lambda _: cut_short("max_output_tokens"),
    openai.ContentFilterFinishReasonError: lambda _: cut_short("content_filter"),
    openai.WebSocketConnectionClosedError: _stream_error,
    openai.WebSocketQueueFullError: _stream_error,
    openai.InvalidWebhookSignatureError: _agent_code,
    sdk.MaxTurnsExceeded: _turns,
    sdk.ModelTimeoutError: _timeout,
    sdk.ModelBehaviorError: _model_behavior,
    sdk.ModelRefusalError: _refusal,
    sdk.UserError: _user_error,
    sdk.MCPToolCancellationError: _mcp_cancelled,
    sdk.ToolTimeoutError: _tool_timeout,
    sdk.InputGuardrailTripwireTriggered: _guardrail,
    sdk.OutputGuardrailTripwireTriggered: _guardrail,
    sdk.ToolInputGuardrailTripwireTriggered: _guardrail,
    sdk.ToolOutputGuardrailTripwireTriggered: _guardrail,
    sdk.AgentsException: _model_behavior,
    # The client parses a body before it knows that it is an answer; JSON that is none surfaces as a ValueError.
    ValueError: lambda error: _garbage(error) if _from_client(error) else _agent_code(error),
    UnicodeEncodeError: lambda error: _not_text(error) if _from_client(error) else _agent_code(error),
}


def _from_client(error: BaseException) -> bool:
    """Tell whether an exception was raised inside the OpenAI client, by the innermost module of its traceback."""
    trace = error.__traceback__
    modules: list[str] = []
    while trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__", "")))
        trace = trace.tb_next
    return any(module.split(".")[0] == "openai" for module in modules[-12:])
