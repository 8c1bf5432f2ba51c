from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.cli.run_reports import (
    approval_object,
    call_line,
    event_line,
    event_object,
    request_line,
    result_object,
    summary_object,
    usage_line,
)
from app.domain.models.approvals import Approval, ApprovalRequest
from app.domain.models.events import (
    HandoffOccurred,
    RunCompleted,
    RunEvent,
    SequencedEvent,
    TextDelta,
    ToolOutput,
    ToolStarted,
)
from app.domain.models.runs import ErrorInfo, RunResult, RunStatus, RunSummary, Timings, ToolCallRecord
from app.domain.models.usage import CallUsage, TokenUsage

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def ended(cost: str | None = None, accuracy: str = "exact") -> RunResult:
    tokens = TokenUsage(requests=1, input_tokens=1_200, cached_tokens=1_000, output_tokens=34, reasoning_tokens=4)
    call = CallUsage("/m1", "demo", "gpt", "success", accuracy, tokens, NOON, 5, None)  # pyright: ignore[reportArgumentType]
    return RunResult(
        run_id="run_1",
        conversation_id="conv_1",
        agent="demo",
        status=RunStatus.FAILED,
        output=None,
        items=(),
        tool_calls=(),
        handoffs=(),
        usage=tokens,
        calls=(call,),
        cost_usd=None if cost is None else Decimal(cost),
        response_ids=(),
        timings=Timings(NOON, NOON, NOON + timedelta(seconds=1.5), None),
        trace_id=None,
        error=ErrorInfo("rate_limit_exceeded", "Too fast.", {"retry_after_s": 2}),
    )


def test_the_usage_line_tells_what_is_known() -> None:
    assert usage_line(ended()) == "1,234 tokens (1,200 in, 34 out) · no price · 1.5 s"
    assert usage_line(ended("0.0012", "estimated")) == "~1,234 tokens (1,200 in, 34 out) · $0.0012 · 1.5 s"


def test_a_failed_run_as_an_object() -> None:
    told = result_object(ended("0.00120"))
    assert told["usage"]["cost_usd"] == "0.0012"
    assert (told["status"], told["model"], told["duration_ms"]) == ("failed", "gpt", 1_500)
    assert told["error"] == {"code": "rate_limit_exceeded", "message": "Too fast.", "details": {"retry_after_s": 2}}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ToolStarted("c", "find", '{"q":\n"x"}', "demo"), '→ find {"q": "x"}'),
        (ToolOutput("c", "find", "y" * 500, "demo", 12, scope="/t:1"), f"  ← find: {'y' * 159}… (12 ms)"),
        (HandoffOccurred("demo", "poet"), "⇢ demo hands over to poet"),
        (TextDelta("hello", "m"), None),
        (RunCompleted("r", "c", "demo", "hello", TokenUsage(), None, 1), None),
    ],
)
def test_events_as_lines(event: RunEvent, line: str | None) -> None:
    assert event_line(event) == line


def test_an_event_as_an_object() -> None:
    told = event_object(SequencedEvent(3, TextDelta("hello", "msg_1")))
    assert told == {"sequence": 3, "type": "text.delta", "delta": "hello", "item_id": "msg_1", "scope": ""}


REQUEST = ApprovalRequest("/t:call_1", "call_1", "delete", '{"path":\n"/"}', "demo")


def test_a_request_names_who_wants_what() -> None:
    assert request_line(REQUEST) == '? demo wants to call delete {"path": "/"}'


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (ToolCallRecord("c", "find", "{}", "it", "demo", 5), "find {} → it (5 ms)"),
        (ToolCallRecord("c", "find", "{}", None, "demo", None), "find {} → did not finish"),
        (ToolCallRecord("c", "find", "{}", "it", "demo", 1_500, "/t:x"), "  find {} → it (1.5 s)"),
    ],
)
def test_tool_calls_as_lines(call: ToolCallRecord, line: str) -> None:
    assert call_line(call) == line


def test_times_that_are_not_known_are_null() -> None:
    run = RunSummary("run_1", "conv_1", "demo", RunStatus.QUEUED, 1, None, "user", None, NOON, None, None)
    told = summary_object(run)
    assert (told["run_id"], told["status"], told["cancel_reason"]) == ("run_1", "queued", "user")
    assert (told["created_at"], told["started_at"], told["finished_at"]) == (NOON.isoformat(), None, None)

    approval = Approval("run_1", "conv_1", REQUEST, "pending", False, None, None, NOON, NOON, None)  # noqa: FBT003
    shown = approval_object(approval)
    assert (shown["call_id"], shown["step"], shown["tool"], shown["state"]) == (
        "call_1",
        "/t:call_1",
        "delete",
        "pending",
    )
    assert (shown["expires_at"], shown["decided_at"]) == (NOON.isoformat(), None)
