"""A real endpoint over HTTP: both wire APIs, exact usage, typed errors, one owner of retries, and no leaks."""

import socket
from typing import Any

import pytest
from agents import Agent, function_tool
from openai import AsyncOpenAI

from app.domain.models.runs import RunStatus
from app.domain.models.usage import TokenUsage
from app.infrastructure.providers.openai.endpoint import EndpointOptions
from app.infrastructure.providers.openai.provider import ProviderOptions
from tests.fakes.openai import Call, FakeOpenAI, Reasoning, Reply, Text, Usage, failed, incomplete
from tests.provider.serving import Ran, endpoint

APIS = ["responses", "chat_completions"]
PATHS = {"responses": "/responses", "chat_completions": "/chat/completions"}
PROMPT = "a prompt that nobody else may read"


@function_tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_usage_is_exact(serve: Any, fake: FakeOpenAI, api: str, stream: bool) -> None:
    reply = [Reasoning("hm hm"), "said"] if api == "responses" else ["said"]
    fake.script([[Call("double", {"number": 4}, "call_1")], lambda _ask: with_usage(reply)])
    served = await serve(Agent(name="a", tools=[double]), options=endpoint(fake, api=api))
    ran = await served.run(PROMPT, stream=stream)
    assert ran.result.output == "said", ran.result.error
    first, second = ran.result.calls
    assert first.accuracy == second.accuracy == "exact"
    assert second.tokens == TokenUsage(
        requests=1, input_tokens=900, cached_tokens=600, cache_write_tokens=200, output_tokens=70, reasoning_tokens=30
    )
    assert first.tokens.input_tokens > 0
    assert first.tokens.output_tokens > 0
    assert ran.result.usage == first.tokens + second.tokens
    assert ran.result.cost_usd is not None
    assert fake.count(PATHS[api]) == 2
    assert {call.model for call in ran.result.calls} == {"gpt-4.1-mini"}
    assert len(ran.result.response_ids) == (2 if api == "responses" else 0)


def with_usage(parts: list[Any]) -> Any:
    whole = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    return Reply(whole, usage=Usage(input=900, output=70, cached=600, cache_write=200, reasoning=30))


@pytest.mark.parametrize(("responses", "path"), [(True, "/responses"), (False, "/chat/completions")])
async def test_the_wire_api_is_asked_for_once(serve: Any, responses: bool, path: str) -> None:
    with FakeOpenAI(responses=responses) as fake:
        served = await serve(Agent(name="a"), options=endpoint(fake, api="auto"))
        for stream in (False, True, False):
            ran = await served.run("hi", stream=stream)
            assert ran.result.output == "echo 1: hi"
            assert ran.result.calls[0].accuracy == "exact"
        await served.run("hi", model="gpt-4.1")
        probes = [request for request in fake.requests if request.body == {}]
        assert [request.path for request in probes] == ["/v1/responses"]
        assert fake.count(path) - responses == 4


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_a_refused_probe_decides_nothing(serve: Any, fake: FakeOpenAI, status: int) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api="auto"))
    fake.fail_next(status, times=2)
    assert (await served.run("hi")).result.status is RunStatus.FAILED
    assert (await served.run("hi")).result.output == "echo 1: hi"
    assert len([request for request in fake.requests if request.body == {}]) == 2


def error_of(ran: Ran, code: str) -> Any:
    assert ran.result.status is RunStatus.FAILED
    error = ran.result.error
    assert error is not None
    assert error.code == code
    return error


