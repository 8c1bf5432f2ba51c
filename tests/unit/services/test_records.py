from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.domain.models.approvals import ApprovalRequest
from app.domain.models.conversations import Caller
from app.domain.models.deliveries import Scrubbing
from app.domain.models.events import RunCancelled, RunCompleted, RunFailed, RunWaiting, SequencedEvent, TextDelta
from app.domain.models.runs import ErrorInfo, Run, RunBatch, RunOptions, RunOutcome, RunStatus
from app.domain.models.usage import CallUsage, Price, TokenUsage
from app.domain.scrubbing import Scrubber
from app.services.records import build_record, user_text

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def run(**changes: Any) -> Run:
    base = Run(
        id="run_1",
        conversation_id="conv_1",
        caller=Caller("acme", "ada"),
        agent="scribe",
        position=1,
        input=({"role": "user", "content": "a secret question"},),
        options=RunOptions(metadata={"ticket": 7}),
        stream=False,
        session_id="acme:conv_1",
        provider_conversation_id=None,
        session_mode="local",
        fence=1,
        attempts=1,
        created_at=NOW,
    )
    return replace(base, **changes)


def call(model: str, tokens: TokenUsage, **changes: Any) -> CallUsage:
    return replace(CallUsage("/m1", "scribe", model, "success", "exact", tokens, NOW, 10, None), **changes)


def outcome(status: RunStatus = RunStatus.COMPLETED, **changes: Any) -> RunOutcome:
    base = RunOutcome(status, "poet", "an answer", "an answer", (), (), (), (), (), "trace", NOW, None, None)
    return replace(base, **changes)


CALLS = (
    call("priced", TokenUsage(1, 10, 4, 0, 5, 2), price=Price(Decimal("1.0"), "v1")),
    call("free", TokenUsage(1, 1, 0, 0, 1)),
)


def record(result: RunOutcome, given: Run | None = None, calls: Any = CALLS) -> Any:
    rest = RunBatch(events=(SequencedEvent(8, TextDelta("an", "msg")),))
    return build_record(given or run(), result, calls, rest, 8, NOW)


def cancelled(reason: str) -> ErrorInfo:
    return ErrorInfo("run_cancelled", "", {"reason": reason})


def test_usage_is_summed_and_priced_where_there_is_a_price() -> None:
    result = record(outcome()).result
    assert result.usage == TokenUsage(2, 11, 4, 0, 6, 2)
    assert result.cost_usd == Decimal("1.0")
    assert [one.price.version if one.price else None for one in result.calls] == ["v1", None]


def test_no_price_is_not_zero() -> None:
    assert record(outcome(), calls=[call("free", TokenUsage(1, 5))]).result.cost_usd is None


def test_the_terminal_event_is_the_next_and_the_last() -> None:
    events = record(outcome()).rest.events
    assert [event.sequence for event in events] == [8, 9]
    assert isinstance(events[-1].event, RunCompleted)
    assert events[-1].event.cost_usd == "1.0"


@pytest.mark.parametrize(
    ("status", "error", "kind", "told"),
    [
        (RunStatus.COMPLETED, None, RunCompleted, "success"),
        (RunStatus.FAILED, ErrorInfo("agent_failed", "broke"), RunFailed, "error"),
        (RunStatus.FAILED, ErrorInfo("provider_timeout", "slow"), RunFailed, "timeout"),
        (RunStatus.FAILED, None, RunFailed, "error"),
        (RunStatus.FAILED, cancelled("process_lost"), RunFailed, "error"),
        (
            RunStatus.CANCELLED,
            ErrorInfo("run_cancelled", "", {"reason": "interrupted"}),
            RunCancelled,
            "user_terminated",
        ),
        (RunStatus.CANCELLED, ErrorInfo("run_cancelled", "", {"reason": "timeout"}), RunCancelled, "timeout"),
        (RunStatus.CANCELLED, ErrorInfo("run_cancelled", "", {"reason": "user"}), RunCancelled, "user_terminated"),
    ],
)
def test_how_a_run_ended(status: RunStatus, error: ErrorInfo | None, kind: type, told: str) -> None:
    made = record(outcome(status, error=error))
    assert isinstance(made.rest.events[-1].event, kind)
    assert made.completion.outcome == told
    assert made.completion.payload["outcome"]["status"] == told


def test_the_completion_event_holds_no_content() -> None:
    completion = record(outcome()).completion
    assert "secret" not in str(completion)
    assert "an answer" not in str(completion)
    assert completion.payload["metadata"] == {"ticket": 7}
    assert completion.payload["usage"]["total_tokens"] == 17
    assert completion.payload["usage"]["cost_usd"] == "1.0"
    assert completion.payload["message_count"] == 2


def test_messages_for_people() -> None:
    assert [(message.role, message.text) for message in record(outcome()).messages] == [
        ("user", "a secret question"),
        ("assistant", "an answer"),
    ]
    assert [message.role for message in record(outcome(RunStatus.FAILED)).messages] == ["user"]


def test_pictures_are_named_and_titles_are_cut_at_a_word() -> None:
    parts = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "data:…"}]
    assert user_text([{"role": "user", "content": parts}]) == "look\n[image]"
    long = run(input=({"role": "user", "content": "word " * 40},))
    title = record(outcome(), long).title
    assert len(title) <= 80
    assert title.endswith("word…")
    assert record(outcome(), run(input=({"type": "function_call_output"},))).title is None


def test_a_run_that_waits_has_not_ended() -> None:
    asked = ApprovalRequest("/t:c1", "c1", "delete", '{"file": "a secret"}', "poet")
    made = record(outcome(RunStatus.WAITING, output=None, approvals=(asked,)))
    told = made.completion
    assert (told.type, told.outcome, told.run_id, told.session_id) == (
        "approval.requested",
        "success",
        "run_1",
        "conv_1",
    )
    assert told.payload["tools"] == ["delete"]
    assert told.payload["approvals"] == [
        {"id": "c1", "step": "/t:c1", "tool": "delete", "agent": "poet", "scope": ""},
    ]
    assert told.payload["metadata"] == {"ticket": 7}
    assert made.result.approvals == (asked,)
    assert isinstance(made.rest.events[-1].event, RunWaiting)
    assert made.rest.events[-1].event.approvals == 1


@pytest.mark.parametrize("allowed", [False, True])
def test_what_a_tool_would_be_called_with_leaves_where_content_may(allowed: bool) -> None:
    asked = ApprovalRequest("/t:c1", "c1", "delete", '{"file": "a secret"}', "poet")
    payload = record(outcome(RunStatus.WAITING, output=None, approvals=(asked,))).completion.payload
    assert ("a secret" in str(Scrubber(Scrubbing(content=allowed)).scrub(payload))) is allowed
