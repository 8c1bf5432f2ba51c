"""The table of errors is complete, and says the same whether an error is raised or recorded as a run's end."""

import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

from app.api.errors import API_PARAMS, HTTP_ERRORS, body_of, error_reply, failed_run_reply, status_of
from app.api.routes.chat import ChatOptions
from app.domain import errors
from app.domain.delivery_ports import SendFailed
from app.domain.models.runs import ErrorInfo, RunOptions, RunResult, RunStatus, Timings
from app.domain.models.usage import TokenUsage


def tree(kind: type[errors.AppError] = errors.AppError) -> Iterator[type[errors.AppError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


EXAMPLES: list[errors.AppError] = [
    errors.AppError("m"),
    errors.RequestError("m", param="p"),
    errors.InvalidInput("m", param="conversation_id"),
    errors.UnknownAgent("nobody", ("demo",)),
    errors.ConversationNotFound("conv_1"),
    errors.RunNotFound("run_1"),
    errors.SessionNotFound("sess_1"),
    errors.RunConflict("m", reason="conflict", param="p"),
    errors.ProviderError("m", retryable=True),
    errors.ProviderTimeout("m"),
    errors.RateLimited("m", retryable=True, retry_after_s=1.2),
    errors.ProviderRejected("m", upstream_status=401),
    errors.RunError("m"),
    errors.TurnLimitReached("m"),
    errors.GuardrailTripped("m", guardrail="g"),
    errors.RunCancelled("m", reason="user"),
    errors.LeaseLost("m"),
    errors.AgentFailed("m"),
    errors.ReplayMismatch("m"),
    errors.StorageUnavailable("m"),
    errors.ConfigurationError("m"),
    SendFailed("m"),
]


@pytest.mark.parametrize("kind", list(tree()))
def test_every_error_has_an_entry(kind: type[errors.AppError]) -> None:
    assert kind in HTTP_ERRORS
    assert kind in {type(example) for example in EXAMPLES}


def test_codes_tell_errors_apart() -> None:
    codes = [kind.code for kind in tree()]
    assert len(codes) == len(set(codes))


def result(info: ErrorInfo | None, status: RunStatus = RunStatus.FAILED) -> RunResult:
    now = datetime.now(UTC)
    return RunResult(
        run_id="run_1",
        conversation_id="conv_1",
        agent="demo",
        status=status,
        output=None,
        items=(),
        tool_calls=(),
        handoffs=(),
        usage=TokenUsage(),
        calls=(),
        cost_usd=None,
        response_ids=(),
        timings=Timings(now, now, now, None),
        trace_id=None,
        error=info,
    )


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_raised_and_recorded_are_the_same(error: errors.AppError) -> None:
    raised = error_reply(error)
    details = {"reason": "user"} if isinstance(error, errors.RunCancelled) else {}
    recorded = failed_run_reply(result(ErrorInfo(error.code, error.public_message, details)))
    assert raised.status_code == recorded.status_code
    mine, theirs = json.loads(raised.body), json.loads(recorded.body)
    assert set(mine) == {"error"}
    assert (theirs["run_id"], theirs["conversation_id"]) == ("run_1", "conv_1")
    for name in ("message", "type", "code"):
        assert mine["error"][name] == theirs["error"][name]
    assert list(mine["error"]) == list(theirs["error"]) == ["message", "type", "param", "code"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidInput("m"), 400, "invalid_value"),
        (errors.UnknownAgent("x", ()), 404, "model_not_found"),
        (errors.ProviderError("m", retryable=True), 502, "provider_error"),
        (errors.ProviderRejected("m", upstream_status=400), 502, "provider_rejected"),
        (errors.ProviderTimeout("m"), 504, "provider_timeout"),
        (errors.RateLimited("m", retryable=False, retry_after_s=None), 429, "rate_limit_exceeded"),
        (errors.GuardrailTripped("m", guardrail="g"), 400, "guardrail_tripped"),
        (errors.TurnLimitReached("m"), 400, "max_turns_exceeded"),
        (errors.AgentFailed("m"), 500, "agent_failed"),
        (errors.RunCancelled("m", reason="user"), 409, "run_cancelled"),
        (errors.RunCancelled("m", reason="timeout"), 504, "run_timeout"),
        (errors.RunCancelled("m", reason="interrupted"), 409, "run_cancelled"),
        (errors.RunCancelled("m", reason="process_lost"), 503, "run_interrupted"),
        (errors.StorageUnavailable("m"), 503, "storage_unavailable"),
        (errors.ReplayMismatch("m"), 500, "replay_mismatch"),
        (errors.RunConflict("m", reason="conversation_busy"), 409, "conversation_busy"),
        (errors.RunConflict("m", reason="idempotency_conflict"), 409, "idempotency_conflict"),
        (errors.RunConflict("m", reason="not_waiting"), 409, "not_waiting"),
        (errors.RunConflict("m", reason="already_decided"), 409, "already_decided"),
    ],
)
def test_statuses(error: errors.AppError, status: int, code: str) -> None:
    assert (error_reply(error).status_code, body_of(error).code) == (status, code)