def leaks(text: str, fake: FakeOpenAI) -> bool:
    return fake.api_key in text or PROMPT in text or "told to fail" in text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("status", "fault", "code", "details"),
    [
        (400, {"code": "context_length_exceeded"}, "provider_rejected", {"retryable": False, "upstream_status": 400}),
        (401, {}, "provider_rejected", {"retryable": False, "upstream_status": 401}),
        (403, {}, "provider_rejected", {"retryable": False, "upstream_status": 403}),
        (404, {"code": "model_not_found"}, "provider_rejected", {"retryable": False, "upstream_status": 404}),
        (413, {}, "provider_rejected", {"retryable": False, "upstream_status": 413}),
        (429, {"headers": {"retry-after": "7"}}, "rate_limit_exceeded", {"retryable": True, "retry_after_s": 7.0}),
        (
            429,
            {"headers": {"retry-after-ms": "250"}},
            "rate_limit_exceeded",
            {"retryable": True, "retry_after_s": 0.25},
        ),
        (429, {"code": "insufficient_quota"}, "rate_limit_exceeded", {"retryable": False}),
        (500, {}, "provider_error", {"retryable": True}),
        (503, {}, "provider_error", {"retryable": True}),
        (504, {}, "provider_timeout", {"retryable": True}),
    ],
)
async def test_errors_are_typed(
    serve: Any,
    fake: FakeOpenAI,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    *,
    api: str,
    status: int,
    fault: dict[str, Any],
    code: str,
    details: dict[str, Any],
    stream: bool,
) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api))
    fake.fail_next(status, message=f"told to fail by {PROMPT} {fake.api_key}", **fault)
    ran = await served.run(PROMPT, stream=stream)
    error = error_of(ran, code)
    assert error.details.pop("request_id").startswith("req_")
    assert error.details == details
    (call,) = ran.result.calls
    assert (call.outcome, call.accuracy, call.tokens) == ("error", "exact", TokenUsage(requests=1))
    told = [error.message, str(ran.events[-1]), capfd.readouterr().out, capfd.readouterr().err, caplog.text]
    assert not any(leaks(text, fake) for text in told)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_the_client_alone_retries(serve: Any, fake: FakeOpenAI, api: str, stream: bool) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api, max_retries=2))
    fake.fail_next(500, times=2, headers={"retry-after-ms": "1"})
    ran = await served.run("hi", stream=stream)
    assert ran.result.output == "echo 1: hi"
    assert fake.count(PATHS[api]) == 3
    assert len(ran.result.calls) == 1

    fake.fail_next(503, times=5, headers={"retry-after-ms": "1"})
    error_of(await served.run("hi", stream=stream), "provider_error")
    assert fake.count(PATHS[api]) == 6


@pytest.mark.parametrize("api", APIS)
async def test_a_used_up_quota_is_not_hidden_by_retries(serve: Any, fake: FakeOpenAI, api: str) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api, max_retries=1))
    fake.fail_next(429, code="insufficient_quota", times=2, headers={"retry-after-ms": "1"})
    error = error_of(await served.run("hi"), "rate_limit_exceeded")
    assert error.details["retryable"] is False


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_garbage(serve: Any, fake: FakeOpenAI, capfd: Any, api: str, stream: bool) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api))
    fake.garbage_next()
    ran = await served.run(PROMPT, stream=stream)
    assert ran.result.error is not None
    assert ran.result.error.code in {"provider_rejected", "provider_error"}
    assert not leaks(capfd.readouterr().out, fake)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_no_answer_in_time(serve: Any, fake: FakeOpenAI, api: str, stream: bool) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api, request_timeout_s=0.2))
    fake.hang_next()
    ran = await served.run("hi", stream=stream)
    assert error_of(ran, "provider_timeout").details["retryable"] is True
    assert [call.outcome for call in ran.result.calls] == ["timeout"]


@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_stands_still(serve: Any, fake: FakeOpenAI, api: str) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api, request_timeout_s=0.2))
    fake.script(["one two three four five six"])
    fake.hang_next(after_events=7)
    ran = await served.run("hi", stream=True)
    error_of(ran, "provider_timeout")
    (call,) = ran.result.calls
    assert (call.outcome, call.accuracy) == ("timeout", "estimated")
    assert call.tokens.output_tokens > 0


@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_is_cut(serve: Any, fake: FakeOpenAI, api: str) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api))
    fake.script(["one two three four five six"])
    fake.cut_next(after_events=7)
    ran = await served.run("hi", stream=True)
    assert error_of(ran, "provider_error").details["retryable"] is True
    (call,) = ran.result.calls
    assert (call.outcome, call.accuracy) == ("error", "estimated")
    assert call.tokens.output_tokens > 0
    assert ran.kinds == ["user"]


@pytest.mark.parametrize("api", APIS)
async def test_a_plain_answer_that_is_cut(serve: Any, fake: FakeOpenAI, api: str) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api))
    fake.cut_next()
    error_of(await served.run("hi"), "provider_error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", [*APIS, "auto"])
