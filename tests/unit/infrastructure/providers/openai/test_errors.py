"""Every exception of the two dependencies has a translation of its own; a new one without fails here."""

import inspect
from types import SimpleNamespace
from typing import Any

import agents
import agents.exceptions
import httpx2
import openai
import pytest

from app.domain.errors import (
    AgentFailed,
    AppError,
    GuardrailTripped,
    InvalidInput,
    LeaseLost,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
    RateLimited,
    TurnLimitReached,
)
from app.infrastructure.providers.openai import errors
from app.infrastructure.providers.openai.errors import translate

TOO_GENERAL = {openai.OpenAIError, agents.exceptions.AgentsException, ValueError, Exception}


def exported(module: Any, package: str) -> list[type[BaseException]]:
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = [getattr(module, name) for name in names]
    return sorted(
        {
            one
            for one in found
            if inspect.isclass(one) and issubclass(one, BaseException) and one.__module__.split(".")[0] == package
        },
        key=lambda one: one.__name__,
    )


FOREIGN = sorted(
    {*exported(openai, "openai"), *exported(agents.exceptions, "agents"), *exported(agents, "agents")},
    key=lambda one: one.__name__,
)


def test_the_walk_finds_them() -> None:
    names = {one.__name__ for one in FOREIGN}
    assert {"APITimeoutError", "RateLimitError", "MaxTurnsExceeded", "UserError", "MCPToolCancellationError"} <= names
    assert len(FOREIGN) >= 30


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda one: one.__name__)
def test_each_has_a_translation_that_was_chosen_for_it(foreign: type[BaseException]) -> None:
    chosen = next(kind for kind in foreign.__mro__ if kind in errors._TRANSLATORS)
    assert chosen is foreign or chosen not in TOO_GENERAL, f"{foreign.__name__} has no translation of its own"
    blank = foreign.__new__(foreign)
    if isinstance(blank, openai.APIStatusError):
        blank = status_error(500)
    elif "Tripwire" in foreign.__name__:
        guardrail = SimpleNamespace(get_name=lambda: "polite")
        blank.guardrail = guardrail
        blank.guardrail_result = SimpleNamespace(guardrail=guardrail)
    elif isinstance(blank, agents.exceptions.ToolTimeoutError):
        blank.tool_name = "slow"
    ours = translate(blank)
    assert isinstance(ours, AppError)
    assert ours.public_message


def status_error(status: int, *, headers: Any = None, **body: Any) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://localhost/v1/responses")
    response = httpx2.Response(status, headers={"x-request-id": "req_1", **(headers or {})}, request=request)
    return openai.APIStatusError("secret text", response=response, body=body)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, ProviderRejected, False),
        (401, ProviderRejected, False),
        (403, ProviderRejected, False),
        (404, ProviderRejected, False),
        (408, ProviderTimeout, True),
        (409, ProviderTimeout, True),
        (413, ProviderRejected, False),
        (422, ProviderRejected, False),
        (429, RateLimited, True),
        (500, ProviderError, True),
        (502, ProviderError, True),
        (504, ProviderTimeout, True),
    ],
)
def test_statuses(status: int, kind: type[ProviderError], retryable: bool) -> None:
    ours = translate(status_error(status))
    assert type(ours) is kind
    assert isinstance(ours, ProviderError)
    assert ours.retryable is retryable
    assert ours.request_id == "req_1"
    assert "secret" not in ours.public_message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    ours = translate(status_error(429, headers=headers))
    assert isinstance(ours, RateLimited)
    assert ours.retry_after_s == seconds


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_a_used_up_quota_is_not_retryable(code: str) -> None:
    ours = translate(status_error(429, code=code))
    assert isinstance(ours, RateLimited)
    assert ours.retryable is False


def connection_error(cause: Exception | None) -> openai.APIConnectionError:
    error = openai.APIConnectionError(request=httpx2.Request("POST", "http://localhost"))
    error.__cause__ = cause
    return error


def test_how_far_a_connection_came() -> None:
    assert isinstance(translate(connection_error(None)), ProviderTimeout)
    assert isinstance(translate(connection_error(httpx2.ConnectError("x"))), ProviderTimeout)
    cut = translate(connection_error(httpx2.RemoteProtocolError("x")))
    assert type(cut) is ProviderError
    assert cut.retryable


def test_what_a_tool_raised_is_found_inside_the_sdk_s_error() -> None:
    def wrapped(cause: Exception) -> AppError:
        error = agents.UserError("Error running tool x: secret")
        error.__cause__ = cause
        return translate(error)

    assert isinstance(wrapped(KeyError("secret")), AgentFailed)
    lost = LeaseLost("gone")
    assert wrapped(lost) is lost
    assert isinstance(wrapped(status_error(429)), RateLimited)
    assert isinstance(translate(agents.UserError("wrong")), InvalidInput)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Responses stream ended with terminal event `response.incomplete`. x", ProviderRejected),
        ("Responses stream ended with terminal event `response.failed`.", ProviderError),
        ("Responses stream ended with terminal event `error`.", ProviderError),
        ("Tool x not found in agent a", AgentFailed),
    ],
)
def test_how_an_answer_ended(text: str, kind: type[AppError]) -> None:
    assert type(translate(agents.ModelBehaviorError(text))) is kind


def test_others() -> None:
    assert isinstance(translate(agents.MaxTurnsExceeded("x")), TurnLimitReached)
    for error in (
        RuntimeError("secret"),
        ValueError("secret"),
        KeyError(),
        UnicodeEncodeError("utf-8", "a", 0, 1, "x"),
    ):
        ours = translate(error)
        assert isinstance(ours, AgentFailed)
        assert "secret" not in ours.public_message
    ours = GuardrailTripped("no", guardrail="g")
    assert translate(ours) is ours