@pytest.mark.parametrize(
    ("info", "status", "code"),
    [
        (ErrorInfo("run_cancelled", "m", {"reason": "timeout"}), 504, "run_timeout"),
        (ErrorInfo("run_cancelled", "m", {"reason": "process_lost"}), 503, "run_interrupted"),
        (ErrorInfo("run_cancelled", "m", {"reason": "interrupted"}), 409, "run_cancelled"),
        (ErrorInfo("run_cancelled", "m"), 409, "run_cancelled"),
        (ErrorInfo("replay_mismatch", "m"), 500, "replay_mismatch"),
        (ErrorInfo("of_a_later_release", "m"), 500, "of_a_later_release"),
        (None, 500, "run_failed"),
    ],
)
def test_ends_of_runs(info: ErrorInfo | None, status: int, code: str) -> None:
    reply = failed_run_reply(result(info))
    assert (reply.status_code, json.loads(reply.body)["error"]["code"]) == (status, code)


@pytest.mark.parametrize(("advice", "header"), [(None, "5"), (0.02, "1"), (1, "1"), (1.2, "2"), (30, "30")])
def test_retry_after(advice: float | None, header: str) -> None:
    error = errors.RateLimited("m", retryable=True, retry_after_s=advice)
    assert error_reply(error).headers["retry-after"] == header
    details = {} if advice is None else {"retry_after_s": advice}
    reply = failed_run_reply(result(ErrorInfo(error.code, "m", details)))
    assert reply.headers["retry-after"] == header
    assert error_reply(errors.StorageUnavailable("m")).headers["retry-after"] == "1"
    assert "retry-after" not in error_reply(errors.AgentFailed("m")).headers


def test_a_class_of_its_own_gets_the_nearest_entry() -> None:
    class Special(errors.GuardrailTripped):
        pass

    assert status_of(Special("m", guardrail="g")).status == 400


@pytest.mark.parametrize(
    ("param", "wire"),
    [
        ("input", "message"),
        ("input[3]", "message[3]"),
        ("organization_id", "tenantId"),
        ("conversation_id", "conversationId"),
        ("max_turns", "options.maxTurns"),
        ("query", "q"),
        ("limit", "limit"),
    ],
)
def test_params_are_named_as_clients_write_them(param: str, wire: str) -> None:
    assert body_of(errors.InvalidInput("m", param=param)).param == wire


def test_options_are_those_of_a_run() -> None:
    options: set[Any] = {field.name for field in fields(RunOptions)} - {"output_type", "surface"} | {"on_busy"}
    assert set(ChatOptions.model_fields) == options
    assert {API_PARAMS[name] for name in options} == {
        f"options.{field.alias}" for field in ChatOptions.model_fields.values()
    }