async def test_nobody_listens(serve: Any, api: str, stream: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = EndpointOptions(
        api_key="sk-x", base_url=f"http://127.0.0.1:{port}/v1", api=api, max_retries=0, default_model="gpt-4.1"
    )
    served = await serve(Agent(name="a"), options=ProviderOptions(endpoint=options))
    ran = await served.run("hi", stream=stream)
    error_of(ran, "provider_timeout")
    assert ran.result.calls[0].tokens == TokenUsage(requests=1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_in_an_answer_of_status_200(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake))
    fake.script([failed("half an answer")])
    error_of(await served.run("hi", stream=stream), "provider_error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_a_failing_model_over_both_wires(serve: Any, fake: FakeOpenAI, api: str, stream: bool) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api))
    fake.script([failed()])
    error_of(await served.run("hi", stream=stream), "provider_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_a_limit_cut_is_refused(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake))
    fake.script([incomplete("as far as it came")])
    ran = await served.run("hi", stream=stream)
    assert "before its answer was complete" in error_of(ran, "provider_rejected").message
    assert ran.kinds == ["user"]
    assert ran.result.calls[0].tokens.input_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_completion_that_a_limit_cut_is_an_answer(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api="chat_completions"))
    fake.script([incomplete("as far as it came")])
    ran = await served.run("hi", stream=stream)
    assert ran.result.output == "as far as it came", ran.result.error
    assert ran.result.calls[0].accuracy == "exact"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_of_reasoning_alone_is_none(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake))
    fake.script([Reasoning("thinking and thinking")])
    ran = await served.run("hi", stream=stream)
    error_of(ran, "provider_rejected")
    assert ran.result.usage.output_tokens > 0
    assert ran.kinds == ["user"]


@pytest.mark.parametrize("api", APIS)
async def test_surrogates_are_the_caller_s_fault(serve: Any, fake: FakeOpenAI, api: str) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api))
    error_of(await served.run([{"role": "user", "content": "odd \ud83d"}]), "invalid_value")


async def test_a_client_of_the_caller_s_own_stays_open(serve: Any, fake: FakeOpenAI) -> None:
    async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0) as client:
        options = ProviderOptions(endpoint=EndpointOptions(default_model="gpt-4.1"))
        served = await serve(Agent(name="a"), client=client, options=options)
        assert (await served.run("hi")).result.output == "echo 1: hi"
        await served.provider.aclose()
        assert not client.is_closed()
    served = await serve(Agent(name="a"), options=endpoint(fake))
    await served.run("hi")
    await served.provider.aclose()
    assert served.provider._models.client.is_closed()


@pytest.mark.parametrize("api", APIS)
async def test_ids_that_an_endpoint_repeats(serve: Any, fake: FakeOpenAI, api: str) -> None:
    """`call_0` in every answer, twice in one of them, in this run and the next: no pair is lost."""
    served = await serve(Agent(name="a", tools=[double]), options=endpoint(fake, api=api))
    one = Call("double", {"number": 1}, "call_0")
    conversation: str | None = None
    for turn in range(1, 4):
        fake.script([[one, Call("double", {"number": 2}, "call_0")], [one], f"end {turn}"])
        ran = await served.run("go", to=conversation, stream=turn == 2)
        assert ran.result.output == f"end {turn}", ran.result.error
        assert [call.output for call in ran.result.tool_calls] == ["2", "4", "2"]
        conversation = ran.result.conversation_id
    body = fake.requests[-1].body
    sent = body.get("input") or body["messages"]
    if api == "responses":
        calls = [item["call_id"] for item in sent if item.get("type") == "function_call"]
        outputs = [item["call_id"] for item in sent if item.get("type") == "function_call_output"]
    else:
        calls = [call["id"] for message in sent for call in message.get("tool_calls", [])]
        outputs = [message["tool_call_id"] for message in sent if message["role"] == "tool"]
    assert len(calls) == len(set(calls)) == 9
    assert sorted(calls) == sorted(outputs)


async def test_an_id_repeated_out_of_sight_loses_no_pair_later(serve: Any, fake: FakeOpenAI) -> None:
    """The second run is shown no history and so stores the same id; the third sees both pairs."""
    served = await serve(Agent(name="a", tools=[double]), options=endpoint(fake))
    first = await _with_a_tool(served, fake, None)
    await _with_a_tool(served, fake, first.result.conversation_id, history_items=0)
    fake.script(["fine"])
    ran = await served.run("and now", to=first.result.conversation_id)
    assert ran.result.output == "fine"
    sent = fake.requests[-1].body["input"]
    assert [item.get("type") for item in sent].count("function_call_output") == 2
    assert len({item["call_id"] for item in sent if "call_id" in item}) == 2


async def _with_a_tool(served: Any, fake: FakeOpenAI, conversation: str | None, **options: Any) -> Ran:
    fake.script([[Call("double", {"number": 1}, "call_0")], "done"])
    return await served.run("go", to=conversation, **options)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_without_an_id_get_one(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    served = await serve(Agent(name="a", tools=[double]), options=endpoint(fake))
    fake.script([[Call("double", {"number": 3}, "")], "six"])
    ran = await served.run("go", stream=stream)
    assert ran.result.output == "six", ran.result.error
    assert ran.result.tool_calls[0].call_id
