"""Faults of the model's endpoint as a client of ours meets them, and what they leave behind: nothing half-written."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent, ModelSettings, function_tool

from app.infrastructure.telemetry.logs import configure_logs
from tests.api.serving import Served
from tests.fakes.openai import Call, FakeOpenAI, Text, failed

SECRET = "upstream-internal-detail-8731"


@function_tool
def look_up(word: str) -> str:
    """Look up."""
    return f"{word} means something"


def agent() -> Agent[Any]:
    return Agent(name="helper", model="gpt-4.1", tools=[look_up], model_settings=ModelSettings(include_usage=True))


async def serve_fake(serve: Callable[..., Any], fake: FakeOpenAI, **endpoint: Any) -> Served:
    settings = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "max_retries": 0, **endpoint}
    return await serve(agent(), openai=settings)


def rate_limited(fake: FakeOpenAI) -> None:
    fake.fail_next(429, headers={"retry-after": "7"}, message=SECRET)


def out_of_quota(fake: FakeOpenAI) -> None:
    fake.fail_next(429, code="insufficient_quota", message=SECRET)


def broken(fake: FakeOpenAI) -> None:
    fake.fail_next(500, message=SECRET)


def bad_key(fake: FakeOpenAI) -> None:
    fake.fail_next(401, message=f"{SECRET} Incorrect API key provided: {fake.api_key}")


def refused(fake: FakeOpenAI) -> None:
    fake.fail_next(400, message=SECRET)


def garbage(fake: FakeOpenAI) -> None:
    fake.garbage_next()


def hangs(fake: FakeOpenAI) -> None:
    fake.hang_next()


def cut_off(fake: FakeOpenAI) -> None:
    fake.cut_next(after_events=2)


def fails_in_the_middle(fake: FakeOpenAI) -> None:
    fake.script([failed(message=SECRET)])


# The fault, the status and code of a whole answer, and the code in a stream.
FAULTS = [
    (rate_limited, 429, "rate_limit_exceeded", "rate_limit_exceeded"),
    (out_of_quota, 429, "rate_limit_exceeded", "rate_limit_exceeded"),
    (broken, 502, "provider_error", "provider_error"),
    (bad_key, 502, "provider_rejected", "provider_rejected"),
    (refused, 502, "provider_rejected", "provider_rejected"),
    (garbage, 502, "provider_rejected", "provider_error"),  # to a stream's reader it looks broken off
    (hangs, 504, "provider_timeout", "provider_timeout"),
    (cut_off, 502, "provider_error", "provider_error"),
    (fails_in_the_middle, 502, "provider_error", "provider_error"),
]


def left_behind(served: Served, conversation_id: str, error_code: str, *, refused_input: bool = False) -> None:
    """One failed run, its usage, its input in the history, and no call without its output."""
    (run,) = served.rows("SELECT * FROM agent_runs")
    assert (run["status"], run["error_code"]) == ("failed", error_code)
    usage = served.rows("SELECT * FROM agent_run_usage")
    assert run["requests"] == len(usage) > 0
    assert run["input_tokens"] == sum(row["input_tokens"] for row in usage)
    assert run["output_tokens"] == sum(row["output_tokens"] for row in usage)
    items = served.history(conversation_id)
    # What the endpoint refused for its content would be refused with every later input too, so it is not kept there.
    assert [item["content"] for item in items[:1]] == ([] if refused_input else ["hello"])
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    assert calls == outputs
    (event,) = served.rows("SELECT * FROM completion_events")
    assert event["type"] == "run.failed"


@pytest.mark.parametrize(
    ("fault", "status", "code", "streamed_code"), FAULTS, ids=lambda value: getattr(value, "__name__", None)
)
async def test_a_fault_in_a_whole_answer(
    serve: Callable[..., Any],
    fake: FakeOpenAI,
    fault: Callable[[FakeOpenAI], None],
    status: int,
    code: str,
    streamed_code: str,
) -> None:
    served = await serve_fake(serve, fake, request_timeout_s=0.3 if fault is hangs else 10.0)
    chatter = await served.session()
    fault(fake)
    reply = await chatter.chat()
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert set(body) == {"error", "run_id", "conversation_id"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    assert body["conversation_id"] == chatter.conversation_id
    assert SECRET not in reply.text
    assert fake.api_key not in reply.text
    if fault is rate_limited:
        assert reply.headers["retry-after"] == "7"
    left_behind(served, chatter.conversation_id, code, refused_input=fault is refused)
    stored = (await chatter.ask("GET", f"/api/runs/{body['run_id']}")).json()
    assert (stored["status"], stored["error"]) == ("failed", body["error"])
    fake.release()
    again = await chatter.chat("and now?")  # the conversation is whole: it goes on
    assert again.status_code == 200, again.text


@pytest.mark.parametrize(
    ("fault", "status", "code", "streamed_code"), FAULTS, ids=lambda value: getattr(value, "__name__", None)
)
async def test_a_fault_in_a_stream(
    serve: Callable[..., Any],
    fake: FakeOpenAI,
    fault: Callable[[FakeOpenAI], None],
    status: int,
    code: str,
    streamed_code: str,
) -> None:
    served = await serve_fake(serve, fake, request_timeout_s=0.3 if fault is hangs else 10.0)
    chatter = await served.session()
    fault(fake)
    async with chatter.stream() as stream:
        assert await stream.head() == 200  # the run was accepted; its end is an event
        frames = await stream.frames_until("run.failed")
        await stream.body()
    assert frames[-1].data["error"]["code"] == streamed_code
    text = b"".join(stream.bodies).decode()
    assert SECRET not in text
    assert fake.api_key not in text
    left_behind(served, chatter.conversation_id, streamed_code, refused_input=fault is refused)


async def test_a_fault_after_a_tool_keeps_the_pair(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_fake(serve, fake)
    chatter = await served.session()
    fake.script([[Call("look_up", '{"word": "x"}')]])
    fake.script([failed(message=SECRET)])
    async with chatter.stream() as stream:
        await stream.frames_until("run.failed")
    left_behind(served, chatter.conversation_id, "provider_error")
    kinds = [item.get("type", item.get("role")) for item in served.history(chatter.conversation_id)]
    assert kinds == ["user", "function_call", "function_call_output"]
    assert len(served.rows("SELECT * FROM agent_run_usage")) == 2


async def test_an_answer_is_metered(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_fake(serve, fake)
    chatter = await served.session()
    fake.script([[Call("look_up", '{"word": "x"}')], [Text("It means something.")]])
    answer = (await chatter.chat()).json()
    assert answer["output"] == "It means something."
    assert answer["models"] == ["gpt-4.1"]
    assert answer["usage"]["requests"] == 2
    rows = served.rows("SELECT * FROM agent_run_usage")
    assert answer["usage"]["totalTokens"] == sum(row["input_tokens"] + row["output_tokens"] for row in rows) > 0
    assert float(answer["usage"]["costUsd"]) > 0


async def test_nothing_secret_is_logged(
    serve: Callable[..., Any],
    fake: FakeOpenAI,
    quiet_logs: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    restored_logging: None,
) -> None:
    """As the server logs: with its own set-up, which takes secrets out of tracebacks."""
    configure_logs("debug", "json")
    served = await serve_fake(serve, fake)
    chatter = await served.session()
    bad_key(fake)
    await chatter.chat()
    written = capsys.readouterr().err
    assert "run_failed" in written
    assert fake.api_key not in written
    assert chatter.session_id not in written
    for line in written.splitlines():
        json.loads(line)


async def test_the_run_takes_too_long(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_fake(serve, fake)
    chatter = await served.session()
    fake.hang_next()
    reply = await chatter.chat(options={"timeoutS": 0.2})
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "run_timeout"
    (run,) = served.rows("SELECT status FROM agent_runs")
    assert run["status"] == "cancelled"


async def test_too_many_turns(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_fake(serve, fake)
    fake.script([[Call("look_up", '{"word": "x"}')]] * 3)
    reply = await (await served.session()).chat(options={"maxTurns": 2})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "max_turns_exceeded")


@pytest.mark.parametrize(
    "options",
    [
        {"modelSettings": {"no_such_setting": 1}},
        {"modelSettings": {"temperature": "hot"}},
    ],
)
async def test_options_that_only_the_provider_can_judge(
    serve: Callable[..., Any], fake: FakeOpenAI, options: dict[str, Any]
) -> None:
    served = await serve_fake(serve, fake)
    reply = await (await served.session()).chat(options=options)
    assert reply.status_code == 400, reply.text
    assert fake.requests == []


@pytest.mark.parametrize("content", ["x", [{"type": "input_image", "image_url": "nope"}]])
async def test_a_refused_input_does_not_break_its_conversation(
    serve: Callable[..., Any], fake: FakeOpenAI, content: Any
) -> None:
    chatter = await (await serve_fake(serve, fake)).session()
    role, status = ("banana", 400) if content == "x" else ("user", 502)
    assert (await chatter.chat([{"role": role, "content": content}])).status_code == status
    assert (await chatter.chat("hello again")).status_code == 200
